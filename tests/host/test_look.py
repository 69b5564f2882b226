# SPDX-License-Identifier: LGPL-2.1-or-later
"""list, status, show, cat, logs, version, completion, doctor."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator

import pytest

from throwaway import Host, Road, read_until

pytestmark = pytest.mark.usefixtures("unchanged")


@pytest.fixture
def stopped(debian: Road) -> Iterator[Host]:
    debian.host.machctl("stop", "debian")
    yield debian.host
    debian.host.machctl("start", "debian", "--wait", "ip")


@pytest.mark.parametrize("verb", ["list", "ls", "ps"])
def test_list_has_the_names_that_people_type(debian: Road, verb: str) -> None:
    assert debian.host.machctl(verb).stdout.splitlines()[1].split()[:2] == ["debian", "running"]


def test_list_prints_what_programs_read(debian: Road) -> None:
    host = debian.host
    address = debian.address
    (row,) = host.machctl("list", "-o", "json").json()
    (in_csv,) = csv.DictReader(io.StringIO(host.machctl("list", "-o", "csv").stdout))
    assert in_csv["name"] == row["name"] == "debian"
    assert in_csv["addresses"].split()[0] == address
    yaml = host.machctl("list", "-o", "yaml").stdout
    assert '- name: "debian"' in yaml
    assert f'    - "{address}"' in yaml
    assert host.machctl("list", "-o", "name").stdout == "debian\n"
    assert host.machctl("ip", "-o", "name").stdout == host.machctl("net", "ls", "-o", "name").stdout == "debian\n"
    assert "debian" in host.machctl("events", "-o", "name").stdout.splitlines()
    assert host.machctl("doctor", "-o", "name", status=None).status < 2
    assert host.machctl("--no-legend", "list").stdout.split()[:2] == ["debian", "running"]
    assert host.machctl("list", "--no-legend", "-o", "csv").stdout.startswith("debian,running,")
    host.machctl("list", "-o", "xml", status=2).says("xml", "json")


def test_list_narrows_to_names(host: Host) -> None:
    host.machctl("list", "nosuch", status=4).says("nosuch")
    assert host.machctl("list", "d*", "-o", "name").stdout == "debian\n"


def test_list_may_be_cut_short(debian: Road) -> None:
    debian.host.sh("machctl list | head -c 1 >/dev/null; machctl show debian --json | true")


def test_status_of_a_running_machine(debian: Road) -> None:
    text = debian.host.machctl("status", "debian").stdout
    for words in ("debian", "running for", debian.address, "8080:80", "systemd-nspawn@debian.service", "debian.toml"):
        assert words in text
    assert debian.host.machctl("status", "debian", "--json").json()["state"] == "running"


def test_status_of_a_stopped_machine_is_3(stopped: Host) -> None:
    assert "stopped" in stopped.machctl("status", "debian", status=3).stdout
    assert stopped.machctl("list", "--json").json()[0]["addresses"] == []
    assert stopped.machctl("list", "--json").json()[0]["os"] == "debian 13"


def test_show_is_one_object_for_one_machine(debian: Road) -> None:
    shown = debian.host.machctl("show", "debian", "--json").json()
    assert shown["leader"] == int(debian.host.sh("machinectl show debian --property=Leader --value"))
    assert shown["declaration"]["packages"] == ["nginx-light"]
    assert shown["tree"] == "/var/lib/machines/debian"
    assert 'state: "running"' in debian.host.machctl("show", "debian").stdout


def test_cat_shows_every_file_of_a_machine(host: Host) -> None:
    files = json.loads(host.machctl("cat", "debian", "--json").stdout)
    assert "/etc/systemd/nspawn/debian.nspawn" in files
    assert "/etc/machctl/fleet.d/debian.toml" in files
    assert "/etc/systemd/system/systemd-nspawn@debian.service.d/50-machctl.conf" in files
    for path, text in files.items():
        assert host.read(path) == text
    assert "# /etc/systemd/nspawn/debian.nspawn\n" in host.machctl("cat", "debian").stdout


def test_logs_are_the_machines_own(debian: Road) -> None:
    host = debian.host
    host.machctl("exec", "debian", "--", "logger", "-t", "greeter", "hello from inside")
    assert len(host.machctl("logs", "debian", "-n", "3").stdout.splitlines()) == 3
    assert "nginx" in host.machctl("logs", "debian", "-u", "nginx").stdout.lower()
    assert "hello from inside" in host.machctl("logs", "debian", "-n", "50").stdout
    assert "greeter" not in host.machctl("logs", "debian", "-u", "nginx").stdout


def test_logs_of_a_stopped_machine(stopped: Host) -> None:
    assert "Journal stopped" in stopped.machctl("logs", "debian", "-n", "20").stdout
    assert "nginx" in stopped.machctl("logs", "debian", "-u", "nginx").stdout.lower()


def test_followed_logs_come_as_they_are_written_and_end_by_a_signal(debian: Road) -> None:
    with debian.host.background("machctl", "logs", "debian", "-f", "-n", "1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        debian.host.machctl("exec", "debian", "--", "logger", "-t", "greeter", "follow me")
        read_until(process.stdout, "follow me")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in {0, 128 + signal.SIGINT}


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [(("nosuch",), 4, "nosuch"), (("debian", "-n", "many"), 2, "many"), (("../x",), 4, "../x")],
)
def test_logs_refuse(host: Host, words: tuple[str, ...], status: int, says: str) -> None:
    host.machctl("logs", *words, status=status).says(says)


def test_version(host: Host) -> None:
    assert host.machctl("version").stdout.startswith("machctl ")
    assert host.machctl("version", "--json").json()["name"] == "machctl"


def test_bash_accepts_its_completion(host: Host) -> None:
    script = host.machctl("completion", "bash").stdout
    assert "machctl" in script
    host.run("bash", "-n", "-c", script)
    for shell in ("zsh", "fish"):
        assert "machctl" in host.machctl("completion", shell).stdout
    host.machctl("completion", "csh", status=2).says("csh", "bash")


def test_machines_are_completed(debian: Road) -> None:
    words = 'COMP_WORDS="machctl stop de" COMP_CWORD=2 _MACHCTL_COMPLETE=complete_bash machctl'
    assert debian.host.sh(words) == "debian"


def test_help_names_every_verb(host: Host) -> None:
    text = host.machctl("--help").stdout
    for verb in ("create", "start", "shell", "exec", "logs", "list", "set", "rm", "plan", "apply", "doctor"):
        assert f"\n  {verb} " in text
    assert "--publish" in host.machctl("create", "--help").stdout
    host.machctl("frobnicate", status=2).says("frobnicate")


def test_doctor_finds_a_good_host_good(host: Host) -> None:
    findings = host.machctl("doctor", "--json").json()
    assert {finding["level"] for finding in findings} == {"ok"}
    assert {"root", "systemd", "machined", "tools", "networkd", "limits", "disk", "forwarding", "firewall"} <= {
        finding["check"] for finding in findings
    }


DOCKER = """
add table ip filter
add chain ip filter DOCKER-USER
add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add rule ip filter FORWARD jump DOCKER-USER
"""


def test_doctor_sees_that_docker_drops_what_is_forwarded(host: Host) -> None:
    host.run("nft", "-f", "-", stdin=DOCKER)
    try:
        done = host.machctl("doctor")
        assert "Docker" in done.stdout
        assert "iptables -I DOCKER-USER -i br0 -j ACCEPT" in done.stdout
        (finding,) = (row for row in host.machctl("doctor", "--json").json() if row["check"] == "firewall")
        assert finding["level"] == "warning"
    finally:
        host.sh("nft delete table ip filter")


def test_doctor_sees_a_masked_machined(host: Host) -> None:
    host.sh("systemctl mask --runtime systemd-machined.service 2>/dev/null")
    try:
        done = host.machctl("doctor", status=1)
        assert "systemd-machined is masked" in done.stdout
        assert "systemctl unmask" in done.stdout
    finally:
        host.sh("systemctl unmask --runtime systemd-machined.service 2>/dev/null")


def test_doctor_sees_a_host_without_systemd(host: Host) -> None:
    script = "mount -t tmpfs none /run/systemd && machctl doctor"
    assert "systemd is not PID 1" in host.sh('unshare --mount sh -c "$1"', script, status=1)


def test_doctor_sees_a_full_disk_and_missing_tools(host: Host) -> None:
    script = "mount -t tmpfs -o size=100M none /var/lib/machines && machctl doctor"
    text = host.sh('unshare --mount sh -c "$1"', script, status=1)
    assert "0.1 GB free" in text
    assert "bad" in text
    script = "mount -t tmpfs none /tmp && touch /tmp/no && mount --bind /tmp/no /usr/sbin/nft && machctl doctor"
    text = host.sh('unshare --mount sh -c "$1"', script, status=1)
    assert "nft is not installed" in text
    assert "apt install nftables" in text


def test_doctor_tells_whoever_is_not_root(host: Host) -> None:
    done = host.run("runuser", "-u", "nobody", "--", "machctl", "doctor")
    assert "not running as root" in done.stdout
    assert "sudo" in done.stdout


@pytest.mark.parametrize("words", [("image", "ls"), ("net", "ls"), ("logs", "debian"), ("events",)], ids=" ".join)
def test_what_only_root_can_see_is_not_said_to_be_missing(debian: Road, words: tuple[str, ...]) -> None:
    done = debian.host.run("runuser", "-u", "nobody", "--", "machctl", *words, status=6)
    assert done.stdout == ""
    assert "need" in done.stderr
    assert done.stderr.endswith("\n  run it again with sudo\n")


def test_looking_takes_no_root(debian: Road) -> None:
    row = debian.host.run("runuser", "-u", "nobody", "--", "machctl", "list", "--json").json()[0]
    assert (row["name"], row["state"], row["addresses"][0]) == ("debian", "running", debian.address)
