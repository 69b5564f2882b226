# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what is declared and what is there to the steps between them."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from machines.declare.write import write_machine
from machines.errors import Conflict
from machines.model.base import Payload
from machines.model.machine import Machine, Publish
from machines.model.names import bridge_unit, machine_unit
from machines.model.observed import Host, Link, Record
from machines.plan import machine as reasons
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.claims import split_claims, with_claims
from machines.plan.machine import plan_machine, restart_note, tree_note
from machines.plan.names import guest_lines, host_lines, with_block, without_names
from machines.render import paths
from samples import (
    BASE,
    BRIDGE,
    NETWORK,
    PAYLOAD,
    edited,
    empty_host,
    host_with,
    kinds,
    machine,
    nat_table,
    running,
    shown,
)

WEB = machine(publish=(Publish(8080, 80),))
SETTINGS = paths.settings_file("web")
SOCKET = f"{paths.UNIT_DIRECTORY}/machctl-port-web_8080.socket"
NAT = f"{paths.NAT_DIRECTORY}/machine-web.nft"
WEB_UNIT = frozenset({machine_unit("web")})


def test_new_machine_is_claimed_then_made_then_placed_then_settled() -> None:
    plan = plan_machine(WEB, empty_host(loaded=WEB_UNIT), declaration=write_machine(WEB), base=BASE)
    subnet = next(step.network.subnet for step in plan if isinstance(step, steps.ClaimNetwork))
    address = str(subnet[2])
    assert shown(plan) == [
        f"record bridge br0 with subnet {subnet}",
        f"record machine web with address {address} on br0",
        f"make the tree, a copy of base {BASE.id}",
        "write /etc/machctl/fleet.d/web.toml",
        "write /etc/systemd/system/machctl-port-web_8080.socket",
        "write /etc/systemd/system/machctl-port-web_8080.service",
        "write /var/lib/machctl/nat/machine-web.nft",
        "write /var/lib/machctl/guests/web/05-machctl-host0.network",
        "write /etc/systemd/nspawn/web.nspawn",
        "write /etc/systemd/system/systemd-nspawn@web.service.d/50-machctl.conf",
        "write /var/lib/machctl/nat/bridge-br0.nft",
        "write /var/lib/machctl/nat.nft",
        "write /etc/systemd/network/70-machctl-br0.netdev",
        "write /etc/systemd/network/70-machctl-br0.network",
        "place the tree in /var/lib/machines/web",
        "reload systemd",
        "reload systemd-networkd",
        "start machctl-bridge@br0.service",
        "load the nft table inet machctl",
        "keep the names of machines in /etc/hosts and in the trees of web",
    ]
    assert all(step.reason and step.machine == "web" for step in plan)


@pytest.mark.parametrize("declared", [machine(), WEB, machine(autostart=True, memory=2**29, cpus=1.5, hostname="www")])
def test_what_is_as_declared_needs_nothing(declared: Machine) -> None:
    assert plan_machine(declared, host_with(declared), declaration=write_machine(declared)) == []


def after(plan: list[steps.Step], declared: Machine, host: Host) -> Host:
    """``host`` once the files, records and networks of a plan are there."""
    host = with_claims(host, plan)
    files = dict(host.files)
    links, active, enabled = dict(host.links), set(host.active), dict(host.enabled)
    for step in plan:
        match step:
            case steps.WriteFile():
                files[step.path] = step.text
            case steps.RemoveFile():
                files.pop(step.path, None)
            case steps.PlaceTree():
                trees = host_with(declared, driver=step.storage).trees
                host = dataclasses.replace(host, trees={**host.trees, step.name: trees[step.name]})
            case steps.SetDisk():
                host = dataclasses.replace(host, disks={} if step.size is None else {step.machine: step.size})
            case steps.StartUnit() if step.unit.startswith("machctl-bridge@"):
                bridge = step.unit.removeprefix("machctl-bridge@").removesuffix(".service")
                links[bridge] = Link(bridge, "bridge")
                active.add(step.unit)
            case steps.KeepNames():
                files[paths.HOSTS_FILE] = with_block("", host_lines(host.records, host.networks, host.hostname))
                lines = {name: guest_lines(name, host.records, host.networks, host.hostname) for name in host.trees}
                host = dataclasses.replace(
                    host, guest_hosts={name: with_block("", found) for name, found in lines.items()}
                )
            case steps.EnableUnit():
                enabled[step.machine] = True
            case steps.DisableUnit():
                enabled[step.machine] = False
            case _:
                pass
    return dataclasses.replace(
        host,
        routes={network.subnet: network.bridge for network in host.networks.values()},
        routes6={network.subnet6: network.bridge for network in host.networks.values() if network.subnet6},
        files=files,
        links=links,
        active=frozenset(active),
        enabled=enabled,
        nat=nat_table(files),
    )


