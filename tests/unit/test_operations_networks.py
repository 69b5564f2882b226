# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks and names on a host in memory: made, followed, removed, and nothing of others touched."""

from __future__ import annotations

import asyncio
import shutil
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from acting import REPORTER, apply, create, declare, nothing_left, web
from fakes import FakeHost
from machines.declare.fleet import FLEET_FILE
from machines.declare.networks import own_network_file
from machines.errors import Conflict, InvalidFile, MachctlError, NotFound
from machines.host import guest
from machines.model.frozen import replace
from machines.model.network import DeclaredNetwork
from machines.model.observed import Link
from machines.operations import fleet, fleetplan
from machines.operations.names import keep_names
from machines.operations.networks import create_network, network_row, network_rows, remove_network
from machines.operations.observe import observe
from machines.operations.records import read_networks
from machines.operations.remove import remove
from machines.plan.names import block_of
from machines.render import paths

LAB = DeclaredNetwork("lab", subnet=IPv4Network("10.213.5.0/24"))
RESOLVED = "systemd-resolved.service"


def make(host: FakeHost, network: DeclaredNetwork = LAB) -> None:
    asyncio.run(create_network(network, host, REPORTER, dry_run=False))


def drop(host: FakeHost, name: str = "lab") -> None:
    asyncio.run(remove_network(name, host, REPORTER, dry_run=False))


def planned(host: FakeHost) -> dict[str, list[str]]:
    return {
        name: [str(step) for step in plan]
        for name, plan in fleetplan.fleet_plan([], host, verb="plan").plans.items()
        if plan
    }


def enabled(host: FakeHost, name: str = "lab") -> None:
    """What systemd does when it enables the unit of a bridge."""
    host.files.texts[f"/etc/systemd/system/multi-user.target.wants/machctl-bridge@{name}.service"] = "[Unit]"


def test_network_comes_and_goes_whole() -> None:
    host = FakeHost()
    make(host)
    enabled(host)
    assert planned(host) == {}
    (row,) = network_rows(host)
    assert (row["name"], row["subnet"], row["declared"], row["machines"]) == (
        "lab", "10.213.5.0/24", own_network_file("lab"), [],
    )  # fmt: skip
    drop(host)
    host.files.texts.pop("/etc/systemd/system/multi-user.target.wants/machctl-bridge@lab.service", None)
    assert nothing_left(host)


def test_network_of_a_name_that_is_taken_is_refused() -> None:
    host = FakeHost()
    make(host)
    enabled(host)
    with pytest.raises(Conflict, match="network lab is declared in"):
        make(host)
    host.bridges["docker0"] = Link("docker0", "bridge")
    with pytest.raises(Conflict, match="machctl did not make it"):
        make(host, DeclaredNetwork("docker0"))
    host.files.texts[own_network_file("x")] = ""
    with pytest.raises(Conflict, match="is there already"):
        make(host, DeclaredNetwork("x"))


def test_network_with_a_machine_on_it_stays() -> None:
    host = FakeHost()
    make(host)
    create(host, web(bridges=("lab",)))
    with pytest.raises(Conflict, match="network lab has machines on it: web"):
        drop(host)
    assert network_row("lab", host)["addresses"] == {
        "web": ["10.213.5.2", read_networks(host)["lab"].subnet6[2].__str__()]
    }
    asyncio.run(remove("web", host, REPORTER, force=False, dry_run=False))
    # Only those go with their last machine that nobody declared.
    assert "lab" in read_networks(host)


def test_network_that_machines_made_can_be_declared_and_keeps_its_subnet() -> None:
    host = FakeHost()
    create(host, web(bridges=("lab",)))
    before = read_networks(host)["lab"]
    with pytest.raises(Conflict, match="and machines on it: web"):
        make(host)
    make(host, DeclaredNetwork("lab", mode="isolated"))
    after = read_networks(host)["lab"]
    assert (after.subnet, after.subnet6, after.mode) == (before.subnet, before.subnet6, "isolated")


