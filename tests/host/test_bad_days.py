# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong gets a line, a remedy and its exit status, and leaves nothing behind."""

from __future__ import annotations

import signal
import time

import pytest

from throwaway import Host, Road, read_until, until

pytestmark = pytest.mark.usefixtures("unchanged")

SERVE = "cd /root/mirror && exec python3 -m http.server --bind 127.0.0.1 9998"
MIRROR = "http://127.0.0.1:9998/"


def listens(host: Host, port: int) -> bool:
    return until(lambda: host.sh(f"ss -Hltn 'sport = {port}'"), bool, limit=10) != ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "the empty name"),
        ("_", "'_'"),
        ("a" * 64, "DNS takes 63"),
        ("a" * 65, "63 characters"),
        ("../x", "../x"),
        ("/etc", "/etc"),
        ("Web", "call it web"),
        ("we\nb", "we\\nb"),
        ("we b", "we b"),
        ("web-", "web-"),
        (".web", ".web"),
        ("a..b", "a..b"),
        ("é", "'é'"),
        ("%n", "%n"),
    ],
)
def test_a_bad_name_is_refused(host: Host, name: str, says: str) -> None:
    host.machctl("create", "debian", name, status=2).says(says)


@pytest.mark.parametrize("words", [("--", "-x"), ("-x",)])
def test_a_name_like_a_flag_is_refused(host: Host, words: tuple[str, ...]) -> None:
    host.machctl("create", "debian", *words, status=2).says("-x")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--memory", "10"), "16M"),
        (("--memory", "-1"), "'-1'"),
        (("--memory=huge",), "huge"),
        (("--cpus", "0"), "'0'"),
        (("--cpus", "many"), "many"),
        (("--bridge", "abcdefghijklmnop"), "16 characters"),
        (("--bridge", "br 0"), "br 0"),
        (("--bridge", "../br"), "../br"),
        (("--bridge", "br0", "--bridge", "br0"), "br0"),
        (("-p", "80-"), "'' is not a port"),
        (("-p", "8090-8080:90-80"), "8090"),
        (("-p", "8080-8090:80"), "8080-8090"),
        (("-p", "0:80"), "'0'"),
        (("-p", "65536:80"), "65536"),
        (("-p", "8081:80/sctp"), "udp"),
        (("-p", "here:8081:80"), "here"),
        (("-p", "8081:80", "-p", "8081:81"), "8081"),
        (("--bind", "relative:/x"), "relative"),
        (("--bind", "/tmp:/../x"), ".."),
        (("--bind", "/tmp:/"), "whole tree"),
        (("--bind", "/tmp:/x\ny"), "absolute path"),
        (("--package", "-x=1"), "-x=1"),
        (("--package", "nginx light"), "nginx light"),
        (("--mirror", "ftp://x"), "ftp://x"),
        (("--variant", "huge"), "minbase"),
        (("--bootstrapper", "pacstrap"), "debootstrap"),
        (("--hostname", "a_b"), "a_b"),
        (("--ssh-key", "/nosuch.pub"), "/nosuch.pub"),
        (("--ssh-key", "/etc/hostname"), "not a public ssh key"),
        (("--wait", "love"), "love"),
        (("--nosuch",), "--nosuch"),
    ],
)
def test_a_bad_value_is_refused(host: Host, flags: tuple[str, ...], says: str) -> None:
    host.machctl("create", "debian", "web", *flags, status=2).says(says)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("debian:nosuch", "no suite 'nosuch'"),
        ("nosuch", "'nosuch' is not a source"),
        ("arch:2026", "use arch"),
        ("ubuntu:nosuch", "no suite 'nosuch'"),
        ("fedora:last", "fedora:42"),
        ("image:", "image:NAME"),
        ("tar:", "not an absolute path"),
        ("tar:http://127.0.0.1:9/x.tar", "--checksum"),
        ("oci:-x", "registry"),
        ("", "source"),
    ],
)
def test_a_bad_source_is_refused(host: Host, source: str, says: str) -> None:
    host.machctl("create", source, "web", status=2).says(says)


@pytest.mark.parametrize(
    ("source", "status", "says"),
    [
        ("image:base", 4, "machctl image ls"),
        ("machine:nosuch", 4, "machctl list"),
        ("tar:/tmp/x.tar", 4, "/tmp/x.tar"),
        ("raw:/tmp/x.raw", 4, "/tmp/x.raw"),
        ("oci:/tmp/x", 4, "/tmp/x"),
        ("dir:/nosuch", 4, "/nosuch"),
        ("dir:/tmp", 1, "neither etc nor usr"),
    ],
)
def test_a_source_that_is_not_there_is_named(host: Host, source: str, status: int, says: str) -> None:
    host.machctl("create", source, "web", status=status).says(says)