@pytest.mark.parametrize(("networkd", "driver"), [(True, "copy"), (False, "copy"), (True, "btrfs"), (True, "overlay")])
@pytest.mark.parametrize("payload", [None, PAYLOAD])
@pytest.mark.parametrize(
    "declared",
    [
        machine(),
        WEB,
        machine(autostart=True),
        machine(bridges=("br0", "br1", "br2")),
        machine(bridges=("lan0", "br0"), publish=(Publish(8080, 80),)),
        machine(ephemeral=True),
        machine(disk=2**30),
    ],
)
def test_a_plan_that_was_done_leaves_nothing_to_do(
    declared: Machine, driver: str, payload: Payload | None, *, networkd: bool
) -> None:
    host = empty_host(networkd=networkd, links={"lan0": Link("lan0", "bridge")}, storage={"auto": driver})
    base = BASE._replace(payload=payload)
    plan = plan_machine(declared, host, declaration=write_machine(declared), base=base)
    done = dataclasses.replace(after(plan, declared, host), storage={})
    assert plan_machine(declared, done, declaration=write_machine(declared)) == []
    # Nor does it matter that the base is another by now, or gone.
    assert plan_machine(declared, done, base=base._replace(id="ffffffffffff-1", payload=None)) == []


def test_hand_edit_is_shown_and_put_right() -> None:
    host = host_with(WEB)
    host = edited(host, SETTINGS, host.files[SETTINGS].replace("NotifyReady=yes", "NotifyReady=no"))
    (step,) = plan_machine(WEB, host)
    assert isinstance(step, steps.WriteFile)
    assert (step.path, step.reason) == (SETTINGS, reasons.DIFFERS)
    assert step.detail.splitlines() == ["-NotifyReady=no", "+NotifyReady=yes"]
    assert "NotifyReady=yes" in step.text


def test_line_that_looks_like_a_diffs_heading_is_shown() -> None:
    host = host_with(WEB)
    host = edited(host, SETTINGS, host.files[SETTINGS] + "--x\n")
    (step,) = plan_machine(WEB, host)
    assert step.detail.splitlines() == ["---x"]


def test_file_that_was_deleted_is_written_again() -> None:
    plan = plan_machine(WEB, edited(host_with(WEB), paths.dropin_file("web"), None))
    assert shown(plan) == [f"write {paths.dropin_file('web')}", "reload systemd"]


@pytest.mark.parametrize("loaded", [(), ("systemd-nspawn@web2.service",), ("machctl-port-web_8080.socket",)])
def test_systemd_reads_what_it_has_not_loaded_when_somebody_asks_for_it(loaded: tuple[str, ...]) -> None:
    host = edited(host_with(WEB, loaded=frozenset(loaded)), paths.dropin_file("web"), None)
    assert shown(plan_machine(WEB, host)) == [f"write {paths.dropin_file('web')}"]


def test_unit_of_a_port_that_was_stopped_systemd_has_forgotten() -> None:
    host = host_with(WEB, loaded=frozenset({"machctl-port-web_8080.socket"}))
    assert "reload systemd" not in shown(plan_machine(machine(), host))


@pytest.mark.parametrize("path", [SETTINGS, paths.dropin_file("web"), SOCKET, NAT, paths.NAT_FILE])
def test_foreign_file_in_the_way_is_a_conflict(path: str) -> None:
    with pytest.raises(Conflict, match="is there already and machctl did not write it") as caught:
        plan_machine(WEB, edited(host_with(WEB), path, "# mine\n"))
    assert path in caught.value.message
    assert caught.value.exit_code == 5


def test_foreign_bridge_is_used_and_never_touched() -> None:
    declared = machine(bridges=("lan0",), publish=(Publish(8080, 80),))
    plan = plan_machine(declared, empty_host(links={"lan0": Link("lan0", "bridge", ("eth0",))}))
    written = {step.path: step.text for step in plan if isinstance(step, steps.WriteFile)}
    assert "Port=tcp:8080:80" in written[SETTINGS]
    assert not [path for path in written if "nat" in path or "lan0" in path]
    assert not {steps.ClaimNetwork, steps.ReloadNetworkd, steps.LoadNat, steps.RemoveLink} & set(kinds(plan))


