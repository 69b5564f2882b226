# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts of vagrant/host as tests use them: commands in them, what they look like, and machines without a bootstrap."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

PROGRAM = Path(__file__).parents[1] / "vagrant/host"
T = TypeVar("T")

KEEP = bool(os.environ.get("MACHCTL_TESTS_KEEP"))
"""Leave the hosts up at the end, and take them as they are at the next start: for writing tests."""

# All that a machine may leave on a host. Of links no state and no index: those change with what others do.
SNAPSHOT = r"""
echo '== links'
ip -o link | sed -E 's/^[0-9]+: ([^:@]+).* mtu ([0-9]+).*/\1 mtu \2/' | sort
echo '== addresses'
ip -o -4 address | awk '{print $2, $4}' | sort
ip -o -6 address show scope global | awk '{print $2, $4}' | sort
echo '== names'
cat /etc/hosts
echo '== nft'
# networkd keeps a table of its own once a link with IPMasquerade= was there.
nft list tables | grep -v ' io.systemd.nat$' | while read -r table; do nft list $table; done
echo '== files'
store=/var/lib/machctl/store
roots='/etc/systemd /etc/machctl /etc/sysctl.d /var/lib/machctl'
find $roots -path $store -prune -o -printf '%M %u:%g %p -> %l\n' 2>/dev/null |
    sort -k 3
# A base outlives its machines; what an interrupted run left of one does not, nor does a layer or a snapshot.
find $store -mindepth 1 -maxdepth 2 ! -path '*/bases/[!.]*' ! -path $store/bases ! -path $store/layers \
    ! -path $store/snapshots 2>/dev/null | sort
find $store/layers $store/snapshots -mindepth 2 -maxdepth 2 -printf '%M %U:%G %p -> %l\n' 2>/dev/null | sort -k 3
# What systemd is known to have read is kept when somebody looks.
find /run/machctl -mindepth 1 ! -name units-read 2>/dev/null | sort
find /run/systemd/nspawn -mindepth 2 ! -path '*/propagate/*' ! -path '*/unix-export/*' 2>/dev/null |
    sed 's/inode-.*/inode/' | sort
find /var/lib/machines -maxdepth 1 ! -name '.kept-*' -printf '%M %u:%g %p\n' | sort -k 3
find /var/log/journal -maxdepth 1 -type l -printf '%p -> %l\n' | sort
echo '== content'
find $roots -path $store -prune -o -type f -exec sha256sum {} + 2>/dev/null |
    sort -k 2
echo '== mounts'
findmnt --raw --noheadings --output TARGET | grep -vE '^/run/(user|credentials|netns|systemd/nspawn)' | sort
echo '== units'
systemctl list-units --all --plain --no-legend 'machctl-*' 'systemd-nspawn@*' |
    awk '$1 !~ /^machctl-(port.*|firewall)\.service$/ {print $1, $3}' | sort
systemctl --failed --plain --no-legend
echo '== machines'
machinectl list --no-legend | awk '{print $1}' | sort
echo '== tools'
ps -eo args= | grep -E 'debootstrap|dpkg|apt-get|gpgv' | grep -v grep | sort
true
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit status and what it printed."""

    words: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"{' '.join(self.words)!r} ended with {self.status}\nstdout: {self.stdout}\nstderr: {self.stderr}"

    def json(self) -> Any:
        """Give what it printed, parsed."""
        return json.loads(self.stdout)

    def says(self, *words: str) -> None:
        """Assert that its error names each of ``words``."""
        missing = [word for word in words if word.lower() not in self.stderr.lower()]
        assert not missing, f"{missing} not said by {self}"


# Of tests that run at once, each process has hosts of its own (pytest-xdist).
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


