# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies, is mounted and runs on a host, and what of it belongs to no whole machine. Runs in a throwaway host."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

POOL = Path("/var/lib/machines")
STORE = Path("/var/lib/machctl/store")
BASES, LAYERS, SNAPSHOTS = STORE / "bases", STORE / "layers", STORE / "snapshots"

ROOTS = ("/etc/machctl", "/etc/systemd", "/run/machctl", "/run/systemd/nspawn", "/var/lib/machctl", "/var/lib/machines")

_M, _B, _I = r"(?P<machine>[^/@]+)", r"(?P<bridge>[^/@]+)", r"(?P<base>[^/]+)"
_STORE = "/var/lib/machctl/store"
UNITS = (
    rf"systemd-nspawn@{_M}\.service",
    r"machctl-port-(?P<machine>[^/@_]+)_\d+[^/]*\.(socket|service)",
    rf"machctl-used@{_M}\.target",
    r"machctl-firewall\.service",
    r"var-lib-machctl-store-layers-(?P<machine>[^/@]+)-lower\.mount",
    rf"var-lib-machines-{_M}\.mount",
    rf"machctl-bridge@{_B}\.service",
    r"machctl-nat\.service|system-machctl.*\.slice|system-systemd\\x2dnspawn\.slice",
)
OWNED = (
    rf"/etc/machctl(/fleet\.d(/{_M}\.toml)?)?",
    rf"/etc/systemd/nspawn(/{_M}\.nspawn)?",
    r"/etc/systemd/system/machines\.target\.wants|/etc/systemd/network",
    rf"/etc/systemd/system/sockets\.target\.d(/50-machctl-{_M}\.conf)?",
    rf"/etc/systemd/network/70-machctl-{_B}\.(netdev|network)",
    r"/etc/systemd/system/systemd-nspawn@(?P<machine>[^/@]+)\.service\.d(/50-machctl\.conf)?",
    *(rf"/etc/systemd/system/(machines\.target\.wants/)?{unit}" for unit in UNITS),
    r"/var/lib/machctl(/(machines|networks|nat|nat\.nft|store(/(bases|layers|snapshots))?))?",
    rf"/var/lib/machctl/guests(/{_M}(/[^/]+)?)?",
    rf"/var/lib/machctl/machines/{_M}\.json",
    rf"/var/lib/machctl/networks/{_B}\.json",
    rf"/var/lib/machctl/nat/machine-{_M}\.nft",
    rf"/var/lib/machctl/nat/bridge-{_B}\.nft",
    rf"{_STORE}/bases/{_I}(/(base\.json|tree))?",
    rf"{_STORE}/layers/{_M}(/(upper|lower|work|base))?",
    rf"{_STORE}/snapshots/(?P<machine>[^/]+)(/[^./][^/]*(/(snapshot\.json|tree))?)?",
    # nspawn's lock on a directory that a machine runs in.
    rf"/var/lib/machines(/(\.#)?{_M}(?(2)\.lck))?",
    r"/run/machctl|/run/systemd/nspawn(/(locks(/.*)?|propagate|unix-export|shutdown|notify))?",
    rf"/run/systemd/nspawn/(propagate|unix-export|notify)/{_M}",
    # What a machine was started with.
    rf"/run/machctl/started-{_M}(/.*)?",
)
TOOLS = {"btrfs", "cp", "chattr", "mount", "nft", "rm", "setpriv", "umount", "unshare", "zstd"}


class Listing(NamedTuple):
    """All that machctl may have left, each in the words of whoever shows it."""

    paths: set[str]
    subvolumes: set[str]
    mounts: set[str]
    units: set[str]
    links: set[str]


def call(*argv: str, status: int | None = 0) -> str:
    """Run a command and give its output; an exit status other than ``status`` is an error."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if "Traceback" in done.stderr or status not in {None, done.returncode}:
        raise AssertionError(f"{' '.join(argv)!r} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def machctl(*words: str) -> Any:
    """Give what a verb of machctl prints as JSON."""
    return json.loads(call("machctl", "--json", *words))


def kill_session(session: int) -> None:
    """Kill the processes of a session (field 6 of proc_pid_stat(5)), as far as it goes."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (OSError, IndexError):
            # It has ended.
            continue