def test_network_is_made_with_the_machine_that_is_the_first_on_it() -> None:
    host = FakeHost()
    host.files.texts[FLEET_FILE] = "[networks.lab]\nsubnet = '10.213.5.0/24'\nmode = 'routed'\n"
    create(host, web(bridges=("lab",)))
    network = read_networks(host)["lab"]
    assert (str(network.subnet), network.mode, network.origin) == ("10.213.5.0/24", "routed", FLEET_FILE)


def test_apply_follows_a_network_and_its_machines_move_along() -> None:
    host = FakeHost()
    host.files.texts[own_network_file("lab")] = "[networks.lab]\nsubnet = '10.213.5.0/24'\n"
    declare(host, "a", 'bridges = ["lab"]')
    apply(host)
    enabled(host)
    assert planned(host) == {}
    host.files.texts[own_network_file("lab")] = "[networks.lab]\nsubnet = '10.213.6.0/24'\n"
    assert "record bridge lab with subnet 10.213.6.0/24" in planned(host)["network lab"]
    apply(host)
    assert network_row("lab", host)["addresses"]["a"][0] == "10.213.6.2"
    assert planned(host) == {}


def test_network_does_not_move_with_some_of_its_machines_only() -> None:
    host = FakeHost()
    host.files.texts[own_network_file("lab")] = "[networks.lab]\nsubnet = '10.213.5.0/24'\n"
    for name in ("a", "b"):
        declare(host, name, 'bridges = ["lab"]')
    apply(host)
    host.files.texts[own_network_file("lab")] = "[networks.lab]\nsubnet = '10.213.6.0/24'\n"
    with pytest.raises(Conflict, match="has other machines on it: b"):
        fleetplan.fleet_plan(["a"], host, verb="apply")
    edit = fleet.change("a", lambda found: found, host, REPORTER, dry_run=False)
    with pytest.raises(Conflict, match="has other machines on it: b"):
        asyncio.run(edit)
    assert str(read_networks(host)["lab"].subnet) == "10.213.5.0/24"
    assert "network lab" in fleetplan.fleet_plan(["a", "b"], host, verb="apply").plans
    apply(host)
    assert network_row("lab", host)["addresses"]["b"][0] == "10.213.6.3"


def test_network_that_is_no_longer_declared_goes_once_nobody_is_on_it() -> None:
    host = FakeHost()
    make(host)
    create(host, web(bridges=("lab",)))
    del host.files.texts[own_network_file("lab")]
    apply(host)
    assert read_networks(host)["lab"].origin == ""
    asyncio.run(remove("web", host, REPORTER, force=False, dry_run=False))
    assert read_networks(host) == {}


def test_file_that_declares_others_by_now_is_left_alone() -> None:
    host = FakeHost()
    host.files.texts[FLEET_FILE] = "[networks.lab]\n[networks.other]\n"
    apply(host)
    with pytest.raises(Conflict, match="together with others"):
        drop(host)
    host.files.texts[FLEET_FILE] = "[networks.other]\n"
    drop(host)
    assert host.files.texts[FLEET_FILE] == "[networks.other]\n"
    assert "lab" not in read_networks(host)


def test_machine_that_was_written_into_the_file_of_a_network_keeps_it() -> None:
    host = FakeHost()
    make(host)
    host.files.texts[own_network_file("lab")] += "[machines.web]\nsource = 'debian'\n"
    with pytest.raises(Conflict, match="together with others"):
        drop(host)
    assert own_network_file("lab") in host.files.texts


def test_mistake_in_a_network_stops_apply_before_anything_is_done() -> None:
    host = FakeHost()
    host.files.texts[FLEET_FILE] = "[networks.lab]\nsubnet = '10.213.5.1/24'\n"
    with pytest.raises(InvalidFile, match=r"networks\.lab\.subnet"):
        apply(host)
    assert read_networks(host) == {}


