# SPDX-License-Identifier: LGPL-2.1-or-later
"""adopt and eject on a host in memory: nothing is lost without a word, and a run that was killed is finished."""

from __future__ import annotations

import asyncio
import json

import pytest

from acting import REPORTER, create, web
from fakes import POOL, FakeHost
from machines.declare.fleet import own_file
from machines.errors import Conflict, InvalidFile, InvalidValue, MachctlError, NotFound
from machines.model.observed import Link
from machines.model.tree import Tree
from machines.operations.adopt import Adoption, adopt, adopt_from
from machines.operations.applying import apply
from machines.operations.eject import eject
from machines.operations.fleetplan import fleet_plan
from machines.operations.remove import remove
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")

SETTINGS = "/etc/systemd/nspawn/hand.nspawn"
UNIT = "systemd-nspawn@hand.service"
DROPIN = f"/etc/systemd/system/{UNIT}.d/override.conf"
CONTROL = f"/etc/systemd/system.control/{UNIT}.d/50-MemoryMax.conf"
MACHCTLS = f"/etc/systemd/system/{UNIT}.d/50-machctl.conf"
TEXTS = {
    SETTINGS: "# mine\n[Exec]\nPivotRoot=/a\n[Network]\nBridge=br0\nPort=8080:80\n",
    DROPIN: "[Unit]\nDescription=Mine\n[Service]\nCPUQuota=50%\n",
    CONTROL: "[Service]\nMemoryMax=1073741824\n",
}


@pytest.fixture
def hand(host: FakeHost) -> FakeHost:
    """A machine that somebody made by hand, running, on a bridge of others."""
    host.placed["hand"] = Tree("hand", f"{POOL}/hand", "directory")
    host.bridges["br0"] = Link("br0", "bridge")
    host.files.texts |= TEXTS
    host.loaded.add(UNIT)
    host.running = lambda: {"hand": UNIT}  # type: ignore[method-assign]
    host.units.set_limits = lambda unit, limits, left: host.call(f"limit {unit}")
    host.facts.enabled_machines = lambda: {"hand": True}
    return host


def take(host: FakeHost, name: str = "hand", *, dry_run: bool = False) -> Adoption:
    return asyncio.run(adopt(name, host, REPORTER, dry_run=dry_run))


def leave(host: FakeHost, name: str, *, dry_run: bool = False) -> tuple[Plan, list[str]]:
    return asyncio.run(eject(name, host, REPORTER, dry_run=dry_run))


def plan(host: FakeHost, name: str) -> Plan:
    """What is left to do; here nothing ever listens, nor is there a kernel that keeps limits."""
    found = fleet_plan([name], host, verb="plan").plans.get(name, [])
    return [step for step in found if not isinstance(step, (steps.OpenPorts, steps.SetLimits))]


def stopped(done: list[str]) -> list[str]:
    return [what for what in done if "systemd-nspawn@" in what and not what.startswith("limit")]


def test_a_machine_by_hand_becomes_one_of_machctls(hand: FakeHost) -> None:
    done = take(hand)
    texts = hand.files.texts
    assert done.values == {
        "source": "image:hand", "bridges": ["br0"], "memory": "1G", "cpus": 0.5, "publish": ["8080:80"],
        "autostart": True,
    }  # fmt: skip
    assert texts[own_file("hand")] == done.text
    assert "Bridge=br0\n" in texts[SETTINGS]
    assert paths.owner(SETTINGS, texts[SETTINGS]) == ("machine", "hand")
    assert "MemoryMax=1073741824\n" in texts[MACHCTLS]
    assert not stopped(hand.done)
    assert done.restart
    # What a declaration cannot say stays in its drop-in; there is no such place for settings.
    assert texts[DROPIN] == "[Unit]\nDescription=Mine\n[Service]\n"
    assert CONTROL not in texts
    assert [each.what for each in done.unmapped] == ["PivotRoot=/a", "Description=Mine"]
    assert all(f"#   {each}" in done.text for each in done.unmapped)
    assert plan(hand, "hand") == []


