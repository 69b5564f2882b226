# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines may use and how they are held, tried on one machine that is changed and started again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host, Road, until

# keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1), which whoever makes containers begins with.
KEYRING = """perl -e 'exit(syscall({"x86_64", 250, "aarch64", 219}->{`uname -m | tr -d "\\n"`}, 0, -3, 1) < 0)'"""
# The kernel's log (Documentation/admin-guide/devices.txt), which nspawn's own unit lets no machine open.
NODE = "/dev/held-log"
COPIES = "ls -A /var/lib/machctl | grep -c ^devices- || true"

pytestmark = pytest.mark.usefixtures("unchanged")


@pytest.fixture
def held(debian: Road) -> Iterator[Host]:
    """A host with one more machine, which runs with all kinds of settings."""
    host = debian.host
    host.sh(f"mknod -m 600 {NODE} c 1 11")
    host.copy(
        "held", "--nesting", "--tmpfs", "/srv/scratch:8M", "--device", f"{NODE}:w", "--cap-add", "sys_nice",
        "--drop-capability", "lease", "--tasks", "300", "--swap", "0", "--cpu-weight", "50",
        "--restart", "on-failure", "--bind", "/var/lib/machctl/guests:/srv/guests:ro,idmap", "--start", "--wait", "ip",
    )  # fmt: skip
    yield host
    host.machctl("rm", "--force", "held", "layered", status=None)
    host.machctl("rm", "--force", "held", status=None)
    host.run("rm", NODE)


def test_settings_hold_in_a_machine(held: Host) -> None:
    assert held.inside("held", f"{KEYRING} && echo keys") == "keys"
    assert held.inside("held", "df --output=size /srv/scratch | tail -1") == "8192"
    # Its own node, with its own root as the owner, and only for what was said.
    assert held.inside("held", f"stat -c %U {NODE}; : >{NODE} && echo open") == "root\nopen"
    assert held.inside("held", f"(: <{NODE}) 2>/dev/null || echo refused") == "refused"
    assert held.inside("held", "stat -c %U /srv/guests") == "root"
    bounding = int(held.inside("held", "sed -n 's/^CapBnd:.//p' /proc/1/status"), 16)
    assert (bounding >> 23 & 1, bounding >> 28 & 1) == (1, 0), "sys_nice and lease (linux/capability.h)"
    unit = "systemd-nspawn@held.service"
    shown = held.sh(f"systemctl show {unit} --property=TasksMax,MemorySwapMax,CPUWeight,Restart,RestartUSec")
    assert set(shown.split()) == {
        "TasksMax=300", "MemorySwapMax=0", "CPUWeight=50", "Restart=on-failure", "RestartUSec=1s",
    }  # fmt: skip
    before = held.machine("held")["leader"]
    held.machctl("set", "held", "tasks=400", "restart=always", "cpu-weight=")
    assert held.machine("held")["leader"] == before
    shown = held.sh(f"systemctl show {unit} --property=TasksMax,CPUWeight,Restart")
    assert set(shown.split()) == {"TasksMax=400", "CPUWeight=[not", "set]", "Restart=always"}
    held.sh(f"systemctl set-property {unit} TasksMax=77; systemctl set-property --runtime {unit} IOWeight=60")
    assert "tasks: 77 -> 400" in held.machctl("plan", "held").stdout
    held.machctl("apply", "held")
    shown = held.sh(f"systemctl show {unit} --property=TasksMax,IOWeight")
    assert set(shown.split()) == {"TasksMax=400", "IOWeight=60"}
    assert held.machctl("plan", "held", "--detailed-exitcode").status == 0
    held.sh(f"systemctl set-property --runtime {unit} IOWeight=; rmdir /etc/systemd/system.control")
    held.run("kill", "-KILL", str(before))
    again = until(lambda: held.machine("held"), lambda found: found["leader"] not in {None, before})
    assert again["restarts"] == 1
    assert held.sh(COPIES).strip() == "1"
    until(lambda: held.state("held"), lambda state: state == "running")
    held.machctl("stop", "held")
    assert held.sh(COPIES).strip() == "0"


def test_roots_that_forget(held: Host) -> None:
    written = "; ".join(f"touch {path}/mark 2>/dev/null && echo {path}" for path in ("/", "/usr", "/etc", "/var"))
    # Both of the tree's owners: mapped by nspawn, and fixed in the layer of another machine.
    held.copy("layered", "--storage", "overlay", "--volatile", "overlay", "--start")
    assert held.inside("layered", written).split() == ["/", "/usr", "/etc", "/var"]
    for values, where in (
        (["read-only=yes"], []),
        (["read-only=no", "volatile=yes"], ["/", "/etc", "/var"]),
        (["volatile=state"], ["/var"]),
        (["volatile=overlay"], ["/", "/usr", "/etc", "/var"]),
    ):
        held.machctl("set", "held", *values)
        held.machctl("restart", "held")
        look = f"ls -d /mark /*/mark 2>/dev/null; {written}; loginctl --no-legend list-users >/dev/null;"
        look += "systemctl is-active systemd-logind systemd-networkd"
        assert held.inside("held", look).split() == [*where, "active", "active"]


def test_what_cannot_be_is_refused(debian: Road) -> None:
    host = debian.host
    before = host.read("/etc/machctl/fleet.d/debian.toml")
    host.machctl("set", "debian", "binds=/proc:/srv/proc", status=7).says(
        "cannot show the machine its files as its own"
    )
    host.machctl("set", "debian", "devices=/dev/no-such", status=4).says("the host has no /dev/no-such")
    host.machctl("set", "debian", "devices=/dev/net", status=2).says('devices = ["/dev/net/tun"]')
    host.machctl("set", "debian", "capabilities=net_admn", status=2).says("did you mean net_admin?")
    assert host.read("/etc/machctl/fleet.d/debian.toml") == before
