# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines and files that leave one host and come to another: export, import, cp."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from throwaway import Host, Roads

# Every file with all that an archive has to keep of it but extended attributes.
LISTING = r"""
cd /
find etc home opt root srv usr var -xdev -not -path 'var/log/journal*' -not -path 'var/lib/systemd/*' \
    -not -path 'etc/hosts' -not -path 'etc/resolv.conf' -not -path 'var/log/*' -not -path 'var/tmp/*' \
    \( -type d -printf '%p %M %U:%G\n' -o -printf '%p %M %U:%G %s %n %l\n' \) | LC_ALL=C sort
find opt -type f -exec sha256sum {} + | LC_ALL=C sort
find opt -printf '%p %T+\n' | LC_ALL=C sort
"""
ODD = r"""
mkdir -p /opt/odd
cd /opt/odd
useradd --uid 4321 --no-create-home keeper
umask 0
echo words >plain; chown keeper:games plain; chmod 2640 plain
touch -d '2200-01-01 00:00:00.320357371' plain
ln plain hard; ln -s /nosuch dangling; cp /usr/bin/true setuid; chmod 4755 setuid; mkfifo pipe
printf '\351\n' >"$(printf 'latin-\351')"; echo >"with
newline"
truncate -s 300M sparse; printf x | dd of=sparse bs=1 seek=200M conv=notrunc status=none
"""


@pytest.fixture
def here(roads: Roads) -> Iterator[Host]:
    """The host that a machine leaves."""
    with roads.get("trixie").ready().host.only_debian() as host:
        yield host


@pytest.fixture
def there(roads: Roads) -> Iterator[Host]:
    """The host that it comes to, with another driver and nothing of networkd."""
    with roads.get("static").ready().host.only_debian() as host:
        yield host


