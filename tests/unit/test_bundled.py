# SPDX-License-Identifier: LGPL-2.1-or-later
"""The modules in one file, imported by an interpreter of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from machines import bundled

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "machines", tmp_path / "machines", ignore=shutil.ignore_patterns("__pycache__"))
    bundled.write(str(tmp_path), str(tmp_path))
    return tmp_path


def run(installed: Path, code: str) -> str:
    begin = f"import sys; sys.path.insert(0, {str(installed)!r}); from machines.bundled import install, Bundle; "
    begin += f"install({str(installed)!r})\n"
    done = subprocess.run([sys.executable, "-Ic", begin + code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_modules_and_packages_come_from_the_bundle(installed: Path) -> None:
    code = (
        "import machines.cli.quick, machines.host.storage as storage\n"
        "print(isinstance(machines.cli.quick.__loader__, Bundle), machines.cli.quick.__file__)\n"
        "print(isinstance(storage.__loader__, Bundle), *storage.__path__)\n"
    )
    assert run(installed, code).splitlines() == [
        f"True {installed}/machines/cli/quick.py",
        f"True {installed}/machines/host/storage",
    ]


def test_a_module_that_it_lacks_is_imported_as_ever(installed: Path) -> None:
    (installed / "machines/later.py").write_text("WORD = 'here'\n")
    assert run(installed, "from machines.later import WORD; print(WORD)") == "here\n"


def test_a_traceback_shows_the_source(installed: Path) -> None:
    shown = run(installed, "from machines.declare.ports import can_wake\ncan_wake(5)\n")
    assert f'File "{installed}/machines/declare/ports.py"' in shown
    assert "    return any(port" in shown


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-1], lambda data: b"\x00\x00" + data[2:]])
def test_one_that_is_not_whole_or_of_another_python_is_left_alone(
    installed: Path, spoil: Callable[[bytes], bytes]
) -> None:
    (bundle,) = installed.glob("bundle.*")
    bundle.write_bytes(spoil(bundle.read_bytes()))
    code = "import machines.cli.quick; print(isinstance(machines.cli.quick.__loader__, Bundle))"
    assert run(installed, code) == "False\n"


def test_it_takes_no_standard_stream(installed: Path) -> None:
    begin = f"import os, sys; os.close(0); sys.path.insert(0, {str(installed)!r})\n"
    code = f"from machines.bundled import install; install({str(installed)!r}); import machines.cli.quick; os.fstat(0)"
    done = subprocess.run([sys.executable, "-Ic", begin + code], capture_output=True, text=True, check=False)
    assert "Bad file descriptor" in done.stderr


def test_without_a_bundle_for_this_python_the_files_are_imported(installed: Path) -> None:
    (bundle,) = installed.glob("bundle.*")
    bundle.rename(installed / "bundle.cpython-311-of-another")
    code = "import machines.cli.quick; print(isinstance(machines.cli.quick.__loader__, Bundle))"
    assert run(installed, code) == "False\n"