def listing() -> Listing:
    """Look at everything."""
    on_btrfs = call("stat", "-f", "-c", "%T", str(POOL)).strip() == "btrfs"
    subvolumes = call("btrfs", "subvolume", "list", str(POOL)) if on_btrfs else ""
    units = call("systemctl", "list-units", "--all", "--plain", "--no-legend", "machctl-*", "var-lib-*",
                 "systemd-nspawn@*")  # fmt: skip
    return Listing(
        paths={path for root in ROOTS for path in _below(root)},
        subvolumes={line.split(" path ", 1)[1] for line in subvolumes.splitlines()},
        mounts={line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        units={line.split()[0] for line in units.splitlines()},
        links={link["ifname"] for link in json.loads(call("ip", "-j", "link", "show", "type", "bridge") or "[]")},
    )


def _below(root: str) -> Iterator[str]:
    """Give the paths below ``root``, no tree's inside."""
    for directory, directories, files in os.walk(root):
        yield directory
        yield from (f"{directory}/{name}" for name in files)
        links = [name for name in directories if os.path.islink(f"{directory}/{name}")]  # noqa: PTH114
        yield from (f"{directory}/{name}" for name in links)
        if directory == str(POOL) or re.fullmatch(rf"{_STORE}/(layers|snapshots/[^/]+|bases)/[^/]+", directory):
            yield from (f"{directory}/{name}" for name in directories if name not in links)
            directories.clear()


def problems(before: Listing) -> list[str]:
    """Name what belongs to no machine, and what machines lack; ``before`` is what was there before all of them."""
    rows = {row["name"]: row for row in machctl("list")}
    bases = {row["id"] for row in machctl("image", "ls")}
    records = {path.stem: json.loads(path.read_text()) for path in Path("/var/lib/machctl/machines").glob("*.json")}
    bridges = {bridge for record in records.values() for bridge in record["addresses"]}
    known = {"machine": set(rows), "bridge": bridges, "base": bases}
    now = listing()
    # Before anything mounts the layers that a kill has left unmounted.
    plan = subprocess.run(["machctl", "plan", "--detailed-exitcode"], capture_output=True, text=True, check=False)
    found = [f"plan after apply ended with {plan.returncode}: {plan.stdout}{plan.stderr}"] if plan.returncode else []
    found += [f"orphan: {path}" for path in sorted(now.paths - before.paths) if not _owned(path, OWNED, known)]
    found += [f"orphan: unit {unit}" for unit in sorted(now.units - before.units) if not _owned(unit, UNITS, known)]
    found += [f"orphan: bridge {link}" for link in sorted(now.links - before.links - bridges)]
    points = {f"/var/lib/machines/{name}" for name in rows} | {f"{LAYERS}/{name}/lower" for name in rows}
    mounts = {
        point for point in now.mounts - before.mounts
        if point not in points and not point.startswith(("/run/systemd/nspawn/", "/run/credentials/", "/run/user/"))
    }  # fmt: skip
    found += [f"orphan: mount {point}" for point in sorted(mounts)]
    found += [
        f"orphan: subvolume {path}" for path in sorted(now.subvolumes - before.subvolumes) if not _tree(path, now)
    ]
    if not bridges and "table inet machctl" in call("nft", "list", "tables"):
        found.append("orphan: nft table inet machctl")
    found += [f"orphan: process {text}" for text in _processes()]
    for name, row in rows.items():
        found += _machine(name, row, records.get(name))
    for path in sorted(now.paths):
        if path.endswith(("/base.json", "/snapshot.json")):
            json.loads(Path(path).read_text())
            if not Path(path).with_name("tree").is_dir():
                found.append(f"not whole: {path} has no tree")
    return found


def mounted(name: str) -> Path:
    """Give the tree of a machine, mounted if it is a layer that is not."""
    tree = POOL / name
    if (LAYERS / name).is_dir() and not tree.is_mount():
        call("systemctl", "start", f"var-lib-machines-{name}.mount")
    return tree


def _owned(path: str, patterns: tuple[str, ...], known: dict[str, set[str]]) -> bool:
    for pattern in patterns:
        if match := re.fullmatch(pattern, path):
            return all(name is None or name in known[kind] for kind, name in match.groupdict().items())
    return False


def _tree(path: str, now: Listing) -> bool:
    """Tell whether a subvolume is one of those that were found as paths, or a guest's own inside one."""
    path = f"/var/lib/{path}"
    return path in now.paths or any(path.startswith(f"{POOL}/{name}/") for name in os.listdir(POOL))  # noqa: PTH208


def _machine(name: str, row: dict[str, Any], record: dict[str, Any] | None) -> Iterator[str]:
    if not row["declared"]:
        yield f"not whole: {name} is not declared"
    if record is None or record["intent"]:
        yield f"not whole: {name} has the record {record}"
    elif record["storage"] == "overlay" and not (LAYERS / name / "base").is_dir():
        yield f"not whole: {name} has no base"
    tree = POOL / name
    if (LAYERS / name).is_dir() and not tree.is_mount() and list(tree.iterdir()):
        yield f"orphan: {list(tree.iterdir())} below the layer of {name}"
    if not tree.is_dir():
        yield f"not whole: {name} has no tree"
    elif not any((mounted(name) / path).read_text() for path in ("usr/lib/os-release",)):
        yield f"not whole: {name} has no os-release"
    if call("systemctl", "show", "-P", "FreezerState", f"systemd-nspawn@{name}.service").strip() != "running":
        yield f"orphan: {name} is still frozen"


def _processes() -> Iterator[str]:
    own = _ancestors()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
            guest = "machine.slice" in (directory / "cgroup").read_text()
        except OSError:
            continue
        program = os.path.basename(words[0])  # noqa: PTH119
        ours = program in TOOLS or any(word.endswith("bin/machctl") for word in words[:4])
        if ours and not guest and int(directory.name) not in own:
            yield f"{directory.name} {' '.join(words)}"


def _ancestors() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 0:
        pids.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pids
