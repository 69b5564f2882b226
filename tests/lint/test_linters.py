# SPDX-License-Identifier: LGPL-2.1-or-later
"""What linters and systemd's own checkers say of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL_SCRIPTS = sorted(
    path
    for path in [*ROOT.glob("vagrant/*"), *ROOT.glob("tests/*"), ROOT / ".ci/run"]
    if path.is_file() and b"sh" in path.read_bytes().split(b"\n", 1)[0].partition(b"#!")[2]
)


def check(*argv: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a checker; what it prints is the failure."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{Path(argv[0]).name}: {done.stdout}{done.stderr}", pytrace=False)


def tool(name: str) -> str:
    """Give the path of a program, or skip the test for want of it."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_ruff() -> None:
    check(sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", "--output-format=concise", ".")


def test_mypy(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "machctl-tests/mypy"
    check(sys.executable, "-m", "mypy", "--no-error-summary", f"--cache-dir={cache}")


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck(script: Path) -> None:
    check(tool("shellcheck"), "--external-sources", "--check-sourced", script.name, cwd=script.parent)


@pytest.mark.parametrize("unit", sorted(ROOT.glob("units/*")), ids=lambda path: path.name)
def test_units_are_verified(unit: Path, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    # It asks for the programs of a unit too, and machctl is not installed here.
    text = unit.read_text().replace("ExecStart=/usr/local/bin/machctl", "ExecStart=/bin/true")
    for key in ("ExecStop", "ExecReload"):
        text = text.replace(f"{key}=/usr/local/bin/machctl", f"{key}=/bin/true")
    text = text.replace("=nft ", "=/bin/true ")
    copy = tmp_path / unit.name.replace("@.", "@10." if "health@" in unit.name else "@br0.")
    copy.write_text(text)
    check(analyze, "verify", "--man=no", copy)


@pytest.mark.parametrize("unit", sorted(ROOT.glob("units/*.service")), ids=lambda path: path.name)
def test_units_are_hardened(unit: Path) -> None:
    # In tenths: from 5 on systemd calls the exposure of a unit medium (systemd-analyze(1), security).
    check(tool("systemd-analyze"), "security", "--offline=yes", "--threshold=49", "--no-pager", unit)


def test_vagrantfile_is_valid(tmp_path: Path) -> None:
    check(
        tool("vagrant"), "validate", "--ignore-provider",
        cwd=ROOT / "vagrant", VAGRANT_HOME=str(tmp_path / "home"), VAGRANT_DOTFILE_PATH=str(tmp_path / "dot"),
    )  # fmt: skip


def test_every_file_names_its_licence() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, or git is not installed")
    # What is compared byte by byte has no room for it.
    own = [
        path
        for path in map(Path, filter(None, listed.stdout.split("\0")))
        if path.suffix not in {".j2", ".md"} and path.name != "LICENSE" and ".expected" not in str(path)
    ]
    without = [
        str(path)
        for path in own
        if (ROOT / path).is_file()
        and "SPDX-License-Identifier: LGPL-2.1-or-later" not in (ROOT / path).read_text()[:200]
    ]
    assert not without


def test_wheel_has_all_that_machctl_needs(tmp_path: Path) -> None:
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md is missing")
    check(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for source in ROOT.glob("templates/*"):
        assert f"machines/templates/{source.name}" in names
    for source in ROOT.glob("units/*"):
        assert any(name.endswith(f"data/lib/systemd/system/{source.name}") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)
