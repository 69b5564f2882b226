# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is rendered is what nft and systemd take."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.operations import observe
from machines.plan.nat import is_loaded

CASES = Path(__file__).parent / "cases"
NAT = "var/lib/machctl/nat"


def run(*argv: str | Path) -> str:
    """Run a checker and give what it complains about."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    complaints = done.stdout + done.stderr
    return complaints or (f"it ended with {done.returncode}" if done.returncode else "")


@pytest.mark.skipif(os.geteuid() != 0, reason="unshare(1) of a network namespace needs root")
@pytest.mark.parametrize(
    "tree", sorted(path.parents[3] for path in CASES.glob(f"*/{NAT}.nft")), ids=lambda path: path.stem
)
def test_nft_takes_the_table(tree: Path, tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    table = tmp_path / "nat.nft"
    table.write_text((tree / f"{NAT}.nft").read_text().replace(f"/{NAT}/", f"{tree / NAT}/"))
    # A namespace of its own: the check asks the kernel.
    assert run("unshare", "--net", "nft", "--check", "--file", table) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="unshare(1) of a network namespace needs root")
@pytest.mark.parametrize(
    "tree", sorted(path.parents[3] for path in CASES.glob(f"*/{NAT}.nft")), ids=lambda path: path.stem
)
def test_table_that_nft_lists_is_the_one_that_was_loaded(tree: Path, tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    table = tmp_path / "nat.nft"
    table.write_text((tree / f"{NAT}.nft").read_text().replace(f"/{NAT}/", f"{tree / NAT}/"))

    def listed(argv: Sequence[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
        script = 'nft --file "$1" && shift && exec "$@"'
        argv = ["unshare", "--net", "sh", "-c", script, "sh", str(table), *argv]
        return subprocess.run(argv, capture_output=True, text=True, check=check)

    there = [tree / f"{NAT}.nft", *(tree / NAT).glob("*.nft")]
    files = {f"/{path.relative_to(tree)}": path.read_text() for path in there}
    # What machctl itself asks nft, in a namespace where the table is loaded.
    host = SimpleNamespace(tools=SimpleNamespace(run=listed))
    found = observe._nat(host, files, lambda: listed(observe._NAT))  # type: ignore[arg-type]
    assert "masquerade" in found
    assert is_loaded(files, found)


@pytest.mark.parametrize("socket", sorted(CASES.glob("**/*.socket")), ids=lambda path: path.name)
def test_systemd_takes_the_sockets(socket: Path, tmp_path: Path) -> None:
    for unit in (socket, socket.with_suffix(".service")):
        # The program is systemd's own, and may lie elsewhere.
        lines = [line for line in unit.read_text().splitlines() if not line.startswith("ExecStart=")]
        extra = ["[Service]", "ExecStart=/bin/true"] if unit.suffix == ".service" else []
        (tmp_path / unit.name).write_text("\n".join([*lines, *extra]) + "\n")
    complaints = run("systemd-analyze", "verify", "--man=no", tmp_path / socket.name)
    assert [line for line in complaints.splitlines() if str(tmp_path) in line] == []


@pytest.mark.parametrize("dropin", sorted(CASES.glob("**/50-machctl.conf")), ids=lambda path: path.parent.name)
def test_systemd_takes_the_drop_ins(dropin: Path, tmp_path: Path) -> None:
    unit = tmp_path / "machine.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n" + dropin.read_text())
    complaints = run("systemd-analyze", "verify", "--man=no", unit)
    assert [line for line in complaints.splitlines() if str(tmp_path) in line] == []


@pytest.mark.parametrize("tree", sorted(CASES.glob("**/var-lib-machines-*.mount")), ids=lambda path: path.name)
def test_systemd_takes_the_mounts(tree: Path, tmp_path: Path) -> None:
    for unit in tree.parent.glob("*.mount"):
        shutil.copy(unit, tmp_path)
    complaints = run("systemd-analyze", "verify", "--man=no", tmp_path / tree.name)
    # It says so where the name of a unit is not that of its mount point, or it needs one that is not there.
    assert [line for line in complaints.splitlines() if "var-lib-mach" in line] == []
