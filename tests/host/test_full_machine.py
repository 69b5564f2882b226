# SPDX-License-Identifier: LGPL-2.1-or-later
"""One machine with every flag of create, made by debootstrap after a create that was killed half-way."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from throwaway import Host, Roads, read_until, until

# On the pool: the host's own root is an overlay, which takes no id-mapped mounts.
SRV = "/var/lib/machines/.kept-srv"


@pytest.fixture(scope="module")
def full(roads: Roads, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = roads.get("trixie").ready().host
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    key = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada@example", "-f", key], check=True)
    host.write("/root/key.pub", Path(f"{key}.pub").read_text())
    host.write(f"{SRV}/rw/key", key.read_text(), mode="600")
    host.write(f"{SRV}/ro/page", "a page of the host\n")
    before = host.snapshot()
    with host.background("machctl", "create", "debian", "full", "--bridge", "br9") as process:
        read_until(process.stderr, "fetching")
        host.sh("kill -KILL $(cat /run/machctl/machine-full.lock)")
        process.wait(timeout=20)
    host.machctl(
        "create", "debian:trixie", "full", "--bootstrapper", "debootstrap", "--bridge", "br0", "--bridge", "br1",
        "--hostname", "box.example", "--memory", "512M", "--cpus", "1.5", "--bind", f"{SRV}/ro:/srv/ro:ro",
        "--bind", f"{SRV}/rw:/srv/rw", "--ssh-key", "/root/key.pub", "-p", "127.0.0.1:2222:22",
        "--package", "less,file", "--start", "--wait", "ip", timeout=600,
    )  # fmt: skip
    yield host
    host.machctl("rm", "--force", "full")
    host.sh(f"rm -rf {SRV} /root/key.pub")
    host.assert_same(before)


def inside(host: Host, *words: str, status: int | None = 0) -> str:
    return host.machctl("exec", "full", "--", *words, status=status).stdout.strip()


def test_debootstraps_machine_is_up_without_a_failed_unit(full: Host) -> None:
    assert inside(full, "systemctl", "is-system-running", "--wait") == "running"


def test_nothing_is_left_of_the_killed_create(full: Host) -> None:
    assert full.sh("ls -A /var/lib/machines | grep '^[.]' | grep -vE '^[.]kept-|[.]lck$' || true") == ""
    assert "br9" not in full.snapshot()


def test_it_has_its_host_name(full: Host) -> None:
    assert inside(full, "hostname") == "box.example"


def test_it_is_on_both_bridges(full: Host) -> None:
    machine = full.machine("full")
    assert len([address for address in machine["addresses"] if "." in address]) == 2
    assert len([address for address in machine["addresses"] if ":" in address]) == 2
    links = full.sh("ip -o link show master br1; ip -o link show master br0 | grep full")
    assert len(links.splitlines()) == 2
    assert len(inside(full, "ip", "-o", "-4", "route", "show", "default").splitlines()) == 1


def test_limits_are_in_its_unit(full: Host) -> None:
    shown = full.sh("systemctl show systemd-nspawn@full --property=MemoryMax,CPUQuotaPerSecUSec").split()
    assert "MemoryMax=536870912" in shown
    assert any(word.startswith("CPUQuotaPerSecUSec=1.5") for word in shown)


def test_it_reads_a_read_only_bind_and_cannot_write_it(full: Host) -> None:
    assert inside(full, "cat", "/srv/ro/page") == "a page of the host"
    inside(full, "touch", "/srv/ro/mine", status=1)
    assert full.sh(f"ls {SRV}/ro") == "page"


def test_what_its_root_writes_in_a_bind_is_roots_on_the_host(full: Host) -> None:
    inside(full, "sh", "-c", "echo written inside >/srv/rw/note; chown nobody /srv/rw/note")
    assert full.read(f"{SRV}/rw/note") == "written inside\n"
    assert full.sh(f"stat -c '%u' {SRV}/rw/note") == "65534"
    inside(full, "chown", "root:root", "/srv/rw/note")
    assert full.sh(f"stat -c '%u:%g' {SRV}/rw/note") == "0:0"


SSH = ("ssh", "-i", "/srv/rw/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "root@127.0.0.1")


def test_ssh_lets_the_owner_of_the_key_in(full: Host) -> None:
    assert inside(full, "stat", "-c", "%a %U", "/root/.ssh/authorized_keys", "/root/.ssh") == "600 root\n700 root"
    assert inside(full, *SSH, "echo", "in") == "in"


def test_logind_is_there_once_somebody_logs_in(full: Host) -> None:
    full.machctl("restart", "full")
    assert inside(full, "systemctl", "is-active", "systemd-logind", status=3) == "inactive"
    assert inside(full, *SSH, "echo $XDG_RUNTIME_DIR") == "/run/user/0"
    assert inside(full, "systemctl", "is-active", "systemd-logind") == "active"


def test_what_lingers_is_there_after_a_boot(full: Host) -> None:
    inside(full, "sh", "-c", "useradd --uid 1234 ada && loginctl enable-linger ada")
    full.machctl("restart", "full")
    until(lambda: inside(full, "systemctl", "is-active", "user@1234", status=None), lambda state: state == "active")
    assert inside(full, "systemctl", "is-system-running") == "running"


def test_its_port_answers_on_loopback_alone(full: Host) -> None:
    banner = "exec 3<>/dev/tcp/127.0.0.1/2222; head -c 7 <&3"
    assert until(lambda: full.run("timeout", "10", "bash", "-c", banner, status=None).stdout, bool) == "SSH-2.0"
    full.run("curl", "-sS", "--max-time", "5", "http://10.0.2.100:2222", status=7)


def test_its_packages_are_installed(full: Host) -> None:
    assert inside(full, "dpkg-query", "-W", "-f", "${Package} ", "less", "file") == "file less"


def test_its_declaration_says_all_of_it(full: Host) -> None:
    declared = full.machine("full")["declaration"]
    assert declared["bootstrapper"] == "debootstrap"
    assert declared["bridges"] == ["br0", "br1"]
    assert declared["binds"] == [f"{SRV}/ro:/srv/ro:ro", f"{SRV}/rw:/srv/rw"]
    assert declared["publish"] == ["127.0.0.1:2222:22"]
    assert (declared["hostname"], declared["memory"], declared["cpus"]) == ("box.example", "512M", 1.5)
    assert full.machctl("apply").stderr == "nothing to do\n"