def test_all_that_is_wrong_is_said_at_once(host: Host) -> None:
    words = ("create", "debian", "Web", "-p", "99999:1", "--memory", "10", "--bridge", "abcdefghijklmnop")
    host.machctl(*words, status=2).says("web", "99999", "16M", "16 characters")
    words = ("create", "debian", "debian", "-p", "8080:80", "--bind", "/nosuch:/x", "--bridge", "tap0")
    done = host.machctl(*words, status=None)
    assert done.status != 0
    done.says("debian exists already", "/nosuch", "tap0 is not a bridge")


def test_a_bind_of_nothing_is_refused(host: Host) -> None:
    host.machctl("create", "debian", "web", "--bind", "/nosuch:/x", status=4).says("/nosuch", "mkdir -p /nosuch")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/var/lib/machines/web/etc/os-release", "/var/lib/machines/web"),
        ("/etc/systemd/nspawn/web.nspawn", "/etc/systemd/nspawn/web.nspawn"),
        ("/etc/machctl/fleet.d/other.toml", "other.toml"),
        ("/var/lib/machines/web.raw", "web"),
    ],
)
def test_a_name_that_is_taken_is_refused_and_another_suggested(host: Host, path: str, says: str) -> None:
    host.write(path, '[machines.web]\nsource = "debian"\n' if path.endswith("toml") else "")
    try:
        host.machctl("create", "debian", "web", status=5).says("web", says)
    finally:
        host.sh('rm "$1"; rmdir -p "${1%/*}" 2>/dev/null; mkdir -p /var/lib/machines; true', path)


def test_the_name_of_a_declared_machine_is_taken(host: Host) -> None:
    host.machctl("create", "debian", status=5).says("debian", "debian2", "machctl rm debian")


def test_the_name_of_a_running_machine_is_taken(host: Host) -> None:
    words = ("systemd-nspawn", "--quiet", "--machine=web", "--directory=/", "--volatile=yes", "sleep", "60")
    with host.background(*words) as process:
        assert until(lambda: host.state("web"), bool) == "running"
        host.machctl("create", "debian", "web", status=5).says("web", "running already", "web2")
        host.machctl("terminate", "web")
        process.wait(timeout=20)


def test_a_port_of_a_process_is_refused(host: Host) -> None:
    with host.background("python3", "-m", "http.server", "9999") as process:
        assert listens(host, 9999)
        host.machctl("create", "debian", "web", "-p", "9999:80", status=5).says(
            "9999", "ss -ltnp", "--publish 10000:80"
        )
        process.terminate()
        process.wait(timeout=20)


def test_a_port_of_another_machine_is_refused(host: Host) -> None:
    host.machctl("create", "debian", "web", "-p", "8080:81", status=5).says("8080", "debian", "--publish 8081:81")


def test_whoever_is_not_root_is_told_of_sudo(host: Host) -> None:
    words: tuple[tuple[str, ...], ...] = (
        ("create", "debian", "web"), ("start", "debian"), ("stop", "debian"), ("rm", "debian"), ("apply",), ("gc",),
        ("set", "debian", "memory=1G"), ("enable", "debian"),
    )  # fmt: skip
    for verb in words:
        host.run("runuser", "-u", "nobody", "--", "machctl", *verb, status=6).says("root", f"sudo machctl {verb[0]}")


def test_a_masked_machined_is_named(host: Host) -> None:
    host.sh("systemctl mask --runtime systemd-machined.service 2>/dev/null")
    try:
        host.machctl("create", "debian", "web", status=7).says("systemd-machined is masked", "systemctl unmask")
    finally:
        host.sh("systemctl unmask --runtime systemd-machined.service 2>/dev/null")


def test_machined_is_started_where_it_does_not_run(debian: Road) -> None:
    debian.host.sh("systemctl stop systemd-machined.service 2>/dev/null")
    assert debian.host.state("debian") == "running"


def test_a_host_without_systemd_is_refused(host: Host) -> None:
    script = "mount -t tmpfs none /run/systemd && machctl create debian web"
    host.run("unshare", "--mount", "sh", "-c", script, status=7).says("systemd is not PID 1")


def test_a_disk_without_room_is_refused(host: Host) -> None:
    script = "mount -t tmpfs -o size=100M none /var/lib/machines && machctl create debian web"
    host.run("unshare", "--mount", "sh", "-c", script, status=1).says("100 MB free", "600 MB")


