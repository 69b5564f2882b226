# SPDX-License-Identifier: LGPL-2.1-or-later
"""set and rm, bridges that others use or made, and machines that machctl did not make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host, Road, until

DECLARATION = "/etc/machctl/fleet.d/{}.toml"
DROPIN = "/etc/systemd/system/systemd-nspawn@{}.service.d/50-machctl.conf"

pytestmark = pytest.mark.usefixtures("unchanged")


def declare(host: Host, name: str, text: str) -> None:
    host.write(DECLARATION.format(name), f'[machines.{name}]\nsource = "debian:trixie"\n{text}')


@pytest.fixture
def second(kept: str, debian: Road) -> Iterator[Host]:
    """A second machine of machctl's on the same bridge, running; its tree is a copy."""
    host = debian.host
    host.place_tree(kept, "second")
    declare(host, "second", 'bridges = ["br0"]\npublish = ["8081:80"]\n')
    host.machctl("apply", "second")
    host.machctl("start", "second", "--wait", "ip")
    yield host
    host.machctl("rm", "--force", "second", status=None)


def test_limits_are_set_in_the_unit_and_in_the_declaration(debian: Road) -> None:
    host = debian.host
    before = host.read(DECLARATION.format("debian"))
    host.machctl("set", "debian", "memory=256M", "cpus=0.5").says("set memory=256M cpus=0.5 on debian")
    assert "MemoryMax=268435456\nCPUQuota=50%\n" in host.read(DROPIN.format("debian"))
    assert 'memory = "256M"\ncpus = 0.5\n' in host.read(DECLARATION.format("debian"))
    shown = host.sh("systemctl show systemd-nspawn@debian --property=MemoryMax,CPUQuotaPerSecUSec")
    assert set(shown.split()) == {"MemoryMax=268435456", "CPUQuotaPerSecUSec=500ms"}
    host.machctl("plan", "--detailed-exitcode")
    host.machctl("set", "debian", "memory=256M").says("already")
    host.machctl("set", "debian", "memory=", "cpus=")
    assert host.read(DECLARATION.format("debian")) == before
    host.machctl("plan", "--detailed-exitcode")


def test_comments_in_a_declaration_survive(debian: Road) -> None:
    host = debian.host
    path = DECLARATION.format("debian")
    before = host.read(path)
    host.write(path, before.replace("source =", "# mine\nsource ="))
    host.machctl("set", "debian", "memory=256M")
    assert "# mine\nsource =" in host.read(path)
    host.machctl("set", "debian", "memory=")
    host.write(path, before)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("memory=10",), 2, "16M"),
        (("memory=-1",), 2, "-1"),
        (("memory=huge",), 2, "huge"),
        (("cpus=0",), 2, "'0'"),
        (("cpus=many",), 2, "many"),
        (("cpus=nan",), 2, "nan"),
        (("colour=red",), 2, "colour"),
        (("memory",), 2, "KEY=VALUE"),
        (("memory=512M", "cpus=many"), 2, "many"),
    ],
)
def test_a_bad_value_changes_nothing(host: Host, words: tuple[str, ...], status: int, says: str) -> None:
    host.machctl("set", "debian", *words, status=status).says(says)


def test_a_running_machine_is_not_removed(debian: Road) -> None:
    debian.host.machctl("rm", "debian", status=5).says("debian", "running", "rm --force debian")
    assert debian.host.state("debian") == "running"


def test_what_is_not_there_is_not_removed(host: Host) -> None:
    host.machctl("rm", "nosuch", status=4).says("nosuch")
    host.machctl("rm", "../x", status=2).says("../x")


def test_a_second_machine_has_its_own_address_and_port_and_leaves_alone(second: Host, debian: Road) -> None:
    address, _ = second.machine("second")["addresses"]
    assert address != debian.address
    assert address.rsplit(".", 1)[0] == debian.address.rsplit(".", 1)[0]
    for port in (8080, 8081):
        assert "nginx" in second.get(f"http://127.0.0.1:{port}")
        assert "nginx" in second.get(f"http://10.0.2.100:{port}")
    # The bridge stays, with the machine that is still on it.
    second.machctl("rm", "--force", "second").says("removed second")
    assert "nginx" in second.get("http://10.0.2.100:8080")
    second.run("curl", "-sS", "--max-time", "5", "http://127.0.0.1:8081", status=7)
    second.machctl("plan", "--detailed-exitcode")


