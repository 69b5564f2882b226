# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a change in the file costs a machine that runs, for every field of its declaration."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from machines.model.after import After
from machines.model.health import Health
from machines.model.link import Attachment
from machines.model.machine import Bind, Machine, Publish
from machines.model.names import machine_unit
from machines.model.observed import Host
from machines.model.publish import Egress
from machines.model.secret import Secret
from machines.model.settings import Device, Tmpfs
from machines.model.source import Source
from machines.plan import steps
from machines.plan.kinds import changed_lines, heavier, kind_of_plan, pending_restart, with_kinds
from machines.plan.machine import plan_machine, tree_note
from machines.plan.names import without_names
from machines.plan.steps import Plan
from machines.render import paths
from samples import edited, host_with, machine, running

NOTHING = ""
LIVE, RELOAD, RESTART, RECREATE = "live", "reload", "restart", "recreate"

# Of each field: another value than web() has, and what it costs to have it. A field that is not here fails the test.
TABLE: dict[str, tuple[Any, str]] = {
    "source": (Source("debian", "bookworm"), RECREATE),
    "origin": ("/etc/machctl/fleet.toml", LIVE),
    "group": ("web", NOTHING),
    "max_unavailable": (1, NOTHING),
    "network": ("host", RESTART),
    "links": ((Attachment("bridge", "br0"), Attachment("zone", "lab")), RELOAD),
    "publish": ((Publish(8081, 80),), LIVE),
    "isolated": (True, LIVE),
    "egress": ((Egress("tcp", 443, 443),), LIVE),
    "on_demand": (True, LIVE),
    "idle_stop": (600, RELOAD),
    "binds": ((Bind("/srv", "/srv", read_only=True),), RESTART),
    "packages": (("nginx",), RECREATE),
    "mirror": ("http://deb.example.org/debian", RECREATE),
    "variant": ("buildd", RECREATE),
    "bootstrapper": ("debootstrap", NOTHING),
    "keyring": ("/etc/keys.gpg", RECREATE),
    "checksum": ("sha256:" + 64 * "0", RECREATE),
    "insecure": (True, NOTHING),
    "storage": ("copy", RECREATE),
    "disk": (2**30, LIVE),
    "ephemeral": (True, RESTART),
    "memory": (2**29, LIVE),
    "memory_high": (2**28, LIVE),
    "swap": (2**20, LIVE),
    "cpus": (1.5, LIVE),
    "cpu_weight": (50, LIVE),
    "io_weight": (50, LIVE),
    "tasks": (500, LIVE),
    "restart": ("always", RELOAD),
    "restart_delay": (3, RELOAD),
    "devices": ((Device("/dev/fuse"),), RESTART),
    "capabilities": (("net_admin",), RESTART),
    "drop_capabilities": (("mknod",), RESTART),
    "system_call_filter": (("@mount",), RESTART),
    "nesting": (True, RESTART),
    "read_only": (True, RESTART),
    "volatile": ("state", RESTART),
    "tmpfs": ((Tmpfs("/scratch", 2**20),), RESTART),
    "hostname": ("www", RESTART),
    "ssh_keys": (("ssh-ed25519 AAAA me",), RECREATE),
    "autostart": (True, LIVE),
    "after": ((After("db"), After("db", "postgresql.service")), RELOAD),
    "environment": ((("A", "b"),), RESTART),
    "secrets": ((Secret("token", "file", "/root/token"),), RESTART),
    "health": (Health("tcp", "80"), LIVE),
}
FIELDS = [field.name for field in dataclasses.fields(Machine) if field.name != "name"]


def web(**values: Any) -> Machine:
    return machine(publish=(Publish(8080, 80),), **{"restart": "on-failure", **values})


def host_of(*machines: Machine) -> Host:
    """A host on which machines run with what is on disk, made of what is declared."""
    host = host_with(*machines)
    host = dataclasses.replace(host, limits={each.name: {} for each in machines})
    return with_copies(running(host, *(each.name for each in machines)), *(each.name for each in machines))


def with_copies(host: Host, *names: str) -> Host:
    copies = {
        paths.started(name, path): text
        for name in names
        for path, text in host.files.items()
        if path in {paths.settings_file(name), paths.dropin_file(name)} or path.startswith(paths.guest_directory(name))
    }
    return dataclasses.replace(host, files={**host.files, **copies})


