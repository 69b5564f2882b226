# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may use and how it is held: read, checked against itself and the host, and rendered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from machines.cli.settings import read_settings
from machines.declare import runtime
from machines.declare.fleet import check_machine, parse_fleet
from machines.declare.keys import BY_NAME
from machines.declare.machine import read_word
from machines.declare.values import parse_bind
from machines.declare.write import write_machine
from machines.errors import InvalidValue, MachctlError
from machines.host import devices, facts, idmap
from machines.host.limits import parse_limits
from machines.model.limits import Limits
from machines.model.machine import Bind
from machines.model.settings import Device, Node, Tmpfs
from machines.plan import steps
from machines.plan.check import check_machine as check_on
from machines.plan.machine import plan_machine
from machines.plan.remove import plan_remove
from machines.render import paths
from machines.render.machine import render_machine
from machines.render.placement import Placement
from machines.render.settings import unit_lines
from samples import edited, empty_host, host_with, machine, placed, running

EVERYTHING = """
[machines.web]
source = "debian:trixie"
binds = ["/srv/a:/srv/a:ro,idmap", "/srv/b:/srv/b"]
tmpfs = ["/tmp:64M"]
read-only = true
devices = ["/dev/fuse", "/dev/ttyUSB0:r"]
capabilities = ["sys_nice"]
drop-capabilities = ["net_raw"]
system-call-filter = ["@keyring", "~bpf"]
nesting = true
memory-high = "384M"
swap = "0"
cpu-weight = 50
io-weight = "20"
tasks = 512
restart = "always"
restart-delay = "5s"
"""


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (runtime.parse_swap, "0", 0),
        (runtime.parse_swap, "1G", 2**30),
        (runtime.parse_weight, "1", 1),
        (runtime.parse_weight, "10000", 10000),
        (runtime.parse_tasks, "512", 512),
        (runtime.parse_restart, "on-failure", "on-failure"),
        (runtime.parse_volatile, "no", ""),
        (runtime.parse_volatile, "state", "state"),
        (runtime.parse_device, "/dev/fuse", Device("/dev/fuse")),
        (runtime.parse_device, "/dev/dri//card0:wr", Device("/dev/dri/card0")),
        (runtime.parse_device, "/dev/sda:r", Device("/dev/sda", "r")),
        (runtime.parse_device, "/dev/serial/by-path/pci-0:14.0", Device("/dev/serial/by-path/pci-0:14.0")),
        (runtime.parse_capability, "CAP_NET_ADMIN", "net_admin"),
        (runtime.parse_capability, "all", "all"),
        (runtime.parse_call, "~@mount", "~@mount"),
        (runtime.parse_call, "keyctl", "keyctl"),
        (runtime.parse_tmpfs, "/tmp:64M", Tmpfs("/tmp", 64 * 2**20)),
        (runtime.parse_tmpfs, "//srv/x/", Tmpfs("/srv/x")),
        (parse_bind, "/a:/b:ro,rootidmap", Bind("/a", "/b", read_only=True, mapping="rootidmap")),
        (parse_bind, "/a:/b:noidmap", Bind("/a", "/b", mapping="noidmap")),
        (parse_bind, "/a:/b:rw:idmap", Bind("/a", "/b", mapping="idmap")),
    ],
)
def test_values(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value
    if isinstance(value, (Device, Tmpfs, Bind)):
        assert parse(str(value)) == value


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (runtime.parse_swap, ["", "much", "-1"]),
        (runtime.parse_weight, ["0", "10001", "1.5", "", "-1", "many"]),
        (runtime.parse_tasks, ["3", "all", "", "99999999"]),
        (runtime.parse_restart, ["", "sometimes", "yes"]),
        (runtime.parse_volatile, ["", "true", "home"]),
        (runtime.parse_device, ["fuse", "/etc/passwd", "/dev/", "/dev/../etc", "/dev/a b", "/dev/a;b", "/dev/$x"]),
        (runtime.parse_device, ["/dev/%i", "/dev/a'b", "/dev/a\nb", "/dev/a:", "/dev"]),
        (runtime.parse_capability, ["", "net-admin", "CAP_", "root"]),
        (runtime.parse_call, ["", "~", "@", "@no-such", "Keyctl", "a b", "~~a", "a\n"]),
        (runtime.parse_tmpfs, ["tmp", "/", "/usr", "/tmp:", "/tmp:64", "/tmp:64M:ro", "/a/../b", "/a\nb", "/tmp:ro"]),
        (parse_bind, ["/a:/b:ro,rw", "/a:/b:idmap,noidmap", "/a:/b:norbind", "/a:/b:", "/a:/b:ro:idmap:x", "/a"]),
    ],
)  # fmt: skip
def test_what_is_none(parse: Callable[[str], object], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(InvalidValue) as error:
            parse(text)
        assert error.value.message
        assert error.value.hint


def test_the_nearest_name_is_said() -> None:
    with pytest.raises(InvalidValue) as error:
        runtime.parse_capability("net_admn")
    assert error.value.hint == "did you mean net_admin?"


def test_a_declaration_goes_in_and_comes_out() -> None:
    found, errors = parse_fleet({"/etc/machctl/fleet.toml": EVERYTHING})
    assert errors == []
    web = found["web"]
    assert (web.memory_high, web.swap, web.cpu_weight, web.io_weight, web.tasks) == (384 * 2**20, 0, 50, 20, 512)
    assert (web.restart, web.restart_delay, web.nesting, web.read_only) == ("always", 5, True, True)
    assert web.devices == (Device("/dev/fuse"), Device("/dev/ttyUSB0", "r"))
    again, errors = parse_fleet({"/etc/machctl/fleet.toml": write_machine(web)})
    assert errors == []
    assert again["web"] == web


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"memory": 2**28, "memory_high": 2**29}, "memory-high of web is more than its memory"),
        ({"capabilities": ("kill",), "drop_capabilities": ("kill",)}, "capability kill of web is both given and taken"),
        ({"ephemeral": True, "read_only": True}, "web cannot be ephemeral and read-only at once"),
        ({"volatile": "state", "read_only": True}, "web cannot be read-only and volatile (state) at once"),
        ({"restart_delay": 5}, "restart-delay of web says when, and restart says never"),
        ({"tmpfs": (Tmpfs("/srv"),), "binds": (Bind("/a", "/srv"),)}, "/srv of web is given twice"),
        ({"restart": "always", "restart_delay": 5, "memory": 2**28, "memory_high": 2**28, "swap": 0}, ""),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], wrong: str) -> None:
    errors = [error.message for error in check_machine(machine(**values))]
    assert [message.startswith(wrong) for message in errors] == ([True] if wrong else [])