class Host:
    """A throwaway host."""

    def __init__(self, name: str, *options: str) -> None:
        self.name = f"{name}-{_WORKER}" if _WORKER else name
        self.options = options

    def up(self) -> None:
        """Make and boot it, or only bring the checkout in it up to date."""
        # Not a pipe: what it starts in the background would hold it open.
        done = subprocess.run(
            [PROGRAM, "up", "--name", self.name, *self.options], stdin=subprocess.DEVNULL, check=False, timeout=900
        )
        if done.returncode:
            pytest.fail(f"vagrant/host up {self.name} failed, see above", pytrace=False)

    def down(self) -> None:
        """Take it away."""
        subprocess.run([PROGRAM, "down", "--name", self.name], stdin=subprocess.DEVNULL, check=True, timeout=120)

    def argv(self, *words: str) -> list[str]:
        """Give the command of the outer machine that runs ``words`` in it."""
        return [str(PROGRAM), "run", "--name", self.name, "--", *words]

    def run(self, *words: str, status: int | None = 0, stdin: str = "", timeout: float = 120) -> Done:
        """Run a command in it; assert its exit ``status``, whatever it is for None."""
        ended = subprocess.run(
            self.argv(*words), input=stdin.encode(), capture_output=True, check=False, timeout=timeout
        )
        done = Done(
            words, ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")
        )
        assert status is None or done.status == status, f"{done}\nwanted {status}"
        assert "Traceback" not in done.stderr, done
        return done

    def pipe(self, *words: str, data: bytes, timeout: float = 120) -> bytes:
        """Run a command in it with ``data`` on stdin; give its stdout, byte for byte."""
        return subprocess.run(self.argv(*words), input=data, stdout=subprocess.PIPE, check=True, timeout=timeout).stdout

    def sh(self, script: str, *words: str, status: int | None = 0, timeout: float = 120) -> str:
        """Run a shell script in it; give what it printed."""
        return self.run("sh", "-c", script, "sh", *words, status=status, timeout=timeout).stdout.strip()

    def machctl(self, *words: str, status: int | None = 0, stdin: str = "", timeout: float = 300) -> Done:
        """Run machctl in it."""
        return self.run("machctl", *words, status=status, stdin=stdin, timeout=timeout)

    @contextlib.contextmanager
    def background(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in it beside the test; what is left of it at the end is killed."""
        process = subprocess.Popen(
            self.argv(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            # What it started itself may outlive it, with the pipes open.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait(timeout=10)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in it."""
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"', "sh", path, mode, stdin=text)

    def read(self, path: str) -> str:
        """Read a file in it."""
        return self.run("cat", path).stdout

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file in it, be it a broken symlink."""
        return self.run("sh", "-c", 'test -e "$1" || test -L "$1"', "sh", path, status=None).status == 0

    def machine(self, name: str) -> dict[str, Any]:
        """Give what ``machctl show`` says of a machine."""
        shown: dict[str, Any] = self.machctl("show", name, "--json").json()
        return shown

    def state(self, name: str) -> str:
        """Give a machine's state, as list has it; "" for none."""
        rows = self.machctl("list", "--json").json()
        return next((row["state"] for row in rows if row["name"] == name), "")

    def get(self, url: str) -> str:
        """Fetch ``url`` in it."""
        return self.run("curl", "-sS", "--globoff", "--max-time", "20", url).stdout

    def snapshot(self) -> str:
        """Give what machines leave on it: links, rules, files, mounts, units, processes."""
        return self.run("sh", "-c", SNAPSHOT).stdout

    def assert_same(self, before: str, *, limit: float = 5) -> None:
        """Assert that it looks as it did; what ends by itself (a unit, a mount) has ``limit`` seconds for it."""
        after = until(self.snapshot, lambda now: now == before, limit=limit)
        changes = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0)
        assert after == before, "the host is not as before:\n" + "\n".join(changes)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that it is in the end what it was in the beginning."""
        before = self.snapshot()
        yield
        self.assert_same(before)

    @contextlib.contextmanager
    def only_debian(self) -> Iterator[Host]:
        """Assert that it is in the end as it was, once all machines are removed but the main job's, which runs."""
        with self.unchanged():
            try:
                yield self
            finally:
                names = self.machctl("list", "-o", "name").stdout.split()
                others = [name for name in names if name != "debian"]
                if others:
                    self.machctl("rm", "--force", *others)
                if self.state("debian") != "running":
                    self.machctl("start", "debian", "--wait", "ip")

    # --- machines without a bootstrap ---

    def copy(self, name: str, *flags: str) -> Done:
        """Create a machine from the base that the main job's was made of."""
        words = ("create", "debian", name, "--bridge", "br0", "--package", "nginx-light", *flags)
        done = self.machctl(*words)
        assert "bootstrap" not in done.stderr, done
        return done

    def inside(self, name: str, script: str, status: int | None = 0) -> str:
        """Run a shell script in a machine; give what it printed."""
        return self.machctl("exec", name, "--", "sh", "-c", script, status=status).stdout.strip()

    def base_tree(self) -> str:
        """Give the tree that the main job's machine was copied from."""
        images = self.machctl("image", "ls", "--json").json()
        (image,) = (row["id"] for row in images if row["source"] == "debian:trixie" and row["recipe"] == BASE_RECIPE)
        return str(self.machctl("image", "show", image, "--json").json()["path"])

    def tree(self, name: str) -> str:
        """Give the tree of a machine; one of layers is mounted first, as the machine's start would do."""
        unit = 'unit=$(systemd-escape --path --suffix=mount "$1"); systemctl cat "$unit" >/dev/null 2>&1 || exit 0'
        path = f"/var/lib/machines/{name}"
        self.sh(f'{unit}; systemctl start "$unit"', path)
        return path

    def keep_tree(self, name: str) -> str:
        """Copy the tree of a stopped machine out of machined's sight; give where to."""
        kept = f"/var/lib/machines/.kept-{name}"
        self.sh(
            'test -d "$2" || btrfs -q subvolume snapshot "$1" "$2" 2>/dev/null || cp -a --reflink=auto "$1" "$2"',
            f"/var/lib/machines/{name}",
            kept,
        )
        return kept

    def place_tree(self, kept: str, name: str) -> None:
        """Make a tree of its own for machine ``name`` from one that was kept."""
        self.sh(
            'btrfs -q subvolume snapshot "$1" "$2" 2>/dev/null || cp -a --reflink=auto "$1" "$2"; '
            ': >"$2/etc/machine-id"; rm -rf "$2/var/log/journal/"*',
            kept,
            f"/var/lib/machines/{name}",
        )

    def drop_tree(self, kept: str) -> None:
        """Remove a tree that was kept."""
        self.sh('btrfs -q subvolume delete "$1" >/dev/null 2>&1 || rm -rf --one-file-system "$1"', kept)


