# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad days of trees: interrupted, no room, a base that is gone, others' hands, a guest that set traps."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import tarfile
from collections.abc import Iterator

import pytest

from throwaway import MAIN_JOB, Done, Host, Roads, until

SOURCE = ("debian", "web", "--package", MAIN_JOB[MAIN_JOB.index("--package") + 1])
"""What the machine of every host was made of: its base is there."""

ROOM = "/root/bad"

RELEASE = ("usr/lib/os-release", tarfile.REGTYPE, "ID=small\n")

# What a guest of no good intent can put into its own tree, and what of the host it hopes to reach.
TRAPS = r"""
set -e
mkdir -p /root/bad/canary/ssh /root/bad/canary/journal /root/bad/canary/network
cd /root/bad/canary
for name in machine-id hostname keys ssh/key random-seed sshd resolv.conf secret; do echo TOP-SECRET >$name; done
cd /var/lib/machines/web
for link in etc/machine-id=machine-id etc/hostname=hostname root/.ssh/authorized_keys=keys var/log/journal=journal \
    etc/ssh/ssh_host_ed25519_key=ssh/key etc/ssh/ssh_host_rsa_key.pub=ssh/key usr/sbin/sshd=sshd \
    var/lib/systemd/random-seed=random-seed etc/resolv.conf=resolv.conf etc/systemd/network=network etc/passwd=secret \
    var/lib/dpkg/status=secret root/link=secret root/up=../../../../../../root/bad/canary/secret; do
    place=${link%%=*}
    mkdir -p "$(dirname "$place")"
    rm -rf "$place"
    ln -s "/root/bad/canary/${link#*=}" "$place"
done
python3 -c '
import os
for _ in range(400):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
'
mkfifo root/fifo
mknod root/device b 7 0
touch root/immutable
chattr +i root/immutable 2>/dev/null || true
"""
CANARY = "cd /root/bad/canary && find . -printf '%p %y %m %U %G %s %T@ %l\n' | sort; cat $(find . -type f | sort)"

MEASURE = """
import json, os, subprocess, sys, time
began = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([status, usage.ru_maxrss // 1024, time.monotonic() - began]))
"""


@pytest.fixture(params=["trixie", "static"])
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host with btrfs, and one whose machines are layers; in the end it is what it was in the beginning."""
    host = roads.get(request.param).ready().host
    with host.unchanged():
        host.sh(f"mkdir -p {ROOM}")
        yield host
        clear(host)


def clear(host: Host) -> None:
    """Take away what a test made, by the usual verbs, bases too."""
    names = [row["name"] for row in host.machctl("list", "--json").json() if row["name"] != "debian"]
    if names:
        host.machctl("rm", "--force", *names)
    host.sh(f"chattr -R -i {ROOM} 2>/dev/null; rm -rf {ROOM}")
    rows = host.machctl("image", "ls", "--json").json()
    if own := [row["id"] for row in rows if not row["users"] and not row["source"].startswith("debian")]:
        host.machctl("--yes", "image", "rm", *own)


def refused(done: Done, *words: str) -> None:
    """Assert that it failed with one line that says what, and hints below it."""
    done.says(*words)
    said = [line for line in done.stderr.splitlines() if line.startswith("machctl: ")]
    assert len(said) == 1, done
    assert "fault in machctl" not in done.stderr, done
    assert done.stderr.splitlines()[-1].startswith("  "), f"no remedy: {done}"


def put(host: Host, path: str, data: bytes) -> None:
    host.pipe("sh", "-c", 'cat >"$1"', "sh", path, data=data)


def packed(*members: tuple[str, bytes, str], mode: str = "w") -> bytes:
    """Give an archive: of each member the name, the type, and the content or where it links to."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o4755 if name.endswith("/su") else 0o755
            if kind == tarfile.REGTYPE:
                member.size = len(text.encode())
            else:
                member.linkname = text
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


FILL = """
# btrfs-subvolume(8): what deleted ones had is free some time later.
btrfs subvolume sync /var/lib/machines >/dev/null 2>&1
mkdir /var/lib/machines/.kept-fill && cd /var/lib/machines/.kept-fill
for size in 1000 100 10; do
    number=0
    while fallocate -l ${size}M $size-$number 2>/dev/null; do number=$((number + 1)); done
    rm -f $size-$number
done
rm 10-1 10-2 10-3 10-4
sync -f .
"""
"""Leaves 40 to 50 MB in the pool, be it a file system that cannot say how much it has."""


# --- interrupted ---


