# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where trees come from: a base that is kept, an archive, a disk image, an OCI image, a directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oci_image import write_layout
from throwaway import BASE_RECIPE, Host, Roads, until

DRIVERS = {"trixie": "btrfs", "static": "overlay"}

SMALL_TREE = """
set -e
mkdir -p "$1/sbin" "$1/etc" "$1/usr/lib" "$1/many"
printf 'ID=small\\nVERSION_ID=1\\n' >"$1/usr/lib/os-release"
cp /usr/bin/true "$1/sbin/init"
seq 500 | while read -r number; do echo "$2 $number" >"$1/many/$number"; done
tar -C "$1" -cf "$1.tar" .
"""

# A disk with swap and a partition of the generic type that has the file system $1.
PARTITIONED = """
set -e
truncate -s 34M "$2"
sfdisk -q "$2" <<END
label: gpt
start=2048, size=2048, type=swap
start=4096, size=32768, type=linux
END
dd if="$1" of="$2" bs=1M seek=2 conv=notrunc status=none
"""

# An HTTP server, the programs it is made of, and no init: "FROM scratch".
IMAGE = r"""
set -e
tree=$1/tree
mkdir -p "$tree/etc" "$tree/srv" "$tree/tmp" "$tree/usr/bin" "$tree/usr/lib"
ln -s usr/bin usr/lib "$tree"
ln -s usr/lib "$tree/lib64"
python=$(readlink -f /usr/bin/python3)
cp "$python" "$tree/usr/bin/python3"
cp -a "/usr/lib/${python##*/}" "$tree/usr/lib"
find "$tree/usr/lib" -name __pycache__ -prune -exec rm -rf {} +
ldd "$python" "/usr/lib/${python##*/}"/lib-dynload/*.so | grep -oE '/[^ ]+ \(' | tr -d ' (' | sort -u |
    while read -r library; do install -D "$library" "$tree/usr/lib/${library##*/}"; done
echo 'web:x:1000:1000::/srv:/bin/false' >"$tree/etc/passwd"
echo "hello from an image" >"$tree/srv/index.html"
# Two layers; the upper one takes a file of the lower one away.
touch "$tree/srv/gone"
mkdir -p "$1/upper/srv"
touch "$1/upper/srv/.wh.gone"
"""
IMAGE_CONFIG = {
    "Entrypoint": ["/usr/bin/python3", "/usr/bin/serve"],
    "Cmd": ["80"],
    "Env": ["PATH=/usr/bin", "GREETING=50% off; $HOME"],
    "WorkingDir": "/srv",
    "ExposedPorts": {"80/tcp": {}},
}