def test_a_disk_that_fills_up_meanwhile(host: Host) -> None:
    # Where bases are made: a machine itself is a snapshot of one.
    script = """
        store=/var/lib/machctl/store
        mount -t tmpfs -o size=620M none $store
        (until ls -A $store/bases 2>/dev/null | grep -q .; do sleep 0.1; done; fallocate -l 560M $store/fill) &
        machctl create debian web; status=$?
        find $store -mindepth 1 ! -name bases
        exit $status
    """
    done = host.run("unshare", "--mount", "sh", "-c", script, status=1)
    done.says("no space left", "/var/log/machctl/web.bootstrap.log")
    assert done.stdout == "/var/lib/machctl/store/fill\n"


def test_a_mirror_that_cannot_be_reached(host: Host) -> None:
    done = host.machctl("create", "debian", "web", "--mirror", "http://127.0.0.1:9/", status=1)
    done.says("mirror", "cannot be reached", "/var/log/machctl/web.bootstrap.log")
    assert "127.0.0.1" in host.read("/var/log/machctl/web.bootstrap.log")


@pytest.mark.parametrize(
    ("make", "suite", "flags", "says"),
    [
        ("sed s/Debian/Tampered/", "trixie", (), ("signature",)),
        ("sed s/Debian/Tampered/", "trixie", ("--bootstrapper", "debootstrap"), ("signature", "wrong")),
        ("sed '/^-----BEGIN PGP SIG/,$d'", "trixie", (), ("signature",)),
        ("cat", "nosuch", (), ("nosuch", "not known")),
    ],
    ids=["tampered", "tampered-debootstrap", "unsigned", "unknown-suite"],
)
def test_a_mirror_that_is_not_what_it_should_be(
    host: Host, make: str, suite: str, flags: tuple[str, ...], says: tuple[str, ...]
) -> None:
    fetch = f"""
        set -e
        url=$(grep -hom1 'http://[^ ]*' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
        mkdir -p /root/mirror/dists/trixie
        curl -fsS --max-time 60 "${{url%/}}/dists/trixie/InRelease" | {make} >/root/mirror/dists/trixie/InRelease
    """
    try:
        host.sh(fetch)
        with host.background("sh", "-c", SERVE) as server:
            assert listens(host, 9998)
            done = host.machctl("create", f"debian:{suite}", "web", "--mirror", MIRROR, *flags, status=1)
            server.terminate()
            server.wait(timeout=20)
        done.says(*says, "/var/log/machctl/web.bootstrap.log")
    finally:
        host.sh("rm -rf /root/mirror")


@pytest.mark.parametrize(
    ("number", "flags", "when"),
    [
        (signal.SIGINT, (), "extracting"),
        (signal.SIGTERM, (), "fetching"),
        (signal.SIGINT, ("--bootstrapper", "debootstrap"), "fetching"),
    ],
    ids=["ctrl-c", "sigterm", "ctrl-c-debootstrap"],
)
def test_an_interrupted_create_is_taken_back(
    host: Host, number: signal.Signals, flags: tuple[str, ...], when: str
) -> None:
    with host.background("machctl", "create", "debian", "web", "--fresh", "--bridge", "br7", *flags) as process:
        read_until(process.stderr, when)
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number, said
        assert b"interrupted" in said
        assert b"Traceback" not in said
        assert time.monotonic() - began < 20


def test_a_killed_create_is_cleaned_up_by_gc(host: Host) -> None:
    with host.background("machctl", "create", "debian", "web", "--fresh", "--bridge", "br7") as process:
        read_until(process.stderr, "extracting")
        host.sh("kill -KILL $(cat /run/machctl/machine-web.lock)")
        assert process.wait(timeout=20) == 128 + signal.SIGKILL
    assert until(lambda: host.sh("ps -eo args= | grep -c '[m]mdebstrap' || true"), lambda count: count == "0") == "0"
    assert host.sh("ls -A /var/lib/machctl/store/bases | grep -c '^.new-'") == "1"
    assert host.machctl("list", "-o", "name").stdout == "debian\n"
    dry = host.machctl("gc", "--dry-run").stdout
    assert "/var/lib/machctl/store/bases/.new-" in dry
    host.machctl("gc")
    assert host.machctl("gc").stderr == "nothing to do\n"


def test_of_two_creates_of_one_name_one_wins(host: Host) -> None:
    with host.background("machctl", "create", "debian", "web", "--fresh") as process:
        read_until(process.stderr, "bootstrap debian:trixie")
        host.machctl("create", "debian", "web", status=5).says(
            "web", "another machctl", host.sh("cat /run/machctl/machine-web.lock")
        )
        # Nor does gc take away what the other is working on.
        assert host.machctl("gc").stderr == "nothing to do\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