def interrupted(host: Host, look: str, *words: str) -> None:
    """Press Ctrl-C as soon as ``look`` finds something; assert that it was in time."""
    with host.background("machctl", *words) as process:
        until(lambda: host.sh(look, status=None), bool, limit=30, every=0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT, said
    assert b"interrupted" in said
    assert b"Traceback" not in said


def test_ctrl_c_leaves_nothing(host: Host) -> None:
    host.machctl("create", *SOURCE)
    host.sh("mkdir $1 && cd $1 && for i in $(seq 3000); do echo $i >$i; done; head -c 150M /dev/urandom >big",
            f"{host.tree('web')}/srv/many")  # fmt: skip
    host.sh(f"tar -C /var/lib/machines/web -cf {ROOM}/web.tar .")
    with host.unchanged():
        interrupted(host, "ls -d /var/lib/machctl/store/bases/.new-*/tree/srv/many", "create", f"tar:{ROOM}/web.tar",
                    "copy", "--insecure")  # fmt: skip
        assert host.state("copy") == ""
        interrupted(host, "ls -d /var/lib/machctl/store/bases/.new-*/tree/srv/many", "import", f"{ROOM}/web.tar",
                    "copy")  # fmt: skip
        interrupted(host, f"ls -A {ROOM} | grep -v '^web.tar$'", "export", "web", f"{ROOM}/out.tar.zst")
        assert host.sh(f"ls -A {ROOM}") == "web.tar"
        if host.exists("/var/lib/machctl/store/layers/web"):
            # A snapshot of btrfs is made before anybody can press a key.
            interrupted(host, "ls -d /var/lib/machctl/store/layers/copy/upper/srv", "clone", "web", "copy")
            interrupted(
                host, "ls -d /var/lib/machctl/store/snapshots/web/.new-s/tree", "snapshot", "create", "web", "s"
            )
        assert host.machctl("gc").stderr == "nothing to do\n"


# --- no room ---


def test_a_full_disk_is_named_and_nothing_is_left(host: Host) -> None:
    host.machctl("create", *SOURCE)
    host.sh("head -c 80M /dev/urandom >$1/srv/big && sync -f $1", host.tree("web"))
    host.sh(f"tar -C /var/lib/machines/web -cf {ROOM}/web.tar .")
    layered = host.exists("/var/lib/machctl/store/layers/web")
    with host.unchanged():
        host.sh(FILL)
        try:
            # Refused at once, or when it comes to it.
            for words in (
                ("create", f"tar:{ROOM}/web.tar", "copy", "--insecure"),
                ("import", f"{ROOM}/web.tar", "copy"),
                ("export", "web", "/var/lib/machines/.kept-out.tar.zst"),
            ):
                refused(host.machctl(*words, status=1), "space left" if words[0] == "export" else "")
                assert not host.exists("/var/lib/machines/.kept-out.tar.zst")
            if layered:
                refused(host.machctl("clone", "web", "copy", status=1), "no space left", "make room")
                refused(host.machctl("snapshot", "create", "web", "s", status=1), "no space left", "make room")
                assert host.machctl("snapshot", "ls", "web", "--json").json() == []
        finally:
            host.sh("rm -r /var/lib/machines/.kept-fill; sync -f /var/lib/machines")
        assert host.machctl("gc").stderr == "nothing to do\n"
    host.machctl("clone", "web", "copy")


# --- others' hands ---


def test_a_base_that_somebody_deleted(host: Host) -> None:
    host.machctl("create", *SOURCE)
    # One of its own: the machine of the other tests keeps its base.
    host.machctl("export", "web", f"{ROOM}/own.tar")
    host.machctl("create", f"tar:{ROOM}/own.tar", "own", "--insecure")
    place = f"/var/lib/machctl/store/bases/{host.machine('own')['base']}"
    host.sh("cd $1; echo mine >root/mine; chown --reference=. root/mine", host.tree("own"))
    host.sh("cp -a $1 /root/bad/base; btrfs -q subvolume delete $1/tree 2>/dev/null; rm -rf $1", place)
    layered = host.exists("/var/lib/machctl/store/layers/own")
    if layered:
        refused(host.machctl("start", "own", status=None), "base", "own", place, "backup")
        for words in (("clone", "own", "copy"), ("export", "own", f"{ROOM}/x.tar"), ("diff", "own")):
            refused(host.machctl(*words, status=None))
        assert host.state("copy") == ""
    for words in (("plan", "own"), ("apply", "own"), ("gc",), ("list",), ("status", "own"), ("image", "ls")):
        assert "fault" not in host.machctl(*words, status=None).stderr
    if layered:
        host.sh('mv /root/bad/base "$1"', place)
    # What it wrote itself was never lost.
    host.machctl("start", "own")
    assert host.machctl("exec", "own", "--", "cat", "/root/mine").stdout == "mine\n"


@pytest.mark.parametrize("words", [("remove", "web"), ("clean", "--all"), ("rename", "web", "other")])
def test_machinectl_behind_our_back(host: Host, words: tuple[str, ...]) -> None:
    host.machctl("create", *SOURCE)
    host.machctl("start", "debian", status=None)
    if words[0] == "clean" and host.sh("ls -d /var/lib/machines/.kept-* || true"):
        # It would take the trees that other tests have put aside.
        words = ("remove", "web")
    host.run("machinectl", *words, status=None)
    tree = host.machine("web")["tree"]
    if tree is None:
        assert host.state("web") == "missing"
        refused(host.machctl("start", "web", status=4), "web", "no tree", "machctl apply web")
        assert "make the tree" in host.machctl("plan", "web").stdout
    host.machctl("gc")
    host.machctl("apply", "web")
    assert host.machctl("plan", "web", "--detailed-exitcode").stderr == "nothing to do\n"
    host.machctl("start", "web", "debian")
    assert host.state("web") == "running"


# --- a guest that set traps ---


def test_traps_of_a_guest_reach_nothing(host: Host) -> None:
    host.machctl("create", *SOURCE)
    host.machctl("snapshot", "create", "web", "before")
    host.tree("web")
    host.sh(TRAPS)
    before = host.sh(CANARY)
    for words in (
        ("clone", "web", "copy"),
        ("snapshot", "create", "web", "after"),
        ("diff", "web", "before"),
        ("snapshot", "diff", "web", "before", "after"),
        ("cp", "web:/root/link", f"{ROOM}/link"),
        ("cp", "web:/root/fifo", f"{ROOM}/fifo"),
        ("cp", "web:/etc", f"{ROOM}/etc"),
        ("cp", "/etc/os-release", "web:/etc/hostname"),
        ("cp", "/etc/os-release", "web:/root/link"),
        ("cp", "/etc/os-release", "web:/var/log/journal/x"),
        ("export", "web", f"{ROOM}/out.tar"),
        ("plan", "web"),
        ("apply", "web", "copy"),
        ("list",),
        ("status", "web"),
        ("logs", "web"),
        ("start", "web"),
        ("rename", "copy", "other"),
        ("restore", "web", "before"),
        ("restore", "web", "after"),
        ("rm", "--force", "other"),
        ("rm", "--force", "web"),
    ):
        done = host.machctl("--yes", *words, status=None)
        assert "fault in machctl" not in done.stderr, done
        assert "TOP-SECRET" not in done.stdout + done.stderr, done
        assert host.sh(CANARY) == before, f"{words} changed something outside: {done}"
        found = host.sh(
            "cd /root/bad; grep -rlsaF TOP-SECRET --exclude-dir=canary --devices=skip . /var/lib/machines/[!.]*/etc "
            "/var/lib/machines/[!.]*/root /var/lib/machines/[!.]*/usr/sbin /var/lib/machctl/store/layers || true"
        )
        assert not found, f"{words} read something from outside: {found}"
    assert host.state("web") == host.state("other") == ""


@pytest.mark.parametrize("place", ["etc", "root", "var", "usr"])
def test_a_tree_whose_directories_lead_outside(host: Host, place: str) -> None:
    host.machctl("create", *SOURCE)
    host.sh(f"mkdir -p {ROOM}/canary/systemd/network; echo TOP-SECRET >{ROOM}/canary/machine-id")
    host.sh(f'cd "$2" && rm -rf "$1" && ln -s {ROOM}/canary "$1"', place, host.tree("web"))
    before = host.sh(CANARY)
    for words in [("apply", "web"), ("clone", "web", "copy"), ("list",), ("start", "web"), ("rm", "--force", "web")]:
        done = host.machctl(*words, status=None)
        assert "fault in machctl" not in done.stderr, done
        assert host.sh(CANARY) == before, f"{words} changed something outside: {done}"


# --- archives ---


@pytest.mark.parametrize(
    "member",
    [
        ("../../../../../../../../root/bad/canary/new", tarfile.REGTYPE, "x"),
        ("/root/bad/canary/new", tarfile.REGTYPE, "x"),
        ("link/new", tarfile.REGTYPE, "x"),
        ("hard", tarfile.LNKTYPE, "/root/bad/canary/file"),
        ("hard", tarfile.LNKTYPE, "../../../../../../../../root/bad/canary/file"),
    ],
    ids=["dots", "absolute", "through-a-link", "hard-link", "hard-link-with-dots"],
)
def test_an_archive_that_leads_outside_is_refused(host: Host, member: tuple[str, bytes, str]) -> None:
    host.sh(f"mkdir -p {ROOM}/canary; echo TOP-SECRET >{ROOM}/canary/file")
    before = host.sh(CANARY)
    put(host, f"{ROOM}/x.tar", packed(RELEASE, ("link", tarfile.SYMTYPE, f"{ROOM}/canary"), member))
    refused(host.machctl("create", f"tar:{ROOM}/x.tar", "web", "--insecure", status=1), member[0].rpartition("/")[2])
    refused(host.machctl("import", f"{ROOM}/x.tar", "web", status=1))
    assert host.sh(CANARY) == before


def test_archives_that_are_not_what_they_should_be(host: Host) -> None:
    text = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(20000))
    whole = packed(RELEASE, ("usr/bin/su", tarfile.REGTYPE, text), mode="w:gz")
    for data, words in (
        (whole[: len(whole) // 2], ("truncated", "get it again")),
        (whole[: len(whole) // 2] + bytes(1000) + whole[len(whole) // 2 + 1000 :], ("corrupt", "get it again")),
        (b"\x17" * 100_000, ("no tar archive",)),
        (b"", ("empty",)),
    ):
        put(host, f"{ROOM}/x.tar.gz", data)
        refused(host.machctl("create", f"tar:{ROOM}/x.tar.gz", "web", "--insecure", status=1), *words)
    put(host, f"{ROOM}/x.tar.gz", whole)
    wrong = host.machctl("create", f"tar:{ROOM}/x.tar.gz", "web", "--checksum", f"sha256:{'0' * 64}", status=1)
    refused(wrong, hashlib.sha256(whole).hexdigest(), "0" * 64)
    # What has the set-user-ID bit has it inside only: who is root there is nobody here, and nobody here gets there.
    host.machctl("create", f"tar:{ROOM}/x.tar.gz", "web", "--insecure")
    assert host.sh("stat -c %A $1/usr/bin/su", host.tree("web")) == "-rwsr-xr-x"
    host.run("setpriv", "--reuid=65534", "--clear-groups", "cat", "/var/lib/machines/web/usr/bin/su", status=1)
    store = "cat /var/lib/machctl/store/bases/*/tree/usr/bin/su"
    host.run("setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", store, status=1)


def test_an_archive_of_very_many_files(host: Host) -> None:
    script = (
        "import tarfile\n"
        f"with tarfile.open('{ROOM}/many.tar', 'w') as archive:\n"
        "    for number in range(200_000):\n"
        "        archive.addfile(tarfile.TarInfo(f'usr/many/{number // 1000}/{number}'))\n"
    )
    host.run("python3", "-c", script)
    words = ("machctl", "create", f"tar:{ROOM}/many.tar", "web", "--insecure")
    status, megabytes, seconds = host.run("python3", "-c", MEASURE, *words, timeout=300).json()
    assert status == 0
    assert megabytes < 300
    assert seconds < 120
    assert host.sh("find $1/usr/many -type f | wc -l", host.tree("web")) == "200000"


def layout(*, layer_type: str = "application/vnd.oci.image.layer.v1.tar", wrong: bool = False, arch: str = "") -> bytes:
    """Give an OCI layout as an archive: of one layer, in the words of the image specification."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    layer = packed(RELEASE)
    described = blob(layer, layer_type)
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    machine = {"architecture": arch or "amd64", "os": "linux"}
    config = blob(json.dumps({**machine, "config": {"Cmd": ["/bin/x"]}, "rootfs": rootfs}).encode(),
                  "application/vnd.oci.image.config.v1+json")  # fmt: skip
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": [described]}).encode(),
                    "application/vnd.oci.image.manifest.v1+json")  # fmt: skip
    if arch:
        manifest = blob(json.dumps({"schemaVersion": 2, "manifests": [{**manifest, "platform": machine}]}).encode(),
                        "application/vnd.oci.image.index.v1+json")  # fmt: skip
    if wrong:
        blobs[str(described["digest"]).replace("sha256:", "blobs/sha256/")] = layer[:-1] + b"x"
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode(),
        **blobs,
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_images_that_are_not_what_they_should_be(host: Host) -> None:
    for data, words in (
        (layout(wrong=True), ("sha256:",)),
        (layout(layer_type="application/vnd.example.layer+cpio"), ("application/vnd.example.layer+cpio",)),
        (layout(arch="s390x"), ("s390x",)),
    ):
        put(host, f"{ROOM}/image.tar", data)
        refused(host.machctl("create", f"oci:{ROOM}/image.tar", "web", status=None), *words)
    put(host, f"{ROOM}/image.tar", layout())
    host.machctl("create", f"oci:{ROOM}/image.tar", "web")