@pytest.mark.parametrize(
    ("autostart", "enabled", "wanted"),
    [
        (True, False, ["enable systemd-nspawn@web.service"]),
        (True, True, []),
        (False, True, ["disable systemd-nspawn@web.service"]),
        (False, False, []),
    ],
)
def test_autostart(*, autostart: bool, enabled: bool, wanted: list[str]) -> None:
    declared = machine(autostart=autostart)
    assert shown(plan_machine(declared, host_with(declared, enabled={"web": enabled}))) == wanted


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"nat": ""}, ["load the nft table inet machctl"]),
        ({"nat": nat_table({})}, ["load the nft table inet machctl"]),
        ({"active": frozenset()}, ["start machctl-bridge@br0.service"]),
        ({"links": {}}, ["restart machctl-bridge@br0.service"]),
        ({"links": {}, "active": frozenset()}, ["start machctl-bridge@br0.service"]),
    ],
)
def test_network_that_is_not_in_the_kernel_is_brought_back(values: dict[str, Any], wanted: list[str]) -> None:
    assert shown(plan_machine(WEB, host_with(WEB, **values))) == wanted


def test_new_port_of_a_running_machine_answers_at_once() -> None:
    plan = plan_machine(WEB, running(host_with(machine()), "web"))
    assert shown(plan)[-2:] == ["load the nft table inet machctl", "start machctl-port-web_8080.socket"]


def test_port_of_a_running_machine_that_nobody_listens_on_is_listened_on_again() -> None:
    host = running(host_with(WEB), "web")
    assert plan_machine(WEB, host) == []
    (step,) = plan_machine(WEB, dataclasses.replace(host, active=frozenset({bridge_unit("br0")})))
    assert str(step) == "start machctl-port-web_8080.socket"
    assert step.reason == "nothing listens on its port"


def test_port_that_is_gone_of_a_machine_that_does_not_run_is_stopped_too() -> None:
    found = shown(plan_machine(machine(), host_with(WEB)))
    assert "stop machctl-port-web_8080.socket machctl-port-web_8080.service" in found


def test_unit_files_that_systemd_has_not_read_are_read() -> None:
    (step,) = plan_machine(WEB, host_with(WEB, stale_units=frozenset({"web"})))
    assert isinstance(step, steps.ReloadUnits)
    assert plan_machine(WEB, host_with(WEB, stale_units=frozenset({"db"}))) == []


def test_table_that_lost_the_rules_of_a_port_is_loaded_again() -> None:
    host = host_with(WEB)
    less = nat_table({path: text for path, text in host.files.items() if path != NAT})
    (step,) = plan_machine(WEB, dataclasses.replace(host, nat=less))
    assert str(step) == "load the nft table inet machctl"
    assert step.reason == "it is not what its files say"


def test_bridge_that_nobody_needs_is_not_this_plans_to_remove() -> None:
    # Another machine may be about to move there: the fleet's plan knows.
    moved = machine(bridges=("br1",))
    plan = plan_machine(moved, host_with(machine()))
    assert steps.RemoveLink not in kinds(plan)
    assert not [step for step in plan if isinstance(step, steps.RemoveFile) and "br0" in step.path]
    host = with_claims(host_with(machine()), plan)
    assert "remove link br0" in shown(plan_unused(host, machine=""))


def test_claim_names_ports_and_the_bridges_of_others() -> None:
    declared = machine(bridges=("lan0", "br0"), publish=(Publish(8080, 80), Publish(53, 53, "::1")))
    plan = plan_machine(declared, empty_host(networks={"br0": NETWORK}, links={"lan0": Link("lan0", "bridge")}))
    (claim,) = [step for step in plan if isinstance(step, steps.Claim)]
    made = {"source": "debian:trixie"}
    ports = ("8080:80", "[::1]:53:53")
    links = {"host0": "bridge:lan0", "host1": "bridge:br0"}
    assert claim.record == Record("web", {"br0": "10.64.7.2"}, ports, ("lan0",), made, storage="copy", links=links)


def test_foreign_bridge_that_is_away_stays_foreign() -> None:
    declared = machine(bridges=("lan0",))
    away = Record("web", foreign=("lan0",), links={"host0": "bridge:lan0"})
    host = host_with(declared, records={"web": away}, links={"br0": BRIDGE})
    assert not {steps.ClaimNetwork, steps.Claim} & set(kinds(plan_machine(declared, host)))
    forgotten = dataclasses.replace(host, records={})
    assert steps.ClaimNetwork in kinds(plan_machine(declared, forgotten))