def test_network_that_is_not_there_is_not_found() -> None:
    host = FakeHost()
    host.bridges["docker0"] = Link("docker0", "bridge")
    for name, says in (("lab", "there is no network lab"), ("docker0", "the bridge of that name is not machctl's")):
        with pytest.raises(NotFound, match=says):
            network_row(name, host)
        with pytest.raises(NotFound, match=says):
            drop(host, name)


def test_resolved_is_restarted_when_networks_change_and_never_else() -> None:
    host = FakeHost()
    host.active.add(RESOLVED)
    create(host, web())
    assert host.done.count(f"reload-or-restart {RESOLVED}") == 1
    assert "DNSStubListenerExtra=" in host.files.texts[paths.RESOLVER_FILE]
    create(host, web("db", publish=()))
    assert host.done.count(f"reload-or-restart {RESOLVED}") == 1
    for name in ("web", "db"):
        asyncio.run(remove(name, host, REPORTER, force=False, dry_run=False))
    assert host.done.count(f"reload-or-restart {RESOLVED}") == 2
    assert nothing_left(host)


@pytest.mark.parametrize("fails", ["reload", "listen"])
def test_resolved_that_does_not_answer_once_it_was_reloaded_is_restarted(fails: str) -> None:
    host = FakeHost()
    host.active.add(RESOLVED)
    if fails == "reload":
        host.failing.add(f"reload-or-restart {RESOLVED}")
    else:
        host.facts.listeners = lambda: ()
    create(host, web())
    assert host.done.count(f"restart {RESOLVED}") == 1


def test_resolved_that_a_killed_run_did_not_restart_is_restarted() -> None:
    host = FakeHost()
    host.active.add(RESOLVED)
    host.failing |= {f"reload-or-restart {RESOLVED}", f"restart {RESOLVED}"}
    with pytest.raises(MachctlError):
        make(host)
    host.failing.clear()
    apply(host)
    enabled(host)
    assert host.done.count(f"reload-or-restart {RESOLVED}") == 2
    assert planned(host) == {}
    assert paths.RESOLVER_PENDING not in host.files.texts


def test_hosts_files_that_machines_keep_for_themselves_stay(tmp_path: Path) -> None:
    host = FakeHost()
    for name in ("web", "long", "gone"):
        create(host, web(name, publish=()))
        host.placed[name] = host.placed[name]._replace(path=str(tmp_path / name))
        (tmp_path / name / "etc").mkdir(parents=True)
    host.guests = guest
    far, long = tmp_path / "web/etc/hosts", tmp_path / "long/etc/hosts"
    far.symlink_to("y" * 300)
    long.write_text("x" * (guest.READ_MAX + 1))
    shutil.rmtree(tmp_path / "gone")
    asyncio.run(keep_names(host))
    assert far.is_symlink()
    assert long.stat().st_size == guest.READ_MAX + 1
    assert set(observe(host).guest_hosts) == {"gone"}


def test_names_are_kept_in_trees_until_resolved_answers_for_them() -> None:
    host = FakeHost()
    create(host, web())
    create(host, web("db", publish=()))
    inside = "/var/lib/machines/web/etc/hosts"
    assert any("db.machctl.internal" in line for line in block_of(host.guests.texts[inside]))
    assert host.files.texts["/etc/hosts"].count("web.machctl.internal") == 2
    host.active.add(RESOLVED)
    apply(host)
    assert block_of(host.guests.texts[inside]) == ()
    assert planned(host) == {}


def killed(host: FakeHost, at: str, network: DeclaredNetwork = LAB) -> None:
    """A run that ends where it asks for ``at``, as one does that is killed there."""
    host.failing = {at}
    with pytest.raises(MachctlError, match="failed"):
        make(host, network)
    host.failing = set()