def planned(wanted: Machine, host: Host) -> tuple[Plan, list[str], str]:
    """The marked plan, why it needs a restart, and its kind."""
    plan = without_names(plan_machine(wanted, host))
    pending = pending_restart(wanted.name, plan, host)
    if pending:
        plan.append(steps.RestartMachine(reason="", machine=wanted.name, name=wanted.name))
    marked = with_kinds(wanted.name, plan, host, pending=bool(pending))
    return marked, pending, kind_of_plan(marked)


def test_the_table_has_every_field() -> None:
    assert sorted(TABLE) == sorted(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_changed_as_what_it_is(field: str) -> None:
    value, wanted = TABLE.get(field, (None, "unknown"))
    before = web(on_demand=True) if field == "idle_stop" else web()
    host = host_of(before)
    record = dataclasses.replace(host.records["web"], made={"source": str(before.source)})
    host = dataclasses.replace(host, records={"web": record}, idmap_paths=frozenset({"/srv"}))
    host = dataclasses.replace(host, inner_links={"web": frozenset({"lo", "host0"})})
    assert planned(before, host)[0] == []
    changed = dataclasses.replace(before, **{field: value})
    kind = planned(changed, host)[2]
    if tree_note(changed, host):
        kind = heavier(kind, RECREATE)
    assert kind == wanted


def test_a_restart_says_which_setting_it_is_for() -> None:
    host = host_of(web())
    plan, pending, kind = planned(web(hostname="www", memory=2**29), host)
    assert (pending, kind) == (["Hostname="], RESTART)
    assert {type(step).__name__: step.kind for step in plan} == {
        "WriteFile": LIVE, "SetLimits": LIVE, "ReloadUnits": LIVE, "RestartMachine": RESTART,
    }  # fmt: skip
    assert [step.kind for step in plan if isinstance(step, steps.WriteFile)] == [RESTART, LIVE]


def test_what_a_killed_apply_wrote_and_did_not_restart_for_is_still_due() -> None:
    before = host_of(web())
    written = {step.path: step.text for step in plan_machine(web(hostname="www"), before) if hasattr(step, "text")}
    host = dataclasses.replace(before, files={**before.files, **written})
    assert planned(web(hostname="www"), host)[1] == ["Hostname="]
    assert planned(web(hostname="www"), with_copies(host, "web"))[1] == []


def test_a_hand_edit_that_it_was_not_started_with_is_put_right_live() -> None:
    host = host_of(web())
    settings = paths.settings_file("web")
    host = edited(host, settings, host.files[settings].replace("PrivateUsers=pick", "PrivateUsers=no"))
    plan, pending, kind = planned(web(), host)
    assert [str(step) for step in plan] == [f"write {settings}"]
    assert (pending, kind) == ([], LIVE)


def test_other_name_servers_of_the_host_restart_nobody() -> None:
    host = host_of(web())
    path, resolv = paths.guest_network_file("web", "host0"), paths.guest_resolv_conf("web")
    texts = {
        path: "[Network]\nAddress=10.9.0.2/24\nDNS=192.0.2.53\nDomains=machctl\n",
        resolv: "nameserver 192.0.2.53\n",
    }
    host = with_copies(dataclasses.replace(host, files={**host.files, **texts}), "web")
    other = [
        steps.WriteFile(reason="", machine="web", path=path, text=texts[path].replace("192.0.2.53", "192.0.2.54")),
        steps.WriteFile(reason="", machine="web", path=resolv, text="nameserver 192.0.2.54\n"),
    ]
    assert pending_restart("web", [*other], host) == []
    moved = steps.WriteFile(reason="", machine="web", path=path, text=texts[path].replace("10.9.0.2", "10.9.0.3"))
    assert pending_restart("web", [moved], host) == ["host0"]


def test_one_that_made_no_copies_is_restarted_for_what_changes_on_disk() -> None:
    host = running(host_with(web()), "web")
    assert planned(web(), host)[1] == []
    assert planned(web(hostname="www"), host)[1] == ["Hostname="]


def test_one_that_does_not_run_or_not_in_its_unit_is_never_restarted() -> None:
    assert planned(web(hostname="www"), host_with(web()))[1:] == ([], LIVE)
    host = dataclasses.replace(host_with(web()), running={"web": "session-1.scope"})
    assert planned(web(hostname="www"), host)[1] == []
    assert machine_unit("web") not in host.running.values()


def test_comments_and_order_are_no_changes() -> None:
    assert changed_lines("# a\n[Exec]\nBoot=yes\nA=1\n", "# b\n[Exec]\nA=1\nBoot=yes\n") == []
    assert changed_lines("A=1\n", "A=2\n") == ["-A=1", "+A=2"]