SERVER = """
import http.server, os, sys
print("serving", os.environ["GREETING"], os.listdir("."), flush=True)
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]))
"""


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The driver that the host copies by."""
    return DRIVERS[request.param]


@pytest.fixture
def pool(driver: str, roads: Roads) -> Iterator[Host]:
    """A host that copies by that driver; in the end it is as it was, but for bases."""
    (suite,) = (suite for suite, other in DRIVERS.items() if other == driver)
    with roads.get(suite).ready().host.only_debian() as host:
        yield host


def images(host: Host, source: str) -> list[dict[str, object]]:
    return [row for row in host.machctl("image", "ls", "--json").json() if row["source"] == source]


def small_tar(host: Host, path: str, words: str = "content") -> str:
    """Make a tar archive of a tree that is a few files; give the source it is."""
    host.sh(f"rm -rf {path}*")
    host.sh(SMALL_TREE, path, words)
    return f"tar:{path}.tar"


def test_a_second_machine_is_a_copy_of_the_base(pool: Host, driver: str) -> None:
    base = pool.base_tree()
    pristine = f"find {base} -printf '%P %M %U:%G %s %T@\\n' | sort | sha256sum"
    before = pool.sh(pristine)
    done = pool.copy("web", "--start", "--wait", "ip")
    assert done.stderr.splitlines()[0] == "created web (debian:trixie)"
    base_id = base.split("/")[-2]
    shown = pool.machine("web")
    assert (shown["storage"], shown["base"]) == (driver, base_id)
    assert f"machines are copied by {driver}" in pool.machctl("doctor").stdout
    assert f"Storage:   {driver}, of base {base_id}" in pool.machctl("status", "web").stdout
    (image,) = (row for row in images(pool, "debian:trixie") if row["recipe"] == BASE_RECIPE)
    assert "web" in image["users"]  # type: ignore[operator]
    pool.inside("web", "rm -rf /usr/share/doc; echo changed >/etc/debian_version; apt-get --version >/dev/null")
    assert pool.inside("web", "systemctl is-system-running") == "running"
    assert pool.sh(pristine) == before
    assert pool.inside("debian", "cat /etc/debian_version") != "changed"


@pytest.mark.parametrize("driver", ["btrfs"])
def test_fresh_makes_the_base_anew_and_prune_removes_the_old_one(pool: Host) -> None:
    assert "bootstrap debian:trixie" in pool.machctl("--dry-run", "create", "debian", "web", "--fresh").stdout
    source = small_tar(pool, "/root/fresh")
    pool.machctl("create", source, "one").says("unpacking")
    assert "unpacking" not in pool.machctl("create", source, "two").stderr
    pool.machctl("create", source, "three", "--fresh").says("unpacking")
    made = images(pool, source)
    assert sorted((row["superseded"], row["users"]) for row in made) == [(False, ["three"]), (True, ["one", "two"])]
    assert len({row["digest"] for row in made}) == 1
    pool.machctl("image", "prune")
    assert len(images(pool, source)) == 2
    pool.machctl("rm", "one", "two")
    pool.machctl("image", "prune").says("removed 1 image")
    assert [row["users"] for row in images(pool, source)] == [["three"]]


def test_a_base_in_use_is_not_removed(pool: Host) -> None:
    (image,) = (row for row in images(pool, "debian:trixie") if row["recipe"] == BASE_RECIPE)
    pool.copy("web")
    pool.machctl("image", "rm", str(image["id"]), status=5).says("in use", "web")
    assert pool.exists(pool.base_tree())
    source = small_tar(pool, "/root/unused")
    pool.machctl("image", "pull", source)
    (unused,) = images(pool, source)
    pool.machctl("image", "rm", str(unused["id"]))
    assert images(pool, source) == []
    pool.machctl("image", "rm", str(unused["id"]), status=4).says(str(unused["id"]))


@pytest.mark.parametrize("driver", ["overlay"])
def test_of_two_creates_at_once_one_makes_the_base(pool: Host) -> None:
    source = small_tar(pool, "/root/together")
    words = [("machctl", "create", source, name) for name in ("one", "two")]
    with pool.background(*words[0]) as first, pool.background(*words[1]) as second:
        said = [process.communicate(timeout=60)[1].decode() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert sorted("unpacking" in text for text in said) == [False, True], said
    assert [row["users"] for row in images(pool, source)] == [["one", "two"]]
    listing = "cd $1 && find many -type f -exec sha256sum {} + | sort -k 2 | sha256sum"
    assert pool.sh(listing, pool.tree("one")) == pool.sh(listing, pool.tree("two"))
    assert pool.sh(f"ls {pool.tree('one')}/many | wc -l") == "500"


@pytest.mark.parametrize("driver", ["overlay"])
def test_a_base_that_was_deleted_by_hand_is_missed(pool: Host) -> None:
    source = small_tar(pool, "/root/deleted")
    pool.machctl("create", source, "web")
    (image,) = images(pool, source)
    pool.sh(f"rm -r /var/lib/machctl/store/bases/{image['id']}")
    pool.machctl("start", "web", status=4).says("web", str(image["id"]), "gone", "machctl rm web")
    pool.machctl("rm", "web")
    pool.sh("systemctl reset-failed")


def test_a_tar_archive_boots_and_only_with_its_checksum(pool: Host) -> None:
    path = "/root/base.tar.zst"
    pack = f"tar --zstd --xattrs --xattrs-include='*' --numeric-owner -C {pool.base_tree()} -cf {path} ."
    checksum = pool.sh(f"{pack} && sha256sum <{path}").split()[0]
    wrong = checksum[::-1]
    pool.machctl("create", f"tar:{path}", "web", "--checksum", wrong, status=1).says(wrong[:12], checksum[:12])
    assert pool.state("web") == ""
    pool.machctl(
        "create", f"tar:{path}", "web", "--checksum", checksum, "--bridge", "br0", "--start", "--wait", "ip"
    )  # fmt: skip
    assert pool.inside("web", "systemctl is-system-running") == "running"
    # Where machctl shows a machine the settings of its links.
    names = "find usr -not -path 'usr/local/lib/systemd*'"
    compare = f"cd $1 && {names} \\( -type d -printf '%P %M\\n' -o -printf '%P %M %s %l\\n' \\) | sort | sha256sum"
    assert pool.inside("web", f"set -- /; {compare}") == pool.sh(compare, pool.base_tree())
    pool.run("rm", path)


@pytest.mark.parametrize("driver", ["btrfs"])
def test_a_directory_and_an_image_are_sources(pool: Host) -> None:
    pool.sh(f"cp -a --reflink=auto {pool.base_tree()} /root/tree; echo mine >/root/tree/etc/mine")
    pool.machctl("create", "dir:/root/tree", "web", "--bridge", "br0", "--start", "--wait", "ip")
    pool.run("rm", "-r", "/root/tree")
    assert pool.inside("web", "cat /etc/mine; systemctl is-system-running").split() == ["mine", "running"]
    (image,) = images(pool, "dir:/root/tree")
    pool.machctl("create", f"image:{image['id']}", "two")
    assert pool.read(f"{pool.tree('two')}/etc/mine") == "mine\n"


def test_a_disk_image_boots(roads: Roads) -> None:
    # Where networkd runs: no address can be written into an image, so it asks for one.
    with roads.get("trixie").ready().host.only_debian() as host:
        host.sh(f"truncate -s 600M /root/base.raw && mkfs.ext4 -q -d {host.base_tree()} /root/base.raw")
        host.machctl(
            "create", "raw:/root/base.raw", "web", "--bridge", "br0", "--start", "--wait", "ip"
        )  # fmt: skip
        host.run("rm", "/root/base.raw")
        assert host.inside("web", "systemctl is-system-running") == "running"
        assert host.machine("web")["state"] == "running"
        assert "Storage:   raw" in host.machctl("status", "web").stdout
        host.inside("web", "echo here >/root/mine; sync")
        host.machctl("restart", "web", "--wait", "ip")
        assert host.inside("web", "cat /root/mine") == "here"


def test_disk_images_with_partitions_compressed_and_of_no_use(roads: Roads) -> None:
    """In a container the kernel shows no partitions: machctl says so, and what it says to do works (tests/vm)."""
    with roads.get("trixie").ready().host.only_debian() as host:
        small_tar(host, "/root/disk")
        host.sh("mkfs.ext4 -q -d /root/disk /root/disk.raw 16M; gzip -k /root/disk.raw")
        host.sh(PARTITIONED, "/root/disk.raw", "/root/disk.img")
        before = host.sh("ls /var/lib/machctl/store/bases")
        done = host.machctl("create", "raw:/root/disk.img", "web", status=7)
        done.says("has partitions", "container")
        host.sh("head -c 9M /root/disk.raw >/root/disk-short.raw; printf 'QFI\\373' >/root/disk.qcow2")
        host.machctl("create", "raw:/root/disk-short.raw", "web", status=1).says("cut off")
        host.machctl("create", "raw:/root/disk.qcow2", "web", status=1).says("qemu-img convert")
        assert host.sh("ls -A /var/lib/machctl/store/bases") == before
        assert host.sh("ls -A /run/machctl /var/lib/machines | grep -e image- -e web; :") == ""
        host.sh(done.stderr.partition("file system: ")[2].partition(", then")[0])
        host.machctl("create", "raw:/root/disk-root.raw", "web")
        host.machctl("create", "raw:/root/disk.raw.gz", "two")
        assert host.sh("cd /var/lib/machines; systemd-dissect --copy-from two.raw /many/7 -") == "content 7"
        host.sh("rm -r /root/disk*")


def test_a_tar_that_has_no_system_in_it_is_refused_and_leaves_nothing(pool: Host) -> None:
    pool.sh("rm -rf /root/em*; mkdir -p /root/em/root/etc; tar -C /root/em -cf /root/em.tar .")
    store = "ls -A /var/lib/machctl/store/bases /var/lib/machines /etc/machctl/fleet.d"
    before = pool.sh(store)
    for words in (
        ("create", "tar:/root/em.tar"),
        *(("import", "/root/em.tar", "--identity", to) for to in ("keep", "new")),
    ):
        pool.machctl(*words, status=1).says("neither etc nor usr", "tar tf /root/em.tar")
    assert pool.sh(store) == before
    pool.sh("rm -r /root/em*")


def test_an_image_without_an_init_runs_its_entrypoint(pool: Host) -> None:
    pool.sh("rm -rf /root/oci")
    pool.sh(IMAGE, "/root/oci")
    pool.write("/root/oci/tree/usr/bin/serve", SERVER)
    write_layout(pool, "/root/oci", "tree", "upper", **IMAGE_CONFIG)
    words = ("create", "oci:/root/oci/layout", "web", "--bridge", "br0", "-p", "8090:80", "--start", "--wait", "ip")
    pool.machctl(*words)
    url = "http://127.0.0.1:8090/"
    assert until(lambda: pool.sh(f"curl -sS {url}", status=None), bool) == "hello from an image"
    log = pool.sh("journalctl --unit=systemd-nspawn@web --output=cat")
    assert "serving 50% off; $HOME ['index.html']" in log
    # The child would hold the pipe open as long as it sleeps.
    script = "import os, time; os.fork(); time.sleep(600)"
    pool.machctl("--timeout", "1", "exec", "web", "--", "python3", "-c", script, status=124, timeout=30)
    assert pool.sh("find /sys/fs/cgroup -name 'machctl-exec*'") == ""
    pool.machctl("stop", "web")
    assert pool.state("web") == "stopped"
    assert pool.sh(f"curl -sS {url}", status=7) == ""
    pool.machctl("start", "web", "--wait", "ip")
    assert until(lambda: pool.sh(f"curl -sS {url}", status=None), bool) == "hello from an image"
    (image,) = images(pool, "oci:/root/oci/layout")
    assert image["payload"]
    pool.machctl("stop", "web")
    pool.machctl("export", "web", "/root/oci/web.tar.zst")
    settings = pool.read("/etc/systemd/nspawn/web.nspawn")
    for identity in ("keep", "new"):
        pool.machctl("rm", "--force", "web")
        pool.machctl("import", "/root/oci/web.tar.zst", "--identity", identity, "--start", "--wait", "ip")
        assert until(lambda: pool.sh(f"curl -sS {url}", status=None), bool) == "hello from an image"
        assert pool.read("/etc/systemd/nspawn/web.nspawn") == settings
        pool.machctl("stop", "web")
    pool.run("rm", "-r", "/root/oci")


def test_machines_survive_a_reboot_on_every_driver(pool: Host, driver: str) -> None:
    running = [f"{driver}1", "copy1"]
    stopped = [f"{driver}2", "copy2"]
    for name in (*running, *stopped):
        storage = ("--storage", "copy") if name.startswith("copy") else ()
        pool.copy(name, *storage, *("--autostart",) * (name in running))
        pool.sh('echo "$1" >"$2/root/mine"', name, pool.tree(name))
    boot = "cat /proc/1/stat | cut -d ' ' -f 22"
    before = pool.sh(boot)
    pool.run("systemctl", "reboot", status=None)
    assert pool.sh(boot) != before
    for name in running:
        assert until(lambda name=name: pool.state(name), lambda state: state == "running") == "running"  # type: ignore[misc]
    assert [pool.state(name) for name in stopped] == ["stopped", "stopped"]
    pool.machctl("start", *stopped, "--wait", "ip")
    for name in (*running, *stopped):
        assert pool.inside(name, "cat /root/mine") == name
    done = pool.machctl("apply")
    assert done.stderr == "nothing to do\n", done
    assert pool.sh("systemctl --failed --no-legend --plain") == ""