def test_machines_reach_each_other_and_each_others_ports(second: Host, debian: Road) -> None:
    for target in (f"{debian.address}/80", "10.0.2.100/8080"):
        script = f'exec 3<>/dev/tcp/{target}; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
        done = second.machctl("exec", "second", "--", "timeout", "10", "bash", "-c", script)
        assert "nginx" in done.stdout, target


def test_a_port_of_another_machine_is_refused(second: Host) -> None:
    second.machctl("create", "debian", "third", "-p", "8081:80", status=5).says("8081", "second", "--publish 8082")


def test_a_bridge_of_others_is_used_as_it_is(kept: str, host: Host) -> None:
    # With an address that does not follow those of its ports; its carrier does.
    host.sh("ip link add lan address 02:00:00:00:00:01 type bridge")
    host.sh("ip link set lan up; ip address add 198.51.100.1/24 dev lan")
    # Nor do its timers, and what its ports can offload.
    look = "ip -d -o link show lan; ip -o -4 address show lan"
    show = f"({look}) | sed -E 's/<[^>]*>|state [A-Z]+|_timer +[0-9.]+|_size [0-9]+//g'"
    before = host.sh(show)
    try:
        host.place_tree(kept, "guest")
        declare(host, "guest", 'bridges = ["lan"]\n')
        host.machctl("apply", "guest")
        host.machctl("start", "guest")
        assert "vb-guest" in host.sh("ip -o link show master lan")
        assert not host.sh("ls /etc/systemd/network | grep lan", status=None)
        host.machctl("plan", "--detailed-exitcode")
        host.machctl("rm", "--force", "guest")
        assert host.sh(show) == before
    finally:
        host.machctl("rm", "--force", "guest", status=None)
        host.sh("ip link delete lan")


def test_a_link_that_is_no_bridge_is_refused(host: Host) -> None:
    host.machctl("create", "debian", "guest", "--bridge", "tap0", status=5).says("tap0", "not a bridge")


def test_a_machine_of_others_is_like_ones_own(kept: str, host: Host) -> None:
    settings = "[Exec]\nBoot=yes\nPrivateUsers=pick\n\n[Network]\nVirtualEthernet=no\n"
    host.place_tree(kept, "foreign")
    host.write("/etc/systemd/nspawn/foreign.nspawn", settings)
    assert host.machine("foreign")["declared"] is False
    assert host.state("foreign") == "stopped"
    host.machctl("start", "foreign")
    # Without NotifyReady=yes nobody says when it has booted.
    said = until(lambda: host.machctl("exec", "foreign", "--", "hostname", status=None).stdout, bool)
    assert said == "foreign\n"
    assert host.machctl("shell", "foreign", "/bin/echo", "hi").stdout.strip() == "hi"
    assert settings in host.machctl("cat", "foreign").stdout
    host.machctl("set", "foreign", "memory=1G", status=4).says("foreign", "not declared", "systemctl set-property")
    # What machctl does for its own does not touch it.
    host.machctl("apply")
    assert host.read("/etc/systemd/nspawn/foreign.nspawn") == settings
    host.machctl("stop", "foreign")
    host.machctl("rm", "foreign")
    assert host.state("foreign") == ""
    assert not host.exists("/etc/systemd/nspawn/foreign.nspawn")


def test_a_machine_whose_tree_is_gone_is_named_and_cleaned_up(kept: str, host: Host) -> None:
    host.place_tree(kept, "gone")
    declare(host, "gone", "")
    host.machctl("apply", "gone")
    host.drop_tree("/var/lib/machines/gone")
    host.machctl("start", "gone", status=4).says("gone", "machctl rm gone")
    assert host.state("gone") == "missing"
    host.machctl("rm", "gone")
    assert host.state("gone") == ""


def test_a_started_machine_that_nobody_declared_any_more_goes_whole(kept: str, host: Host) -> None:
    host.place_tree(kept, "stray")
    declare(host, "stray", 'publish = ["8085:80"]\n')
    host.machctl("apply", "stray")
    host.run("rm", DECLARATION.format("stray"))
    host.machctl("rm", "stray")
    assert not host.sh("find /etc/systemd /var/lib/machctl -name '*stray*'")


def test_rm_takes_patterns(kept: str, host: Host) -> None:
    for name in ("tmp1", "tmp2"):
        host.place_tree(kept, name)
    host.machctl("rm", "tmp*").says("removed tmp1", "removed tmp2")