def test_words_of_set_are_lists_with_commas() -> None:
    assert read_word(BY_NAME["binds"], "/a:/b:ro,idmap,/c:/d") == (
        Bind("/a", "/b", read_only=True, mapping="idmap"),
        Bind("/c", "/d"),
    )
    assert read_word(BY_NAME["system-call-filter"], "keyctl,~bpf") == ("keyctl", "~bpf")


def test_words_of_create() -> None:
    errors: list[MachctlError] = []
    given = {"swap": "0", "tasks": None, "devices": ["/dev/fuse", "/dev/kvm,/dev/fuse"], "nesting": True, "tmpfs": []}
    assert read_settings(given, errors) == {
        "swap": 0, "devices": (Device("/dev/fuse"), Device("/dev/kvm")), "nesting": True,
    }  # fmt: skip
    assert errors == []
    assert read_settings({"capabilities": ["no-such"], "restart": "maybe"}, errors) == {}
    assert len(errors) == 2


def test_only_who_says_something_has_any_of_it() -> None:
    plain = render_machine(machine(), placed())
    assert render_machine(machine(devices=(), restart="no"), placed(devices={"/dev/fuse": Node("char")})) == plain
    assert not machine(memory=2**28, cpus=1.0).has_settings
    assert machine(swap=0).has_settings


def test_a_node_that_is_not_for_everybody_is_copied() -> None:
    web = machine(devices=(Device("/dev/dri/card0"), Device("/dev/kvm")))
    place = placed(devices={"/dev/dri/card0": Node("char"), "/dev/kvm": Node("char", open=True)})
    files = render_machine(web, place)
    text, dropin = files[paths.settings_file("web")], files[paths.dropin_file("web")]
    assert "\nBind=/var/lib/machctl/devices-web/dri!card0:/dev/dri/card0:idmap\nBind=/dev/kvm\n" in text
    assert "\nDeviceAllow=/dev/dri/card0 rwm\nDeviceAllow=/dev/kvm rw\n" in dropin
    assert "cp -aL /dev/dri/card0 /var/lib/machctl/devices-web/dri!card0" in dropin
    assert "kvm" not in dropin.partition("ExecStartPre=/bin/sh")[2]


def test_nesting_takes_fuse_where_the_host_has_it() -> None:
    web = machine(nesting=True)
    assert "fuse" not in "".join(render_machine(web, placed()).values())
    files = render_machine(web, placed(devices={"/dev/fuse": Node("char", open=True)}))
    assert "\nBind=/dev/fuse\n" in files[paths.settings_file("web")]
    assert "\nDeviceAllow=/dev/fuse rwm\n" in files[paths.dropin_file("web")]


