# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job from end to end, on every kind of host."""

from __future__ import annotations

import re

import pytest

from throwaway import Road, until

# A second host on the LAN: a network namespace, joined to the host by a cable.
ANOTHER_HOST = r"""
set -e
unshare --net sleep 60 & other=$!
trap 'kill $other; ip link del lan0 2>/dev/null || true' EXIT
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add lan0 type veth peer name lan1 netns $other
ip address add 192.0.2.1/24 dev lan0
ip link set lan0 up
nsenter --net=/proc/$other/ns/net sh -ec 'ip address add 192.0.2.2/24 dev lan1; ip link set lan1 up'
nsenter --net=/proc/$other/ns/net curl -sS --max-time 20 --retry 5 --retry-connrefused http://192.0.2.1:8080
"""
SERVER = "nginx"


def test_create_says_what_it_did_on_stderr(road: Road) -> None:
    assert road.created.stdout == ""
    assert "created debian (debian:trixie)" in road.created.stderr
    assert re.search(r"started debian in [\d.]+ s", road.created.stderr)
    assert "\x1b" not in road.created.stderr


def test_list_tells_all_that_is_promised(road: Road) -> None:
    (row,) = road.host.machctl("list", "--json").json()
    address, address6 = row["addresses"]
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+", address)
    assert re.fullmatch(r"fd[0-9a-f:]+::2", address6)
    assert {key: row[key] for key in ("name", "state", "class", "source", "os", "ports", "unit", "declared")} == {
        "name": "debian",
        "state": "running",
        "class": "container",
        "source": "debian:trixie",
        "os": "debian 13",
        "ports": ["8080:80"],
        "unit": "systemd-nspawn@debian.service",
        "declared": True,
    }
    table = road.host.machctl("list").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "CLASS", "OS", "ADDRESSES", "PORTS"]
    assert table[1].split() == ["debian", "running", "container", "debian", "13", address, address6, "8080:80"]


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "10.0.2.100"])
def test_port_answers_on_the_host(road: Road, address: str) -> None:
    assert SERVER in road.host.get(f"http://{address}:8080")


def test_port_answers_another_host(road: Road) -> None:
    assert SERVER in road.host.sh(ANOTHER_HOST)


def test_port_answers_the_machine_itself(road: Road) -> None:
    script = 'exec 3<>/dev/tcp/10.0.2.100/8080; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
    assert SERVER in road.host.machctl("exec", "debian", "--", "timeout", "10", "bash", "-c", script).stdout


def test_machine_is_up_without_a_failed_unit(road: Road) -> None:
    done = road.host.machctl("exec", "debian", "--", "systemctl", "is-system-running")
    assert done.stdout == "running\n"
    assert done.stderr == ""
    failed = road.host.machctl("exec", "debian", "--", "systemctl", "--failed", "--no-legend", "--plain")
    assert failed.stdout.strip() == ""


def test_host_has_no_failed_unit(road: Road) -> None:
    assert road.host.sh("systemctl --failed --no-legend --plain") == ""


def test_systemd_knows_the_machine(road: Road) -> None:
    assert re.search(r"^debian +container +systemd-nspawn", road.host.sh("machinectl list"), re.MULTILINE)
    assert "active (running)" in road.host.sh("systemctl status systemd-nspawn@debian")
    assert "debian" in road.host.sh("journalctl --machine=debian --lines=5 --no-pager")


def test_machine_reaches_names_and_the_world(road: Road) -> None:
    # Where its own packages come from is all that is sure to be there.
    script = """
        set -e
        url=$(grep -hom1 'http://[^ ]*' /etc/apt/sources.list /etc/apt/sources.list.d/* | head -n 1)
        name=${url#http://}; name=${name%%/*}
        getent ahostsv4 "$name" >/dev/null
        [[ ${http_proxy-} ]] || : <>/dev/tcp/$name/80
        echo "$name"
    """
    assert "." in road.host.machctl("exec", "debian", "--", "bash", "-c", script).stdout


def test_machine_is_known_by_name_on_the_host(road: Road) -> None:
    assert road.host.sh("getent hosts debian").split()[-1] == "debian"