@pytest.fixture(params=("trixie", "static"))
def pool(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """Each of the two, in turn."""
    with roads.get(request.param).ready().host.only_debian() as host:
        yield host


def carry(path: str, source: Host, target: Host) -> None:
    """Copy a file from one host to another."""
    with subprocess.Popen(source.argv("cat", path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
        subprocess.run(target.argv("sh", "-c", 'cat >"$1"', "sh", path), stdin=reader.stdout, check=True, timeout=120)
    assert reader.returncode == 0


def listing(host: Host, name: str) -> list[str]:
    return host.machctl("exec", name, "--", "sh", "-c", LISTING).stdout.splitlines()


ATTRIBUTES = """
import os, struct, sys
directory, action = sys.argv[1:]
plain, setuid = directory + "/opt/odd/plain", directory + "/opt/odd/setuid"
if action == "set":
    os.setxattr(plain, "user.note", b"hello")
    os.setxattr(setuid, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
# Behind the revision: the capabilities themselves; the last word is whose root they are for, if not the host's.
print(os.getxattr(plain, "user.note"), os.getxattr(setuid, "security.capability")[4:20])
"""
"""Of a stopped machine, from the host: tools for these are not in the machine."""


def test_a_machine_that_is_exported_and_imported_elsewhere_is_equal(here: Host, there: Host) -> None:
    here.copy("web", "-p", "8092:80", "--memory", "512M", "--start", "--wait", "ip")
    here.inside("web", ODD)
    before, machine_id = listing(here, "web"), here.inside("web", "cat /etc/machine-id")
    here.machctl("stop", "web")
    attributes = here.run("python3", "-c", ATTRIBUTES, "/var/lib/machines/web", "set").stdout
    here.machctl("export", "web", "/root/web.tar.zst").says("exported web")
    carry("/root/web.tar.zst", here, there)
    there.machctl("import", "/root/web.tar.zst", "--start", "--wait", "ip").says("imported web")
    assert there.inside("web", "cat /etc/machine-id") == machine_id
    assert listing(there, "web") == before
    assert there.run("python3", "-c", ATTRIBUTES, "/var/lib/machines/web", "get").stdout == attributes
    assert int(there.sh("stat -c %b /var/lib/machines/web/opt/odd/sparse")) < 100_000
    shown = [host.machine("web")["declaration"] for host in (here, there)]
    keys = ("packages", "bridges", "publish", "memory")
    assert [shown[1].get(key) for key in keys] == [shown[0].get(key) for key in keys]
    assert "nginx" in there.get("http://127.0.0.1:8092")
    for host in (here, there):
        host.run("rm", "/root/web.tar.zst")


def test_an_import_under_another_name_can_be_another_machine(here: Host) -> None:
    here.inside("debian", "echo written >/root/mine; ln -sf /dev/null /etc/systemd/system/fstrim.timer")
    here.machctl("export", "debian", "/root/debian.tar.zst").says("as it was while running")
    here.inside("debian", "rm /root/mine /etc/systemd/system/fstrim.timer")
    here.machctl("import", "/root/debian.tar.zst", status=5).says("debian")
    done = here.machctl("import", "/root/debian.tar.zst", "two", "--identity", "new", "--start", "--wait", "ip")
    done.says("without port 8080:80")
    look = "cat /etc/machine-id; hostname; hostname -I"
    first, second = (here.inside(name, look).split() for name in ("debian", "two"))
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert here.inside("two", "cat /root/mine; readlink /etc/systemd/system/fstrim.timer").split() == [
        "written",
        "/dev/null",
    ]
    assert here.machine("two")["ports"] == []
    here.run("rm", "/root/debian.tar.zst")


@pytest.fixture(scope="module")
def podman(roads: Roads) -> Host:
    """The host that a machine leaves, with podman on it."""
    host = roads.get("trixie").ready().host
    install = "command -v podman || { apt-get -qq update && apt-get -qq install --no-install-recommends podman; }"
    host.sh(f"{install} >/root/podman.log 2>&1 || {{ cat /root/podman.log >&2; exit 1; }}", timeout=300)
    return host


def test_podman_runs_what_is_exported_as_an_image(podman: Host, here: Host) -> None:
    assert podman is here
    here.copy("web")
    here.sh('echo mine >"$1/root/mine"', here.tree("web"))
    here.machctl("export", "web", "/root/web.oci", "--format", "oci")
    command = "podman --storage-driver=vfs --cgroup-manager=cgroupfs"
    run = f"{command} run --rm --network=none --cgroups=disabled --pull=never"
    try:
        image = here.sh(f"{command} pull -q oci:/root/web.oci")
        words = "cat /root/mine; . /etc/os-release; echo $ID; dpkg-query -W -f '${Status}' nginx-light"
        said = here.run("sh", "-c", f'{run} --entrypoint /bin/sh {image} -c "$1"', "sh", words).stdout
        assert said.split() == ["mine", "debian", "install", "ok", "installed"]
    finally:
        here.sh(f"{command} system reset --force >/dev/null 2>&1; rm -rf /root/web.oci")


def test_cp_goes_both_ways_with_the_machine_running_or_not(pool: Host) -> None:
    pool.copy("web", "--start", "--wait", "ip")
    pool.sh("mkdir -p /root/cp/sub; cd /root/cp/sub; echo words >file; ln -s file link; chmod 640 file")
    pool.sh("touch -d '2200-01-01 00:00:00.320357371' /root/cp/sub/file")
    for state in ("running", "stopped"):
        if state == "stopped":
            pool.machctl("stop", "web")
        pool.machctl("cp", "/root/cp", f"web:/srv/{state}")
        pool.machctl("cp", f"web:/srv/{state}", f"/root/back-{state}")
        look = "cd $1 && find . -printf '%P %M %U:%G %l %T+\\n' | sort"
        assert pool.sh(look, f"/root/back-{state}") == pool.sh(look, "/root/cp")
        assert pool.sh(f"cat /root/back-{state}/sub/file") == "words"
    pool.machctl("start", "web", "--wait", "ip")
    assert (
        pool.inside("web", "stat -c '%U %a' /srv/running/sub/file /srv/stopped/sub/file").split() == ["root", "640"] * 2
    )
    data = pool.pipe("machctl", "cp", "web:/srv/running", "-", data=b"")
    pool.inside("web", "mkdir /srv/again")
    pool.pipe("machctl", "cp", "-", "web:/srv/again", data=data)
    assert pool.inside("web", "find /srv/again -name file -exec cat {} +") == "words"
    pool.sh("rm -rf /root/cp /root/back-*")


def test_what_a_guest_planted_leads_nowhere(pool: Host) -> None:
    pool.copy("web", "--start", "--wait", "ip")
    pool.inside(
        "web", "ln -s /etc /srv/out; ln -s ../../../../../../etc/shadow /srv/file; rm -rf /root; ln -s /etc /root; sync"
    )
    secret = pool.sh("sha256sum /etc/shadow /etc/hostname; ls /etc | sha256sum")
    pool.sh("echo mine >/root/planted")
    pool.machctl("cp", "/root/planted", "web:/srv/out/planted", status=None)
    pool.machctl("cp", "-L", "web:/srv/file", "/root/taken", status=None)
    assert pool.sh("cat /etc/shadow | sha256sum") != pool.sh("cat /root/taken 2>/dev/null | sha256sum")
    pool.machctl("clone", "web", "two")
    pool.machctl("export", "web", "/root/web.tar.zst")
    pool.machctl("rm", "--force", "web", "two")
    assert pool.sh("sha256sum /etc/shadow /etc/hostname; ls /etc | sha256sum") == secret
    pool.sh("rm -f /root/planted /root/taken /root/web.tar.zst")
