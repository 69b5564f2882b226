# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet's file is edited at random; after each apply, killed in the middle or not, the host is what the file says."""

from __future__ import annotations

import copy
import difflib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from fleetmodel import LIVE, SOURCES, Fleet, port_of
from throwaway import MAIN_JOB, Host, Roads

INSIDE = Path(__file__).parents[1] / "inside"

SEED = int(os.environ.get("MACHCTL_TESTS_SEED", "1"))
EDITS = int(os.environ.get("MACHCTL_TESTS_EDITS", "60"))
ROAD = os.environ.get("MACHCTL_TESTS_ROAD", "trixie")
AT_ONCE = 75
"""How many edits there are from a host without a fleet until it has none again."""

# Short, long (the kernel takes 15 characters for a link), and as replicas of another are called.
NAMES = ("web", "db", "cache", "a", "very-long-name-1", "very-long-name-2", "web-1", "x9")
NETWORKS = {"lab": ("10.210.1.0/24", "10.210.2.0/26"), "dmz": ("10.211.1.0/24", "10.211.2.0/24"), "third-network": ()}
BRIDGES = ("br0", "lab", "dmz", "third-network", "other")
PORTS = (
    "9001:80", "9002:80", "127.0.0.1:9003:80", "9004:53/udp", "9005:9005/udp", "9010-9013:7000-7003",
    "9012-9014:9012-9014/udp", "127.0.0.1:9020-9022:7000-7002/udp", "9001:80/udp",
    "91{index}0:80", "91{index}1:53/udp", "91{index}5-91{index}7:7000-7002",
)  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "memory": [268435456, 536870912], "memory-high": [201326592], "tasks": [512, 1024], "cpus": [0.5, 1, 1.5],
    "cpu-weight": [50, 200], "restart": ["no", "on-failure", "always"], "isolated": [True, False],
    "egress": [[], ["443"], ["443", "53/udp"]], "hostname": ["www", "{name}-x"],
    "environment": [{"A": "1"}, {"A": "2", "B": "x {name} \"y\" %n $z"}],
    "health": [
        {"tcp": 80, "interval": "1s"}, {"file": "/run/ready", "retries": 1}, {"unit": "nginx.service"},
    ],
    "publish": [[], *([each] for each in PORTS), ["9001:80", "9002:81"], ["9004:53/udp", "9001:80"]],
    "on-demand": [True], "autostart": [True], "replicas": [1, 2, 3],
    "bridges": [[each] for each in BRIDGES] + [["lab", "dmz"], ["dmz", "lab"], ["br0", "other"]],
    "after": [[each] for each in NAMES[:4]] + [["web", "db"]],
}  # fmt: skip
OF_PROFILES = (
    "memory",
    "tasks",
    "cpus",
    "restart",
    "isolated",
    "egress",
    "environment",
    "health",
    "bridges",
    "hostname",
)
OF_NETWORKS: dict[str, list[Any]] = {
    "mode": ["nat", "routed", "isolated"], "ipv6": [True, False], "dhcp": [True, False], "dns": [True, False],
    "mtu": [1400, 9000], "reach": [["lab"], ["dmz"], ["lab", "dmz"]],
}  # fmt: skip

number = st.integers(0, 63)
names = st.sampled_from(NAMES)