def read_until(stream: IO[bytes] | None, words: str) -> str:
    """Read lines until one has ``words`` in it; give all that was said."""
    assert stream is not None
    said = ""
    while words not in said:
        line = stream.readline()
        assert line, f"it ended without saying {words!r}: {said}"
        said += line.decode(errors="replace")
    return said


def until(look: Callable[[], T], good: Callable[[T], bool], *, limit: float = 30, every: float = 0.2) -> T:
    """Look again until it is ``good`` or the time is over; give what was seen last."""
    end = time.monotonic() + limit
    while True:
        seen = look()
        if good(seen) or time.monotonic() > end:
            return seen
        time.sleep(every)


# --- hosts with a machine ---

MAIN_JOB = (
    "create", "debian", "--bridge", "br0", "-p", "8080:80", "--package", "nginx-light", "--start", "--wait", "ip"
)  # fmt: skip
BASE_RECIPE = {"variant": "minbase", "packages": ["nginx-light"]}
HOSTS = {
    "trixie": ("t-trixie", "--suite", "trixie", "--pool", "btrfs"),
    "static": ("t-static", "--suite", "trixie", "--pool", "ext4", "--networkd", "no"),
    "bookworm": ("t-bookworm", "--suite", "bookworm", "--pool", "btrfs"),
    # Where Docker and firewalld have been, other tests would not see what they expect.
    "beside": ("t-beside", "--suite", "trixie", "--pool", "btrfs"),
    # Where nobody has turned on forwarding yet, nor set anything else of the host's IPv6.
    "uplink": ("t-uplink", "--suite", "trixie", "--pool", "btrfs"),
    "forky": ("t-forky", "--suite", "forky", "--pool", "btrfs"),
}


@dataclass(frozen=True)
class Road:
    """A host on which the main job was done: how it looked before, and what create said."""

    host: Host
    before: str
    created: Done
    suite: str

    def ready(self) -> Road:
        """See to it that the machine runs, whatever the test before did."""
        if self.host.state("debian") != "running":
            self.host.machctl("start", "debian", "--wait", "ip")
        return self

    @property
    def address(self) -> str:
        """Give the machine's IPv4 address."""
        address, *_ = self.host.machine("debian")["addresses"]
        return str(address)


class Roads:
    """The hosts that were asked for so far."""

    def __init__(self) -> None:
        self._roads: dict[str, Road] = {}
        self._failed: dict[str, str] = {}
        self.hosts: list[Host] = []

    def get(self, suite: str) -> Road:
        """Give a host with its machine; made when it is asked for first."""
        if suite in self._failed:
            pytest.fail(f"host {suite}: {self._failed[suite]}", pytrace=False)
        if suite not in self._roads:
            try:
                self._roads[suite] = self._make(suite)
            except BaseException as error:
                self._failed[suite] = str(error)
                raise
        return self._roads[suite]

    def close(self) -> None:
        """Take all hosts away."""
        while self.hosts and not KEEP:
            self.hosts.pop().down()

    def _make(self, suite: str) -> Road:
        for tool in ("bash", "nsenter", "unshare"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed")
        host = Host(*HOSTS[suite])
        self.hosts.append(host)
        if not KEEP:
            host.down()
        host.up()
        if KEEP and host.exists("/root/before") and host.state("debian"):
            return Road(host, host.read("/root/before"), Done(MAIN_JOB, 0, "", host.read("/root/created")), suite)
        before = host.snapshot()
        created = host.machctl(*MAIN_JOB, timeout=600)
        host.write("/root/before", before)
        host.write("/root/created", created.stderr)
        return Road(host, before, created, suite)


ROADS = Roads()
"""One set of hosts, whichever folders of tests run."""
