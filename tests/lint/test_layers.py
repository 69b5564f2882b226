# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rooms of machines/ and what each may import; one door for each outside library; files that can be read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "machines"
FILES = sorted(PACKAGE.rglob("*.py"))

# An arrow that is not here is a mistake. A room may always import from itself.
ARROWS = {
    "errors": set(),
    "model": {"errors"},
    "declare": {"model", "errors"},
    "render": {"model", "errors"},
    "plan": {"render", "declare", "model", "errors"},
    "operations": {"plan", "render", "declare", "model", "errors", "host.interfaces"},
    "host": {"model", "errors"},
    "cli": {"operations", "plan", "render", "declare", "model", "errors", "host", "__version__"},
    "__init__": set(),
    "__main__": {"cli"},
    "bundled": set(),
}

# Each outside library, and each way to act on the world, has one door.
DOORS = {
    "dbus_next": {"host/bus/connection.py"},
    "pystemd": {"host/bus/_sdbus.py"},
    "pyroute2": {"host/netlink.py"},
    "jinja2": {"render/environment.py"},
    "subprocess": {"host/run.py"},
    "asyncio.subprocess": {"host/streaming.py"},
    "tomlkit": {"declare/write.py"},
    "yaml": {"declare/foreign/compose_text.py"},
    "typer": {"cli/app.py", "cli/words.py", "cli/verbs/host.py"},
    "click": {"cli/app.py", "cli/output.py"},
}

LINES_WANTED = 400
LINES_MAX = 600


def imports(path: Path) -> Iterator[str]:
    """Give the full name of everything that is imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _name(node.func).split(".")[-1] in {"import_module", "_load"}:
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)
            elif isinstance(first, ast.JoinedStr) and isinstance(first.values[0], ast.Constant):
                yield str(first.values[0].value).rstrip(".")


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Give every call in a file: its line and the dotted name of what is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node.lineno, _name(node.func)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def room(module: str) -> str:
    """Give the room of a module inside machines/: host.interfaces counts as one of its own."""
    words = module.split(".")[1:]
    return ".".join(words[:2]) if words[:2] == ["host", "interfaces"] else words[0]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


each_file = pytest.mark.parametrize("path", FILES, ids=relative)


@each_file
def test_arrows_between_rooms_go_one_way(path: Path) -> None:
    own = relative(path).split("/")[0].removesuffix(".py")
    wrong = [
        name
        for name in imports(path)
        if name.split(".")[0] == "machines"
        and name != "machines"
        and room(name) not in ARROWS[own]
        and room(name).split(".")[0] not in ARROWS[own] | {own}
    ]
    assert not wrong, f"{own} may not import {wrong}"


@each_file
def test_each_library_has_one_door(path: Path) -> None:
    wrong = {
        name
        for name in imports(path)
        for library, doors in DOORS.items()
        if (name == library or name.startswith(f"{library}."))
        and not any(
            relative(path) == door or (door.endswith("/") and relative(path).startswith(door)) for door in doors
        )
    }
    assert not wrong


@each_file
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if relative(path).startswith("cli/") or path.name == "__main__.py":
        return
    wrong = [
        f"{path.name}:{line}: {name}"
        for line, name in calls(path)
        if name in {"print", "exit", "quit", "sys.exit"} or name.startswith(("sys.stdout.write", "sys.stderr.write"))
    ]
    assert not wrong


@each_file
def test_nothing_sleeps(path: Path) -> None:
    wrong = [f"{path.name}:{line}" for line, name in calls(path) if name in {"time.sleep", "asyncio.sleep", "sleep"}]
    assert not wrong, "wait for the event instead"


def test_the_package_has_no_other_rooms() -> None:
    rooms = {
        path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name not in {"__pycache__", "templates"}
    }
    assert rooms <= ARROWS.keys()


def test_files_can_be_read_at_a_sitting() -> None:
    every = [*FILES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("vagrant/**/*")]
    lines = {
        path.relative_to(ROOT): len(path.read_bytes().splitlines())
        for path in every
        if path.is_file() and path.suffix in {".py", ".sh", ""}
    }
    assert not {path: count for path, count in lines.items() if count > LINES_MAX}
    long = {path: count for path, count in lines.items() if count > LINES_WANTED}
    assert len(long) <= 2, f"more than {LINES_WANTED} lines: {long}"