def test_what_others_wrote_is_kept_until_the_machine_goes(hand: FakeHost) -> None:
    done = take(hand)
    assert [hand.files.texts[path] for path in done.kept] == [TEXTS[path] for path in (SETTINGS, DROPIN, CONTROL)]
    hand.running = dict  # type: ignore[method-assign]
    asyncio.run(remove("hand", hand, REPORTER, force=False, dry_run=False))
    assert [path for path in hand.files.texts if "hand" in path] == [DROPIN]


def test_the_plan_says_what_is_written_over(hand: FakeHost) -> None:
    before = dict(hand.files.texts)
    done = take(hand, dry_run=True)
    assert hand.files.texts == before
    over = [step for step in done.plan if isinstance(step, steps.WriteFile) and step.over]
    assert [step.path for step in over] == [SETTINGS]
    assert "-PivotRoot=/a" in over[0].detail
    row = json.loads(json.dumps(done.row()))
    assert [each["what"] for each in row["unmapped"]] == ["PivotRoot=/a", "Description=Mine"]
    assert row["values"]["bridges"] == ["br0"]
    assert len(row["steps"]) == len(done.plan)


@pytest.mark.parametrize("count", range(11))
def test_a_run_that_was_killed_is_finished_by_the_next(hand: FakeHost, count: int) -> None:
    whole = take(hand, dry_run=True)
    assert len(whole.plan) > 10
    written = 0

    class Killed(Exception):
        pass

    def write(path: str, text: str, *, mode: int = 0o644) -> None:
        nonlocal written
        if written == count:
            raise Killed
        written += 1
        hand.files.texts[path] = text

    real, hand.files.write_file = hand.files.write_file, write  # type: ignore[method-assign]
    try:
        take(hand)
    except Killed:
        hand.files.held.clear()
    hand.files.write_file = real  # type: ignore[method-assign]
    try:
        take(hand)
    except Conflict:
        # All but the last files are there: apply does the rest.
        asyncio.run(apply(["hand"], hand, REPORTER))
    assert hand.files.texts[own_file("hand")] == whole.text
    assert paths.owner(SETTINGS, hand.files.texts[SETTINGS]) == ("machine", "hand")
    assert hand.files.texts[DROPIN] == "[Unit]\nDescription=Mine\n[Service]\n"
    assert CONTROL not in hand.files.texts
    assert plan(hand, "hand") == []


def test_who_is_not_there_or_declared_already_is_refused(hand: FakeHost) -> None:
    with pytest.raises(NotFound):
        take(hand, "nosuch")
    with pytest.raises(InvalidValue):
        take(hand, "../x")
    take(hand)
    with pytest.raises(Conflict):
        take(hand)


def test_a_machine_without_settings_has_its_veth(host: FakeHost) -> None:
    host.placed["hand"] = Tree("hand", f"{POOL}/hand", "directory")
    done = take(host)
    assert done.values == {"source": "image:hand", "links": ["veth"]}
    assert not done.kept
    assert not done.restart


def test_what_a_declaration_refuses_stays_in_the_drop_in(hand: FakeHost) -> None:
    hand.files.texts[DROPIN] = "[Service]\nMemoryHigh=1M\nTasksMax=50\n"
    done = take(hand)
    assert hand.files.texts[DROPIN] == "[Service]\nMemoryHigh=1M\n"
    assert done.values["tasks"] == 50


def test_each_that_a_declaration_refuses_stays_in_the_drop_in(hand: FakeHost) -> None:
    create(hand, web("db", publish=()))
    own = "[Unit]\nAfter=systemd-nspawn@hand.service\nWants=systemd-nspawn@other.service\n"
    hand.files.texts[DROPIN] = f"{own}After=systemd-nspawn@db.service\nWants=systemd-nspawn@db.service\n"
    done = take(hand)
    assert done.values["after"] == ["db"]
    assert hand.files.texts[DROPIN] == own


def test_what_was_refused_stays_after_a_run_that_was_killed(hand: FakeHost) -> None:
    hand.files.texts[DROPIN] = "[Service]\nMemoryHigh=1M\nTasksMax=50\n"
    settings = hand.files.texts[SETTINGS]
    take(hand)
    hand.files.texts[SETTINGS] = settings
    take(hand)
    assert hand.files.texts[DROPIN] == "[Service]\nMemoryHigh=1M\n"


