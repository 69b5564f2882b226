# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of machines: clone, snapshot, restore, diff, rename, ephemeral ones, and run."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest

from throwaway import Host, Roads, until

IDENTITY = """
cat /etc/machine-id
hostname
cat /sys/class/net/host0/address
ip -4 -o address show dev host0 | grep -o 'inet [0-9.]*'
"""
SSH_KEYS = "cat /etc/ssh/ssh_host_*_key.pub | cut -d ' ' -f 2 | sort"


@pytest.fixture(params=("trixie", "static"))
def pool(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host that copies by btrfs, and one that copies by overlay; in the end each is as it was, but for bases."""
    with roads.get(request.param).ready().host.only_debian() as host:
        yield host


@pytest.fixture
def btrfs(roads: Roads) -> Iterator[Host]:
    """The host that copies by btrfs; in the end it is as it was, but for bases."""
    with roads.get("trixie").ready().host.only_debian() as host:
        yield host


def identity(host: Host, name: str) -> list[str]:
    return host.inside(name, IDENTITY).splitlines()


def test_no_two_clones_share_an_identity(pool: Host) -> None:
    pool.inside("debian", "echo mine >/root/mine")
    pool.machctl("clone", "debian", "one").says("as it was while running", "without port 8080:80")
    pool.machctl("clone", "one", "two")
    pool.machctl("snapshot", "create", "debian", "then")
    pool.inside("debian", "rm /root/mine")
    pool.machctl("clone", "debian", "three", "--snapshot", "then")
    pool.machctl("clone", "debian", "four")
    names = ("one", "two", "three", "four")
    pool.machctl("start", *names, "--wait", "ip")
    found = [identity(pool, name) for name in ("debian", *names)]
    for values in zip(*found, strict=True):
        assert len(set(values)) == len(values), found
    assert [values[1] for values in found] == ["debian", *names]
    assert all(re.fullmatch(r"[0-9a-f]{32}", values[0]) for values in found), found
    assert [pool.machine(name)["ports"] for name in names] == [[]] * 4
    # What it is a copy of came along.
    assert [pool.inside(name, "cat /root/mine 2>/dev/null", status=None) for name in names] == ["mine"] * 3 + [""]
    assert pool.inside("one", "systemctl is-system-running") == "running"
    pool.machctl("snapshot", "rm", "debian", "then")


def test_a_clone_that_keeps_its_identity_has_an_address_of_its_own(pool: Host) -> None:
    pool.machctl("clone", "debian", "one", "--identity", "keep", "--start", "--wait", "ip")
    first, second = identity(pool, "debian"), identity(pool, "one")
    assert second[0] == first[0]
    assert second[2] != first[2]
    assert second[3] != first[3]
    # A link of the host's to its journal is called as the machine ID, and was debian's.
    pool.machctl("rm", "--force", "one")
    pool.machctl("restart", "debian", "--wait", "ip")


def test_each_clone_has_ssh_host_keys_of_its_own(btrfs: Host) -> None:
    btrfs.copy("one", "--start", "--wait", "ip")
    btrfs.inside("one", "apt-get -qq update && apt-get -qq install --no-install-recommends openssh-server >/dev/null")
    btrfs.machctl("clone", "one", "two", "--start", "--wait", "ip")
    btrfs.machctl("clone", "one", "same", "--identity", "keep", "--start", "--wait", "ip")
    keys = {
        name: until(lambda name=name: btrfs.inside(name, SSH_KEYS, status=None), bool)  # type: ignore[misc]
        for name in ("one", "two", "same")
    }
    assert keys["one"] == keys["same"]
    assert len(keys["two"].split()) == len(keys["one"].split()) > 1
    assert not set(keys["one"].split()) & set(keys["two"].split())
    assert btrfs.inside("two", "systemctl is-active ssh") == "active"


def test_a_machine_that_others_made_can_be_cloned(pool: Host) -> None:
    pool.sh('cp -a --reflink=auto "$1" "$2"; echo theirs >"$2/root/mine"', pool.base_tree(), "/var/lib/machines/theirs")
    pool.machctl("clone", "theirs", "ours", "--start", "--wait", "ip")
    assert pool.inside("ours", "cat /root/mine; hostname").split() == ["theirs", "ours"]
    assert pool.machine("theirs")["declared"] is False


def test_restore_goes_back_and_can_be_undone(pool: Host) -> None:
    pool.copy("web", "--start", "--wait", "ip")
    address = pool.machine("web")["addresses"]
    pool.inside("web", "echo first >/root/mine; sync")
    pool.machctl("snapshot", "create", "web", "first").says("machctl restore web first")
    pool.inside("web", "echo second >/root/mine; touch /root/added; rm /etc/debian_version; sync")
    done = pool.machctl("restore", "web", "first")
    undo = re.search(r"to undo that: machctl restore web (\S+)", done.stderr)
    assert undo, done
    pool.machctl("start", "web", "--wait", "ip", status=None)
    assert pool.inside("web", "cat /root/mine; ls /root /etc/debian_version").split() == [
        "first", "/etc/debian_version", "/root:", "mine"
    ]  # fmt: skip
    assert pool.machine("web")["addresses"] == address
    pool.machctl("stop", "web")
    pool.machctl("restore", "web", undo[1], "--no-undo")
    assert pool.state("web") == "stopped"
    tree = pool.tree("web")
    assert pool.sh(f"cat {tree}/root/mine; ls {tree}/root").split() == ["second", "added", "mine"]
    assert not pool.exists(f"{tree}/etc/debian_version")
    names = [row["name"] for row in pool.machctl("snapshot", "ls", "web", "--json").json()]
    assert names == ["first", undo[1]]
    pool.machctl("snapshot", "rm", "web", "first")
    pool.machctl("restore", "web", "first", status=4).says("no snapshot first", undo[1])
    # That the rest goes with the machine is what the fixture asserts.


def test_diff_says_what_changed(pool: Host) -> None:
    pool.copy("web", "--start", "--wait", "ip")
    pool.machctl("snapshot", "create", "web", "before")
    # A package, as dpkg has it, without the network.
    pool.inside(
        "web",
        "mkdir -p /tmp/p/DEBIAN /tmp/p/opt; echo hello >/tmp/p/opt/greeting;"
        "printf 'Package: greeting\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: d\\n'"
        " >/tmp/p/DEBIAN/control; dpkg-deb -b /tmp/p /tmp/p.deb >/dev/null && dpkg -i /tmp/p.deb >/dev/null;"
        "useradd --system watcher; echo 1 >/etc/greeting.conf;"
        "printf '[Service]\\nExecStart=true\\n[Install]\\nWantedBy=multi-user.target\\n'"
        " >/etc/systemd/system/greeting.service; systemctl enable -q greeting; systemctl disable -q nginx; sync",
    )
    for words in (("diff", "web"), ("diff", "web", "before"), ("snapshot", "diff", "web", "before")):
        done = pool.machctl(*words, "--detailed-exitcode", status=10)
        for word in ("greeting", "1.0", "/etc/greeting.conf", "greeting.service", "nginx.service", "watcher"):
            assert word in done.stdout, (word, done)
    pool.machctl("snapshot", "create", "web", "after")
    done = pool.machctl("snapshot", "diff", "web", "before", "after", "--detailed-exitcode", status=10)
    assert "watcher" in done.stdout
    assert pool.machctl("diff", "web", "after", "--json").status == 0


def test_a_renamed_machine_keeps_what_is_its_own(pool: Host) -> None:
    pool.copy("web", "-p", "8091:80", "--autostart", "--start", "--wait", "ip")
    pool.inside("web", "echo mine >/root/mine; sync")
    pool.machctl("snapshot", "create", "web", "then")
    before = identity(pool, "web")
    pool.machctl("rename", "web", "shop", status=5).says("web", "running", "machctl stop web")
    pool.machctl("stop", "web")
    pool.machctl("rename", "web", "shop")
    assert (pool.state("web"), pool.state("shop")) == ("", "stopped")
    places = "/etc/systemd /etc/machctl /var/lib/machctl /var/lib/machines"
    assert pool.sh(f"find {places} -maxdepth 4 -name '*web*' -not -path '*/bases/*' -not -path '*/upper/*'") == ""
    pool.machctl("start", "shop", "--wait", "ip")
    after = identity(pool, "shop")
    assert (after[0], after[1], after[3]) == (before[0], "shop", before[3])
    assert "nginx" in until(lambda: pool.get("http://127.0.0.1:8091"), lambda text: "nginx" in text)
    assert pool.sh("systemctl is-enabled systemd-nspawn@shop") == "enabled"
    assert pool.sh("systemctl is-enabled systemd-nspawn@web", status=None) != "enabled"
    assert [row["name"] for row in pool.machctl("snapshot", "ls", "shop", "--json").json()] == ["then"]
    assert pool.inside("shop", "cat /root/mine") == "mine"
    assert pool.machctl("plan", "--detailed-exitcode").status == 0


def test_an_ephemeral_machine_forgets(pool: Host) -> None:
    pool.copy("web", "--ephemeral", "--start", "--wait", "ip")
    pool.inside("web", "echo mine >/root/mine; rm /etc/debian_version; sync")
    pool.machctl("diff", "web").says("not compared: what web changed since it was started")
    pool.machctl("stop", "web")
    pool.machctl("start", "web", "--wait", "ip")
    assert pool.inside("web", "ls /root /etc/debian_version").split() == ["/etc/debian_version", "/root:"]
    assert not pool.exists(f"{pool.tree('web')}/root/mine")


RUN = ("run", "--package", "nginx-light", "--bridge", "br0", "--name", "job", "debian", "--")


def test_run_passes_streams_and_status_and_leaves_nothing(pool: Host) -> None:
    done = pool.machctl(*RUN, "sh", "-c", "cat; hostname; echo bad >&2; exit 42", stdin="words\n", status=42)
    assert done.stdout == "words\njob\n"
    assert "bad\n" in done.stderr
    assert pool.state("job") == ""
    pool.machctl(*RUN, "/nosuch", status=127).says("/nosuch")
    assert pool.state("job") == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_takes_its_machine_with_it(btrfs: Host, number: signal.Signals) -> None:
    with btrfs.background("machctl", *RUN, "sh", "-c", "echo here; exec sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert btrfs.state("job") == ""


def test_a_run_that_was_killed_is_cleaned_up_by_gc(pool: Host) -> None:
    with pool.background("machctl", *RUN, "sh", "-c", "echo here; exec sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        pool.sh("kill -KILL $(pgrep -f '[m]achctl run .*--name job')")
        process.wait(timeout=30)
        assert pool.state("job") == "running"
        done = pool.machctl("gc")
        assert "job" in done.stdout + done.stderr
        assert pool.state("job") == ""


def test_a_run_of_a_copy_leaves_the_other_as_it_was(btrfs: Host) -> None:
    btrfs.inside("debian", "echo mine >/root/mine")
    words = ("run", "--name", "job", "machine:debian", "--", "sh", "-c")
    done = btrfs.machctl(*words, "cat /root/mine; hostname; rm /root/mine; exit 42", status=42)
    assert done.stdout == "mine\njob\n"
    assert btrfs.state("job") == ""
    assert btrfs.inside("debian", "cat /root/mine") == "mine"
    btrfs.machctl("run", "--package", "jq", "machine:debian", "--", "true", status=2).says("takes no packages")
    btrfs.machctl("run", "machine:nosuch", "--", "true", status=4).says("no machine nosuch")
    with btrfs.background("machctl", *words, "echo here; exec sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        btrfs.sh("kill -KILL $(pgrep -f '[m]achctl run .*--name job')")
        process.wait(timeout=30)
        btrfs.machctl("gc")
        assert btrfs.state("job") == ""