def test_settings_copied_from_another_machine_are_in_the_way() -> None:
    host = host_with(machine("db"))
    with pytest.raises(Conflict, match="machctl did not write it"):
        plan_machine(WEB, edited(host, SETTINGS, host.files[paths.settings_file("db")]))


def test_port_of_a_machine_that_does_not_run_is_not_listened_on() -> None:
    assert steps.OpenPorts not in kinds(plan_machine(WEB, host_with(machine())))


def test_port_that_is_no_longer_published_goes() -> None:
    plan = plan_machine(machine(), running(host_with(WEB), "web"))
    assert {step.path for step in plan if isinstance(step, steps.RemoveFile)} == {
        SOCKET,
        SOCKET.replace(".socket", ".service"),
        NAT,
    }
    assert "stop machctl-port-web_8080.socket machctl-port-web_8080.service" in shown(plan)
    assert "load the nft table inet machctl" in shown(plan)


def test_files_of_other_machines_stay() -> None:
    db = machine("db", publish=(Publish(5432, 5432),))
    host = host_with(WEB, db)
    plan = plan_machine(machine(), host)
    assert not [step for step in plan if "db" in getattr(step, "path", "")]


def test_file_that_the_machine_sees_follows() -> None:
    path = paths.guest_network_file("web", "host0")
    host = host_with(WEB)
    old = host.files[path].replace("LLDP=yes", "LLDP=no")
    (step,) = plan_machine(WEB, edited(host, path, old))
    assert isinstance(step, steps.WriteFile)
    assert step.detail.splitlines() == ["-LLDP=no", "+LLDP=yes"]


def test_file_of_a_bridge_that_is_gone_is_removed() -> None:
    host = host_with(machine(bridges=("br0", "br1")))
    plan = plan_machine(machine(), host)
    assert f"remove {paths.guest_network_file('web', 'host1')}" in shown(plan)


def test_running_machine_is_named_where_its_settings_count_later() -> None:
    host = running(host_with(WEB), "web")
    changed = edited(host, SETTINGS, host.files[SETTINGS] + "\n")
    assert restart_note(plan_machine(WEB, changed), changed) == ["web"]
    assert restart_note(plan_machine(WEB, host), host) == []


def test_restart_is_not_asked_of_a_machine_that_does_not_run() -> None:
    host = host_with(WEB)
    changed = edited(host, SETTINGS, host.files[SETTINGS] + "\n")
    assert restart_note(plan_machine(WEB, changed), changed) == []


def test_two_new_machines_get_two_addresses_on_one_bridge() -> None:
    host = empty_host()
    first = plan_machine(machine("a"), host)
    second = plan_machine(machine("b"), with_claims(host, split_claims(first)[0]))
    claims = [step for step in [*first, *second] if isinstance(step, steps.Claim)]
    assert len({step.record.addresses["br0"] for step in claims}) == 2
    assert kinds([*first, *second]).count(steps.ClaimNetwork) == 1


def test_machine_keeps_its_address() -> None:
    db, web = machine("db"), WEB
    host = host_with(db, web)
    address = host.records["web"].addresses["br0"]
    alone = dataclasses.replace(host, records={"web": host.records["web"]})
    assert without_names(plan_machine(web, alone)) == []
    assert address in alone.files[NAT]


def test_new_subnet_overlaps_no_route_of_the_host() -> None:
    taken = ipaddress.IPv4Network("10.64.0.0/11")
    plan = plan_machine(machine(), empty_host(routes={taken: "tun0"}))
    (claim,) = [step for step in plan if isinstance(step, steps.ClaimNetwork)]
    assert not claim.network.subnet.overlaps(taken)


def test_no_subnet_left_is_a_conflict_that_says_so() -> None:
    with pytest.raises(Conflict, match="no free subnet for bridge br0"):
        plan_machine(machine(), empty_host(routes={ipaddress.IPv4Network("0.0.0.0/0"): "tun0"}))


def test_bridge_that_came_back_with_its_record_is_machctls() -> None:
    host = host_with(WEB)
    assert plan_machine(WEB, dataclasses.replace(host, links={"br0": BRIDGE})) == []
    assert bridge_unit("br0") in host.active


def test_what_counts_for_a_new_tree_only_is_said_of_an_old_one() -> None:
    web = machine(packages=("nginx",))
    made = Record("web", made={"source": "debian:trixie", "packages": ["nginx"]})
    host = dataclasses.replace(host_with(web), records={"web": made})
    assert tree_note(web, host) == ""
    assert "packages changed" in tree_note(machine(packages=("nginx", "less")), host)
    assert tree_note(machine("db"), host) == ""