def test_a_machine_without_an_init_goes_on_running_what_it_ran(hand: FakeHost) -> None:
    hand.files.texts[SETTINGS] = "[Exec]\nBoot=no\nParameters=/bin/server x\n[Network]\nBridge=br0\n"
    take(hand)
    assert 'Parameters="/bin/server" "x"\n' in hand.files.texts[SETTINGS]
    assert json.loads(hand.files.texts[paths.machine_record("hand")])["payload"]["command"] == ["/bin/server", "x"]
    assert plan(hand, "hand") == []


# --- from a file of others ---


def adopted_from(host: FakeHost, path: str, text: str, *names: str) -> list[Adoption]:
    host.files.texts[path] = text
    return asyncio.run(adopt_from(list(names), path, host, REPORTER, dry_run=False))


def test_a_file_of_others_is_declared_for_apply(host: FakeHost) -> None:
    text = json.dumps({"services": {"web": {"image": "nginx"}, "db": {"image": "postgres:16"}}})
    done = adopted_from(host, "/srv/compose.json", text)
    assert [each.name for each in done] == ["web", "db"]
    assert 'source = "oci:nginx"' in host.files.texts[own_file("web")]
    with pytest.raises(Conflict):
        adopted_from(host, "/srv/compose.json", text, "web")
    with pytest.raises(NotFound):
        adopted_from(host, "/srv/compose.json", text, "nosuch")


def test_what_a_compose_file_takes_from_beside_it_is_no_more_open_than_that(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "1.27")
    text = json.dumps({"services": {"my_web": {"image": "nginx:$TAG", "environment": {"PW": "${PW}"}}}})
    host.files.texts["/srv/.env"], host.files.modes["/srv/.env"] = "TAG=1\nPW='a b'\n", 0o600
    (done,) = adopted_from(host, "/srv/compose.json", text, "my_web")
    assert done.values == {"source": "oci:nginx:1.27", "environment": {"PW": "a b"}}
    assert host.files.modes[own_file("my-web")] == 0o600


def test_one_name_that_is_taken_and_none_is_declared(host: FakeHost) -> None:
    host.placed["db"] = Tree("db", f"{POOL}/db", "directory")
    text = json.dumps({"services": {"web": {"image": "nginx"}, "db": {"image": "postgres:16"}}})
    with pytest.raises(Conflict):
        adopted_from(host, "/srv/compose.json", text)
    assert own_file("web") not in host.files.texts


@pytest.mark.parametrize(("path", "text"), [("/srv/x", "what is this\n"), ("/srv/x.json", "{}")])
def test_what_nobody_can_read_is_refused(host: FakeHost, path: str, text: str) -> None:
    with pytest.raises(InvalidFile):
        adopted_from(host, path, text)


def test_one_machine_has_one_name(host: FakeHost) -> None:
    text = "lxc.uts.name = web\nlxc.net.0.type = empty\n"
    with pytest.raises(MachctlError):
        adopted_from(host, "/var/lib/lxc/web/config", text, "a", "b")
    (done,) = adopted_from(host, "/var/lib/lxc/web/config", text)
    assert done.name == "web"
    (done,) = adopted_from(host, "/srv/box.nspawn", "[Network]\nZone=lab\n")
    assert (done.name, done.values["links"]) == ("box", ["zone:lab"])


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_what_only_root_could_read_is_not_for_all_afterwards(hand: FakeHost, mode: int) -> None:
    hand.files.modes[SETTINGS] = hand.files.modes[DROPIN] = mode
    take(hand)
    for path in (SETTINGS, DROPIN, own_file("hand"), MACHCTLS):
        assert hand.files.modes.get(path, mode) == mode, path


# --- eject ---


@pytest.fixture
def made(host: FakeHost) -> FakeHost:
    """Two machines on one network of machctl's."""
    create(host, web())
    create(host, web("other", publish=()))
    host.done.clear()
    return host