@pytest.mark.parametrize(
    ("values", "host", "wrong"),
    [
        ({"devices": (Device("/dev/x"),)}, {}, "device /dev/x of web: the host has no /dev/x"),
        (
            {"devices": (Device("/dev/dri"),)},
            {"devices": {"/dev/dri": Node("directory", inside=("/dev/dri/card0",))}},
            "device /dev/dri of web is a directory; each node has to be named",
        ),
        (
            {"devices": (Device("/dev/l"),)},
            {"devices": {"/dev/l": Node("other")}},
            "device /dev/l of web is not a device",
        ),
        ({"devices": (Device("/dev/kvm"),)}, {"devices": {"/dev/kvm": Node("char")}}, ""),
        (
            {"devices": (Device("/dev/kvm"),)},
            {"devices": {"/dev/kvm": Node("char")}, "unmapped": {"/var/lib/machctl/devices-": "it is on nfs"}},
            "device /dev/kvm of web is not for everybody, and /var/lib/machctl cannot hold a node for the machine: it",
        ),
        ({"volatile": "state"}, {"systemd": 252}, "volatile 'state' of web needs systemd 257; this host has 252"),
        ({"volatile": "overlay"}, {"systemd": 252}, ""),
        ({"drop_capabilities": ("net_raw",)}, {}, "drop-capabilities of web: without net_raw its systemd-networkd"),
        ({"drop_capabilities": ("net_raw",), "bridges": (), "network": "none"}, {}, ""),
        ({"drop_capabilities": ("lease",)}, {}, ""),
        ({"volatile": "yes"}, {"systemd": 257}, ""),
        (
            {"binds": (Bind("/n", "/n"),)},
            {"unmapped": {"/n": "it is on nfs4"}},
            "bind /n:/n of web: /n cannot show the machine its files as its own: it is on nfs4",
        ),
        ({"binds": (Bind("/n", "/n", read_only=True),)}, {"unmapped": {"/n": "it is on nfs4"}}, ""),
        ({"binds": (Bind("/n", "/n", mapping="noidmap"),)}, {"unmapped": {"/n": "it is on nfs4"}}, ""),
        (
            {"binds": (Bind("/n", "/n", read_only=True, mapping="rootidmap"),)},
            {"unmapped": {"/n": "it is on nfs4"}},
            "bind /n:/n:ro,rootidmap of web: /n cannot show the machine its files as its own: it is on nfs4",
        ),
    ],
)  # fmt: skip
def test_what_the_host_cannot_fulfil(values: dict[str, Any], host: dict[str, Any], wrong: str) -> None:
    errors = [error.message for error in check_on(machine(**values), empty_host(**host), {})]
    assert [message.startswith(wrong) for message in errors] == ([True] if wrong else [])


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/srv", ""),
        ("/srv/data", ""),
        ("/", "/proc is mounted in it"),
        ("/mnt", "/mnt/with space is mounted in it"),
        ("/mnt/with space/x", "it is on nfs4, whose owners the kernel cannot map"),
        ("/run/x", "it is on tmpfs, whose owners the kernel maps since 6.3 only"),
        ("/mapped", "its owners are mapped already"),
    ],
)
def test_owners_are_mapped_where_the_kernel_can(monkeypatch: pytest.MonkeyPatch, path: str, wrong: str) -> None:
    mounts = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:21 / /proc rw,nosuid - proc proc rw\n"
        "24 22 0:22 / /run rw,nosuid,nodev - tmpfs tmpfs rw\n"
        "25 22 0:23 / /mnt/with\\040space rw - nfs4 box:/x rw\n"
        "26 22 0:24 / /mapped rw,idmapped - btrfs /dev/sdb rw\n"
        "27 22 0:24 / /nodev rw,nodev - btrfs /dev/sdb rw\n"
    )
    texts = {"/proc/self/mountinfo": mounts, "/proc/self/uid_map": "0 0 4294967295\n"}
    monkeypatch.setattr(idmap, "read_text", texts.__getitem__)
    monkeypatch.setattr(idmap.os, "uname", lambda: type("Uname", (), {"release": "6.1.0-18-amd64"}))
    monkeypatch.setattr(idmap.os.path, "realpath", lambda path: path)
    assert facts.unmapped([path]) == ({path: wrong} if wrong else {})
    assert facts.unmapped(["/nodev"]) == {}
    assert facts.unmapped(["/nodev"], nodes=True) == {"/nodev": "/nodev is mounted with nodev"}
    texts["/proc/self/uid_map"] = "0 100000 65536\n"
    assert facts.unmapped(["/srv"]) == {"/srv": "this host is in a user namespace itself"}


