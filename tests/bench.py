# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside a throwaway host: each figure of machctl against the plain tool's, in turn, as the ratio of medians."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

POOL = Path("/var/lib/machines")
WIDTH = 40
PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,systemd-resolved,libnss-resolve,libnss-myhostname,"
    "iproute2,ca-certificates"
)
HAND_SETTINGS = """\
[Exec]
Boot=yes
NotifyReady=yes
PrivateUsers=pick
[Files]
PrivateUsersOwnership=auto
[Network]
VirtualEthernet=yes
Bridge=br0
"""


class Failed(SystemExit):
    """A command failed; what it said is the last that the bench prints, unless somebody can do without."""


def sh(command: str, *, check: bool = True) -> float:
    """Run a command and give the seconds it took. Raises Failed."""
    began = time.perf_counter()
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {command}"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise Failed(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def compare(
    title: str, ours: str, theirs: str, *, rounds: int, limit: float, after: Callable[[], None] = lambda: None
) -> None:
    """Time both commands in turn and print the ratio of their medians beside what it may be."""
    mine, plain = [], []
    for _ in range(rounds):
        mine.append(sh(ours))
        after()
        plain.append(sh(theirs))
        after()
    report(title, statistics.median(mine) * 1000, statistics.median(plain) * 1000, limit=limit)


def head(title: str, other: str) -> None:
    """Print what the columns of report() are."""
    print(f"{title:<{WIDTH}} {'machctl':>12}  {other:>12}  {'ratio':>6}", flush=True)


def report(title: str, ours: float, theirs: float, *, limit: float, unit: str = "ms ", digits: int = 1) -> None:
    """Print two figures and their ratio beside what it may be."""
    ratio = ours / theirs
    verdict = "" if ratio <= limit else "   above"
    figures = f"{ours:9.{digits}f} {unit} {theirs:9.{digits}f} {unit}"
    print(f"{title:<{WIDTH}} {figures} {ratio:6.2f}  (at most {limit:g}){verdict}", flush=True)


def remove(path: Path) -> None:
    """Remove a tree, the subvolumes that systemd makes in it as well."""
    sh(f"rm -rf --one-file-system {path}", check=False)
    sh(f"btrfs subvolume delete {path}", check=False)
    if path.exists():
        sh(f"rm -rf {path}")


def create() -> None:
    """A first create against the bare bootstrapper with the same packages."""
    plain = POOL / ".plain"
    for tool, bare in (
        ("mmdebstrap", f"mmdebstrap --variant=minbase --include={PACKAGES} trixie {plain}"),
        ("debootstrap", f"debootstrap --variant=minbase --include={PACKAGES} trixie {plain}"),
    ):

        def clean() -> None:
            sh("machctl rm made --quiet", check=False)
            remove(plain)

        compare(
            f"create / bare {tool}",
            f"machctl create debian made --bridge br0 --bootstrapper {tool}",
            bare,
            rounds=3,
            limit=1.05,
            after=clean,
        )


def start() -> None:
    """Start until ready against a machine written by hand, from a tree that the bare tool made."""
    _machine()
    _hand_made()

    def stop() -> None:
        sh("machctl stop one", check=False)
        sh("systemctl stop systemd-nspawn@hand", check=False)

    stop()
    compare("start / systemctl start by hand", "machctl start one", "systemctl start systemd-nspawn@hand",
            rounds=9, limit=1.05, after=stop)  # fmt: skip


def exec_() -> None:
    """Running a command against systemd-run."""
    _machine()
    sh("machctl start one", check=False)
    compare("exec true / systemd-run -M", "machctl exec one -- true", "systemd-run -M one --wait --pipe --quiet true",
            rounds=15, limit=3)  # fmt: skip
    compare("exec true / python3 -c pass", "machctl exec one -- true", "python3 -c pass", rounds=25, limit=8)


def list_() -> None:
    """Listing against machinectl list, with 1, 20 and 50 running."""
    _machine()
    sh("machctl start one", check=False)
    compare("list, 1 running / python3 -c pass", "machctl list", "python3 -c pass", rounds=25, limit=8)
    compare("list, 1 running / machinectl list", "machctl list", "machinectl list", rounds=15, limit=20)
    _hand_made()
    sh("systemctl stop systemd-nspawn@hand", check=False)
    names = [f"copy{number}" for number in range(1, 50)]
    for name in names:
        if not (POOL / name).exists():
            sh(f"machinectl clone hand {name}")
            Path(f"/etc/systemd/nspawn/{name}.nspawn").write_text(HAND_SETTINGS)
    for count, limit in ((20, 2.0), (50, 0.25)):
        sh("systemctl start " + " ".join(f"systemd-nspawn@{name}" for name in names[: count - 1]))
        compare(f"list, {count} running / machinectl list", "machctl list", "machinectl list", rounds=9, limit=limit)
    sh("systemctl kill --signal=SIGKILL " + " ".join(f"systemd-nspawn@{name}" for name in names), check=False)
    sh("systemctl stop " + " ".join(f"systemd-nspawn@{name}" for name in names), check=False)
    for name in names:
        sh(f"machinectl remove {name}", check=False)


def version() -> None:
    """The floor of every command."""
    compare("version / python3 -c pass", "machctl version", "python3 -c pass", rounds=25, limit=8)


def _machine() -> None:
    if not (POOL / "one").exists():
        sh("machctl create debian one --bridge br0")


def _hand_made() -> None:
    tree = POOL / "hand"
    if tree.exists():
        return
    sh(f"btrfs subvolume create {tree}", check=False)
    sh(f"mmdebstrap --variant=minbase --include={PACKAGES} trixie {tree}")
    (tree / "etc/hostname").unlink(missing_ok=True)
    (tree / "etc/machine-id").unlink(missing_ok=True)
    (tree / "etc/machine-id").write_text("")
    shutil.rmtree(tree / "dev")
    (tree / "dev").mkdir()
    sh(f"systemctl --root={tree} enable systemd-networkd systemd-resolved")
    Path("/etc/systemd/nspawn").mkdir(exist_ok=True)
    Path("/etc/systemd/nspawn/hand.nspawn").write_text(HAND_SETTINGS)


PARTS = {"version": version, "exec": exec_, "list": list_, "start": start, "create": create}

if __name__ == "__main__":
    head("", "plain")
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