class Session:
    """The host, in which a process takes edits; all that has been done so far, over all examples."""

    def __init__(self, host: Host, others: dict[str, Any]) -> None:
        self.others = others
        self.done: list[str] = []
        self.wrong: list[str] = []
        self.times: dict[str, float] = {}
        self.kills = self.ended = 0
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            host.argv("python3", "-B", "/root/edits/edits.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def over(self) -> bool:
        """Tell whether there is no more to be done."""
        return bool(self.wrong) or len(self.done) >= EDITS

    def ask(self, edit: dict[str, Any]) -> None:
        """Have one edit done."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(edit) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"wrong": ["it has ended"], "seconds": {}}')
        self.wrong += answer["wrong"]
        if answer["wrong"]:
            self.wrong += ["the last plan before that was:", *answer["steps"]]
        for what, seconds in answer["seconds"].items():
            self.times[what] = self.times.get(what, 0) + seconds
        self.kills += edit["mode"] == "killed"
        self.ended += bool(answer["seconds"].get("ended"))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)
        if self._process.stdout:
            self._process.stdout.close()


SESSIONS: list[Session] = []


class Edits(RuleBasedStateMachine):
    """Edits of a file, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.session = SESSIONS[-1]
        self.fleet = Fleet()
        # What the host was brought to last: what an edit costs is counted from there.
        self.applied = self.fleet.expanded(self.session.others)
        self.networks: dict[str, Any] = {}
        # The simplest of all examples, that hypothesis begins with, is the same edit again and again.
        self.dull = True

    @initialize(some=st.integers(0, 2**16))
    def begin(self, some: int) -> None:
        self.dull = some == 0
        # Most of this costs little; what runs makes edits dear, and is where they can do harm.
        self.fleet.machines = {
            "web": {"profiles": ["of-debian", "one"], "autostart": True},
            "db": {"profiles": ["of-debian"], **({"autostart": True} if some % 2 else {}), "bridges": ["lab"]},
            "cache": {"profiles": ["of-a" if some % 3 else "of-debian"], "replicas": 2},
        }

    # --- the edits ---

    @rule(name=names, source=st.sampled_from(["of-debian", "of-debian", *SOURCES]), what=st.data())
    def add(self, name: str, source: str, what: st.DataObject) -> None:
        values = {"profiles": [source, *what.draw(st.sampled_from([[], ["one"], ["two"], ["one", "two"]]))]}
        for key in what.draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=4, unique=True)):
            values[key] = what.draw(st.sampled_from(VALUES[key]))
        self._edit(what, f"add {name}", lambda fleet: fleet.machines.setdefault(name, values))

    @rule(which=number, what=st.data())
    def remove(self, which: int, what: st.DataObject) -> None:
        self._of_machine(which, what, "remove", lambda fleet, name: fleet.machines.pop(name))

    @rule(which=number, name=names, what=st.data())
    def rename(self, which: int, name: str, what: st.DataObject) -> None:
        def edit(fleet: Fleet, old: str) -> None:
            if name not in fleet.machines:
                # In its place: the order of the file is that of what waits for what.
                fleet.machines = {name if each == old else each: values for each, values in fleet.machines.items()}

        self._of_machine(which, what, f"rename to {name}", edit)

    @rule(which=number, other=number, what=st.data())
    def swap(self, which: int, other: int, what: st.DataObject) -> None:
        def edit(fleet: Fleet, name: str) -> None:
            theirs = list(fleet.machines)[other % len(fleet.machines)]
            for key in ("publish", "bridges"):
                pair = [fleet.machines[each].pop(key, None) for each in (theirs, name)]
                for each, value in zip((name, theirs), pair, strict=True):
                    if value is not None and name != theirs:
                        fleet.machines[each][key] = value

        self._of_machine(which, what, "swap ports and bridges with another", edit)

    @rule(which=number, key=st.sampled_from(sorted(VALUES)), what=st.data())
    def change(self, which: int, key: str, what: st.DataObject) -> None:
        value = what.draw(st.sampled_from([None, *VALUES[key], *VALUES[key]]))
        self._of_machine(which, what, f"{key} = {value}", lambda fleet, name: _put(fleet.machines[name], key, value))

    @rule(which=number, ports=st.sampled_from(VALUES["publish"]), on_demand=st.booleans(), what=st.data())
    def publish(self, which: int, ports: list[str], on_demand: bool, what: st.DataObject) -> None:
        def edit(fleet: Fleet, name: str) -> None:
            _put(fleet.machines[name], "publish", ports)
            _put(fleet.machines[name], "on-demand", on_demand or None)

        self._of_machine(which, what, f"publish {ports}" + (", on demand" if on_demand else ""), edit)

    @rule(which=number, on=st.sampled_from([True, True, None]), what=st.data())
    def start(self, which: int, on: bool | None, what: st.DataObject) -> None:
        def edit(fleet: Fleet, name: str) -> None:
            _put(fleet.machines[name], "on-demand", None)
            _put(fleet.machines[name], "autostart", on)

        self._of_machine(which, what, "autostart" if on else "no autostart", edit)

    @rule(which=number, source=st.sampled_from(sorted(SOURCES)), what=st.data())
    def make_of(self, which: int, source: str, what: st.DataObject) -> None:
        def edit(fleet: Fleet, name: str) -> None:
            fleet.machines[name]["profiles"] = [source, *fleet.machines[name]["profiles"][1:]]

        self._of_machine(which, what, f"make it of {source}", edit)

    @rule(which=number, profiles=st.sampled_from([[], ["one"], ["two"], ["two", "one"]]), what=st.data())
    def take_profiles(self, which: int, profiles: list[str], what: st.DataObject) -> None:
        def edit(fleet: Fleet, name: str) -> None:
            fleet.machines[name]["profiles"] = [fleet.machines[name]["profiles"][0], *profiles]

        self._of_machine(which, what, f"profiles {profiles}", edit)

    @rule(profile=st.sampled_from(["one", "two", "defaults"]), key=st.sampled_from(OF_PROFILES), what=st.data())
    def change_profile(self, profile: str, key: str, what: st.DataObject) -> None:
        value = what.draw(st.sampled_from([None, *VALUES[key]]))
        if profile == "defaults" and key not in {"memory", "tasks", "cpus", "restart"}:
            # The main job's machine has them too, and has to stay what other tests know: it runs on, too.
            return

        def edit(fleet: Fleet) -> None:
            _put(fleet.defaults if profile == "defaults" else fleet.profiles[profile], key, value)

        self._edit(what, f"{profile}: {key} = {value}", edit)

    @rule(inherited=st.booleans(), what=st.data())
    def inherit(self, inherited: bool, what: st.DataObject) -> None:
        value = ["one"] if inherited else None
        self._edit(what, f"two: profiles = {value}", lambda fleet: _put(fleet.profiles["two"], "profiles", value))

    @rule(name=st.sampled_from(sorted(NETWORKS)), what=st.data())
    def network(self, name: str, what: st.DataObject) -> None:
        def edit(fleet: Fleet) -> None:
            if fleet.networks.pop(name, None) is None:
                fleet.networks[name] = {"subnet": NETWORKS[name][0]} if NETWORKS[name] else {}

        self._edit(what, f"add or remove network {name}", edit)

    @rule(name=st.sampled_from(sorted(NETWORKS)), key=st.sampled_from(["subnet", *sorted(OF_NETWORKS)]), what=st.data())
    def change_network(self, name: str, key: str, what: st.DataObject) -> None:
        choices = NETWORKS[name] if key == "subnet" else OF_NETWORKS[key]
        value = what.draw(st.sampled_from([None, *choices]))
        self._edit(what, f"network {name}: {key} = {value}", lambda fleet: _put(fleet.networks[name], key, value)
                   if name in fleet.networks else None)  # fmt: skip

    # --- what is done with them ---

    def _of_machine(self, which: int, what: st.DataObject, said: str, edit: Callable[[Fleet, str], object]) -> None:
        if self.fleet.machines:
            name = list(self.fleet.machines)[which % len(self.fleet.machines)]
            self._edit(what, f"{name}: {said}", lambda fleet: edit(fleet, name))

    def _edit(self, what: st.DataObject, said: str, edit: Callable[[Fleet], object]) -> None:
        fleet = copy.deepcopy(self.fleet)
        edit(fleet)
        fleet = fleet.tidied(self.session.others)
        how = {
            "mode": what.draw(st.sampled_from(["applied"] * 6 + ["killed"] * 2 + ["written"])),
            "moment": what.draw(st.integers(0, 100)) / 100,
            "session": what.draw(st.booleans()),
            "stop": list(fleet.machines)[:1] if what.draw(number) == 1 else [],
        }
        before, after = self.fleet.text(), fleet.text()
        self.fleet = fleet
        # What is drawn must not depend on that.
        if self.dull or self.session.over or before == after:
            return
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        changes = "".join(f"\n    {line}" for line in lines if not line.startswith(("---", "+++", "@@")))
        self.session.done.append(f"{len(self.session.done) + 1}. {said}; {how}{changes}")
        self._bring(how)

    def _bring(self, how: dict[str, Any]) -> None:
        wanted = self.fleet.expanded(self.session.others)
        same = self.networks == self.fleet.networks
        gentle = [name for name, values in wanted.items() if same and _gentle(self.applied.get(name), values)]
        for values in wanted.values():
            values["tree"] = values["source"].removesuffix(".tar")[-1:] if "tar:" in values["source"] else "debian"
            values["ports"] = [_words(each) for each in values.get("publish", [])]
        self.session.ask(
            {"text": self.fleet.text(), "machines": wanted, "networks": self.fleet.networks, "gentle": gentle, **how}
        )
        if how["mode"] != "written":
            self.applied, self.networks = wanted, copy.deepcopy(self.fleet.networks)

    def teardown(self) -> None:
        if not self.dull and not self.session.wrong:
            self.fleet = Fleet()
            self._bring({"mode": "applied", "moment": 0, "session": False, "stop": []})


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value