def test_devices_of_this_host() -> None:
    found = devices.devices(["/dev/null", "/dev", "/dev/no-such", "/etc/passwd"])
    assert found["/dev/null"] == Node("char", open=True)
    assert "/dev/null" in found["/dev"].inside
    assert found["/etc/passwd"].kind == "other"
    assert "/dev/no-such" not in found


def test_limits_as_the_kernel_says_them() -> None:
    assert parse_limits({
        "memory": "max\n", "memory_high": "4096\n", "cpus": "50000 100000\n", "cpu_weight": "100\n",
        "io_weight": "default 20\n8:0 50\n", "tasks": "16384\n",
    }) == {
        "memory": None, "memory_high": 4096, "cpus": 0.5, "cpu_weight": 100, "io_weight": 20, "tasks": 16384,
    }  # fmt: skip
    assert parse_limits({"cpus": "max 100000\n"}) == {"cpus": None}


def test_limits_differ_where_the_kernel_says_so() -> None:
    limits = Limits(memory=2**28 + 1, swap=0, tasks=50)
    assert limits.differing({}) == ()
    assert limits.differing({"memory": 2**28, "swap": 0, "tasks": 50, "cpu_weight": 100, "io_weight": 100}) == ()
    assert limits.differing({"memory": None, "swap": None, "tasks": 16384, "cpu_weight": 50}) == (
        "memory", "swap", "cpu_weight", "tasks",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("have", "memory", "wanted"),
    [
        ({"memory": None, "cpus": None}, 2**28, ["let web have 268435456 bytes of memory and no processor limit"]),
        ({"memory": 2**28, "cpus": None}, 2**28, []),
        ({"memory": 2**28, "cpus": None}, 2**28 + 1, []),
        ({"memory": 2**28, "cpus": 0.5}, 2**28, ["let web have 268435456 bytes of memory and no processor limit"]),
        ({"memory": 2**28, "tasks": 16384, "cpu_weight": 100, "io_weight": 100, "swap": None}, 2**28, []),
        ({"tasks": 10}, 2**28, ["let web have 268435456 bytes of memory and no processor limit"]),
        ({}, 2**28, []),
    ],
)
def test_limits_of_a_running_machine_are_the_kernels(
    have: dict[str, float | None], memory: int, wanted: list[str]
) -> None:
    web = machine(memory=memory)
    host = running(host_with(web), "web")
    host = dataclasses.replace(host, limits={"web": have})
    assert [str(step) for step in plan_machine(web, host) if isinstance(step, steps.SetLimits)] == wanted


def test_changed_limits_are_set_where_the_kernel_does_not_say_what_it_has() -> None:
    host = running(host_with(machine()), "web")
    plan = plan_machine(machine(memory=2**28), host)
    assert [type(step) for step in plan if isinstance(step, (steps.WriteFile, steps.ReloadUnits, steps.SetLimits))] == [
        steps.WriteFile,
        steps.ReloadUnits,
        steps.SetLimits,
    ]


def test_limits_are_set_live() -> None:
    host = running(host_with(machine()), "web")
    (step,) = [step for step in plan_machine(machine(tasks=99), host) if isinstance(step, steps.SetLimits)]
    assert step.limits == Limits(tasks=99)
    assert str(step) == "let web have 99 tasks and no memory limit and no processor limit"


def test_copied_nodes_go_with_the_machine() -> None:
    web = machine(devices=(Device("/dev/kvm"),))
    files = render_machine(web, placed(devices={"/dev/kvm": Node("char")}))
    host = edited(host_with(web), paths.dropin_file("web"), files[paths.dropin_file("web")])
    plan = plan_remove("web", host, {"web": web})
    assert [step.path for step in plan if isinstance(step, steps.RemoveLeftover)] == ["/var/lib/machctl/devices-web"]
    assert not any(isinstance(step, steps.RemoveLeftover) for step in plan_remove("web", host_with(machine()), {}))


@pytest.mark.parametrize(
    ("bind", "mapped", "given"),
    [
        (Bind("/srv", "/srv"), set(), False),
        (Bind("/srv", "/srv", mapping="noidmap"), {"/srv"}, False),
        (Bind("/srv", "/srv"), {"/srv"}, True),
        (Bind("/srv", "/srv", read_only=True), set(), True),
    ],
)
def test_root_is_given_to_a_machine_that_cannot_point_it_elsewhere(bind: Bind, mapped: set[str], given: bool) -> None:
    declared = machine(ephemeral=True, binds=(bind,))
    text = "\n".join(unit_lines(declared, Placement(uid=65536, idmap_paths=frozenset(mapped))))
    assert ("chown" in text) is given
    assert ("= overlayfs; then chown 65536:65536 .; fi" in text) is given