def test_an_ejected_machine_needs_nothing_of_machctl(made: FakeHost) -> None:
    _, left = leave(made, "web")
    texts = made.files.texts
    assert own_file("web") not in texts
    assert not [path for path, text in texts.items() if paths.owner(path, text) == ("machine", "web")]
    dropin = texts[paths.dropin_file("web")]
    assert "Wants=machine-web-network.service\n" in dropin
    for path in (paths.dropin_file("web"), paths.settings_file("web")):
        lines = [line for line in texts[path].splitlines()[1:] if "machctl" in line and not line.startswith("#")]
        assert all("/var/lib/machctl/guests/web" in line or "machctl-port-web" in line for line in lines), lines
    rules = texts["/etc/systemd/nspawn/web.nft"]
    assert "inet machctl" not in rules
    assert "dnat ip to" in rules
    unit = texts["/etc/systemd/system/machine-web-network.service"]
    assert "machctl" not in unit.split("\n", 1)[1]
    assert any("/var/lib/machctl/guests/web" in text for text in left)
    assert not stopped(made.done)
    assert "restart machine-web-network.service" in made.done


def test_nobody_else_gets_the_address_of_an_ejected_machine(made: FakeHost) -> None:
    address = json.loads(made.files.texts[paths.machine_record("web")])["addresses"]["br0"]
    leave(made, "web")
    record = json.loads(made.files.texts[paths.machine_record("web")])
    assert (record["addresses"], record["intent"]) == ({"br0": address}, "ejected")
    create(made, web("third", publish=()))
    assert address not in made.files.texts[paths.machine_record("third")]
    with pytest.raises(NotFound):
        leave(made, "web")


def test_the_network_of_the_last_machine_goes_with_it(made: FakeHost) -> None:
    asyncio.run(remove("other", made, REPORTER, force=False, dry_run=False))
    made.done.clear()
    leave(made, "web")
    assert paths.machine_record("web") not in made.files.texts
    assert paths.network_record("br0") not in made.files.texts
    assert "br0" in made.bridges
    assert made.files.texts["/etc/systemd/network/70-machctl-br0.network"].startswith("# Of machine web,")
    assert "nft -f" in made.done
    assert paths.NAT_FILE not in made.files.texts


def test_an_ejected_machine_comes_back_as_it_was(made: FakeHost) -> None:
    before = dict(made.files.texts)
    leave(made, "web")
    done = take(made, "web")
    assert not done.unmapped
    after = dict(made.files.texts)
    # Nobody knows of which base it was made any more.
    for texts in (before, after):
        record = json.loads(texts.pop(paths.machine_record("web")))
        texts["record"] = json.dumps([record["addresses"], record["intent"], record["ports"]])
    assert after == before
    assert plan(made, "web") == []


def test_removing_an_ejected_machine_takes_all_of_it(made: FakeHost) -> None:
    leave(made, "web")
    asyncio.run(remove("web", made, REPORTER, force=False, dry_run=False))
    assert not [path for path in made.files.texts if "web" in path]
    assert "stop machine-web-network.service" in made.done


@pytest.mark.parametrize("count", range(14))
def test_an_eject_that_was_killed_is_finished_by_the_next(made: FakeHost, count: int) -> None:
    left = iter([False] * count + [True])

    class Killed(Exception):
        pass

    real, remove_file = made.files.write_file, made.files.remove_file

    def write(path: str, text: str, *, mode: int = 0o644) -> None:
        if next(left, False):
            raise Killed
        real(path, text, mode=mode)

    def drop(path: str) -> None:
        if next(left, False):
            raise Killed
        remove_file(path)

    made.files.write_file, made.files.remove_file = write, drop  # type: ignore[method-assign]
    try:
        leave(made, "web")
    except Killed:
        made.files.held.clear()
    made.files.write_file, made.files.remove_file = real, remove_file  # type: ignore[method-assign]
    try:
        leave(made, "web")
    except NotFound:
        assert json.loads(made.files.texts[paths.machine_record("web")])["intent"] == "ejected"
    assert own_file("web") not in made.files.texts
    assert not [path for path, text in made.files.texts.items() if paths.owner(path, text) == ("machine", "web")]
    assert "Wants=machine-web-network.service\n" in made.files.texts[paths.dropin_file("web")]
    assert "dnat ip to" in made.files.texts["/etc/systemd/nspawn/web.nft"]
    assert "publish" in made.files.texts[paths.ejected_file("web")]


def test_one_that_is_declared_with_others_is_not_ejected(made: FakeHost) -> None:
    made.files.texts[own_file("web")] += '\n[machines.more]\nsource = "debian"\n'
    with pytest.raises(Conflict):
        leave(made, "web")
    with pytest.raises(NotFound):
        leave(made, "nosuch")