def test_machine_has_an_identity_of_its_own(road: Road) -> None:
    inside = road.host.machctl("exec", "debian", "--", "cat", "/etc/machine-id", "/etc/hostname", status=None).stdout
    assert re.match(r"[0-9a-f]{32}\n", inside)
    assert inside.split()[0] != road.host.read("/etc/machine-id").strip()
    assert road.host.machctl("exec", "debian", "--", "hostname").stdout == "debian\n"
    tree = "/var/lib/machines/debian"
    assert road.host.sh(f"readlink {tree}/etc/resolv.conf") == "../run/systemd/resolve/stub-resolv.conf"
    assert "uplink" not in road.host.sh(f"cat {tree}/etc/hosts {tree}/etc/hostname 2>/dev/null", status=None)


def test_no_password_opens_the_machine(road: Road) -> None:
    shadow = road.host.machctl("exec", "debian", "--", "cat", "/etc/shadow").stdout
    unlocked = [line for line in shadow.splitlines() if line.split(":")[1] not in {"*", "!", "!*", "!!"}]
    assert not unlocked


def test_machine_has_private_users(road: Road) -> None:
    inside = road.host.machctl("exec", "debian", "--", "cat", "/proc/self/uid_map").stdout.split()
    assert inside[0] == "0"
    assert inside[1] != "0"


def test_shell_runs_a_command(road: Road) -> None:
    assert road.host.machctl("shell", "debian", "/bin/echo", "hi").stdout.strip() == "hi"


def test_apply_after_create_plans_nothing(road: Road) -> None:
    done = road.host.machctl("apply")
    assert (done.stdout, done.stderr) == ("", "nothing to do\n")
    road.host.machctl("plan", "--detailed-exitcode", status=0)


def test_doctor_finds_nothing_bad(road: Road) -> None:
    findings = road.host.machctl("doctor", "--json").json()
    assert [finding for finding in findings if finding["level"] != "ok"] == []


def test_ports_are_closed_while_the_machine_is_stopped(road: Road) -> None:
    address = road.address
    assert re.search(r"stopped debian in [\d.]+ s", road.host.machctl("stop", "debian").stderr)
    for own in ("127.0.0.1", "[::1]", "10.0.2.100"):
        road.host.run("curl", "-sS", "--globoff", "--max-time", "5", f"http://{own}:8080", status=7)
    assert road.host.state("debian") == "stopped"
    road.host.machctl("start", "debian", "--wait", "ip")
    assert road.address == address
    assert SERVER in until(lambda: road.host.get("http://127.0.0.1:8080"), lambda text: SERVER in text)


def test_an_autostart_machine_is_up_again_after_a_reboot(road: Road) -> None:
    host = road.host
    address = road.address
    boot = "systemctl show --property=UserspaceTimestampMonotonic"
    before = host.sh(boot)
    host.machctl("enable", "debian")
    try:
        host.run("systemctl", "reboot", status=None)
        assert host.sh(boot) != before
        assert until(lambda: host.state("debian"), lambda state: state == "running") == "running"
        host.machctl("start", "debian", "--wait", "ip")
        assert road.address == address
        for own in ("127.0.0.1", "10.0.2.100"):
            assert SERVER in host.get(f"http://{own}:8080")
        assert host.machctl("apply").stderr == "nothing to do\n"
        assert host.sh("systemctl --failed --no-legend --plain") == ""
    finally:
        host.machctl("disable", "debian")


def test_rm_leaves_the_host_as_it_was(road: Road) -> None:
    host = road.host
    declaration = host.read("/etc/machctl/fleet.d/debian.toml")
    address = road.address
    host.machctl("stop", "debian")
    kept = host.keep_tree("debian")
    host.machctl("rm", "debian")
    try:
        host.assert_same(road.before)
    finally:
        # The machine comes back for the tests after this one, without a bootstrap.
        host.place_tree(kept, "debian")
        host.write("/etc/machctl/fleet.d/debian.toml", declaration)
        host.machctl("apply", "debian")
        host.drop_tree(kept)
        host.machctl("start", "debian", "--wait", "ip")
    assert road.address == address
