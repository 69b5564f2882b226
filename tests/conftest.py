# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all tests share: marks by folder, skips that are failures in CI, and no child process left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from throwaway import ROADS, Roads

try:
    import hypothesis
except ImportError:
    # Only the unit tests use it.
    pass
else:
    # A shared machine is slow now and then; a failure must come again on the next run, whoever runs it.
    hypothesis.settings.register_profile("machctl", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("machctl")

# pytest-xdist's processes ignore SIGINT, what nohup(1) starts SIGHUP, and so would all that they start themselves.
if "PYTEST_XDIST_WORKER" in os.environ:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

TESTS = Path(__file__).parent
STRICT = "CI=true or MACHCTL_TESTS_STRICT=1"


def strict() -> bool:
    """Tell whether a test that lacks something is a failure."""
    return os.environ.get("CI") == "true" or os.environ.get("MACHCTL_TESTS_STRICT") == "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regen", action="store_true", help="write what is rendered to tests/render/cases, then look at it"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if room in {"host", "vm", "bench"}:
            item.add_marker(room)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _judge_skip(report, allowed=hasattr(report, "wasxfail"))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _judge_skip(report, allowed=False)
    return report


def _judge_skip(report: pytest.TestReport | pytest.CollectReport, *, allowed: bool) -> None:
    if report.skipped and not allowed and strict():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be missing with {STRICT}: {reason}"


@pytest.fixture(scope="session")
def roads() -> Iterator[Roads]:
    """All hosts, gone at the end."""
    yield ROADS
    ROADS.close()


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """A test that leaves a child process behind has failed."""
    before = _children()
    yield
    left = _children() - before
    assert not left, f"child processes left behind: {sorted(left)}"


def _children() -> set[str]:
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(path.read_text().split())
        except OSError:
            # That thread has ended.
            continue
    return {f"{pid} {_command(pid)}" for pid in found}


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return "gone"