@pytest.mark.parametrize("at", ["nft -f", "start machctl-bridge@lab.service", "reload networkd"])
@pytest.mark.parametrize("how", ["apply", "create"])
def test_network_that_was_killed_half_way_is_finished_by_the_next(at: str, how: str) -> None:
    host = FakeHost()
    killed(host, at)
    before = len(host.done)
    apply(host) if how == "apply" else make(host)
    assert "start machctl-bridge@lab.service" in host.done
    assert host.done[before:][-1] == "nft -f"
    enabled(host)
    assert planned(host) == {}
    with pytest.raises(Conflict, match="is declared in"):
        make(host)


def test_network_that_is_finished_keeps_what_was_written_into_its_file_by_hand() -> None:
    host = FakeHost()
    killed(host, "nft -f")
    text = "# mine\n" + host.files.texts[own_network_file("lab")]
    host.files.texts[own_network_file("lab")] = text
    make(host)
    assert host.files.texts[own_network_file("lab")] == text
    enabled(host)
    assert planned(host) == {}


def test_what_is_left_of_another_network_is_not_taken_for_this_one() -> None:
    host = FakeHost()
    killed(host, "nft -f")
    with pytest.raises(Conflict, match="is declared in"):
        make(host, DeclaredNetwork("lab", subnet=IPv4Network("10.213.6.0/24")))


@pytest.mark.parametrize("networkd", [True, False])
@pytest.mark.parametrize("change", ["subnet = '10.213.6.0/24'", "subnet = '10.213.5.0/24'\nmtu = 1400"])
def test_change_of_a_network_that_never_reached_the_kernel_is_finished(change: str, *, networkd: bool) -> None:
    host = FakeHost()
    host.active = {"systemd-networkd.service"} if networkd else set()
    make(host)
    enabled(host)
    old, bridge = dict(host.subnets), dict(host.bridges)
    host.bridges["lab"] = replace(host.bridges["lab"], mtu=1500)
    host.files.texts[own_network_file("lab")] = f"[networks.lab]\n{change}\n"
    apply(host)
    assert planned(host) == {}
    # As if the record and the files were all that was done.
    host.subnets, host.bridges = old, {"lab": replace(bridge["lab"], mtu=1500)}
    (plan,) = planned(host).values()
    assert plan == [*(["reload systemd-networkd"] if networkd else []), "restart machctl-bridge@lab.service"]
    apply(host)
    assert planned(host) == {}


def test_nft_table_that_somebody_flushed_is_loaded_by_apply_where_no_machine_is() -> None:
    host = FakeHost()
    make(host)
    enabled(host)
    host.nat = ""
    assert planned(host) == {"network lab": ["load the nft table inet machctl"]}


def test_network_manager_is_told_of_networks_before_they_are_there_and_forgets_them_after() -> None:
    host = FakeHost()
    host.missing.clear()
    host.active.add("NetworkManager.service")
    make(host)
    enabled(host)
    assert host.done.index("reload NetworkManager.service") < host.done.index("start machctl-bridge@lab.service")
    text = host.files.texts[paths.unmanaged_file("lab")]
    # With a "+" what the admin has there himself goes on to count.
    assert "\nunmanaged-devices+=interface-name:=lab;" in text
    assert planned(host) == {}
    drop(host)
    assert host.done.count("reload NetworkManager.service") == 2
    host.files.texts.pop("/etc/systemd/system/multi-user.target.wants/machctl-bridge@lab.service", None)
    assert nothing_left(host)


def test_network_manager_that_comes_later_is_told_by_apply() -> None:
    host = FakeHost()
    make(host)
    enabled(host)
    assert paths.unmanaged_file("lab") not in host.files.texts
    host.missing.clear()
    assert planned(host)["network lab"] == [f"write {paths.unmanaged_file('lab')}"]
    host.active.add("NetworkManager.service")
    assert planned(host)["network lab"][1:] == ["reload NetworkManager"]