def _words(text: str) -> list[Any]:
    port = port_of(text)
    return [port.address, port.host, port.guest, port.count, port.protocol]


def _gentle(before: dict[str, Any] | None, after: dict[str, Any]) -> bool:
    """Tell whether what is new of a machine is given to it as it runs."""
    if before is None:
        return False
    keys = {key for key in {*before, *after} - {"tree", "ports"} if before.get(key) != after.get(key)}
    return keys <= LIVE


def test_the_host_follows_random_edits(roads: Roads, capsys: pytest.CaptureFixture[str]) -> None:
    host = roads.get(ROAD).ready().host
    package = MAIN_JOB[MAIN_JOB.index("--package") + 1]
    others = {"debian": {"source": "debian:trixie", "packages": [package], "bridges": ["br0"], "publish": ["8080:80"]}}
    for script in ("inventory.py", "equals.py", "edits.py"):
        host.write(f"/root/edits/{script}", (INSIDE / script).read_text())
    with host.only_debian():
        session = Session(host, others)
        SESSIONS.append(session)
        try:
            run_state_machine_as_test(seed(SEED)(Edits), settings=settings(
                max_examples=4 * (EDITS // AT_ONCE + 1), stateful_step_count=AT_ONCE * 2, phases=[Phase.generate],
                deadline=None, database=None, suppress_health_check=list(HealthCheck),
            ))  # fmt: skip
        finally:
            session.close()
            host.sh("rm -rf /root/edits /etc/machctl/fleet.toml")
        seconds = time.monotonic() - session.began
        with capsys.disabled():
            times = ", ".join(f"{what} {value:.0f}" for what, value in session.times.items())
            sys.stdout.write(
                f"\nseed {SEED}: {len(session.done)} edits in {seconds:.0f} s, {session.kills} with a kill, "
                f"{session.ended} of these too late; {times}\n"
            )
        again = f"MACHCTL_TESTS_SEED={SEED} MACHCTL_TESTS_EDITS={EDITS} MACHCTL_TESTS_ROAD={ROAD}"
        last = "\n".join(session.done[-8:])
        assert not session.wrong, f"with {again}, after these edits:\n{last}\n\n" + "\n".join(session.wrong)
    assert len(session.done) >= EDITS
