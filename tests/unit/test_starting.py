# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts that systemd refuses, and those of machines that somebody removes meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from acting import REPORTER, create, web
from fakes import FakeHost
from machines.errors import Canceled, CommandFailed, Conflict, MachctlError, NotFound, StartedTooOften
from machines.host.bus.errors import job_failed
from machines.model.names import machine_unit
from machines.model.observed import Record
from machines.model.tree import Tree
from machines.operations import lifecycle
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.records import write_record
from machines.operations.remove import remove
from machines.plan import steps
from machines.render import paths

UNIT = "systemd-nspawn@web.service"
NSPAWN, SYSTEMD = "systemd-nspawn", "systemd"


class Starting(FakeHost):
    """A host whose jobs for a machine end with these errors, one after the other, and then do what they are to."""

    def __init__(self, *errors: MachctlError) -> None:
        super().__init__()
        left = list(errors)
        self.said: list[tuple[str, str]] = []

        def act(what: str) -> None:
            self.call(what)
            if left:
                raise left.pop(0)

        def job(verb: str) -> Callable[..., object]:
            async def run(unit: str, *_job: str) -> None:
                act(f"{verb} {unit}")

            return run

        def wait_started(unit: str, job: str, *, timeout: float) -> bool:
            act(f"wait {job}")
            return True

        self.jobs = SimpleNamespace(start=job("start"), restart=job("restart"), wait_started=job("wait"))
        self.units.start = lambda unit: self.call(f"start {unit}") or "/again"
        self.units.wait_started = wait_started
        self.units.reset_failed = lambda unit: self.call(f"reset {unit}")
        self.tools.run = self._journal

    def _journal(self, argv: list[str], *, check: bool) -> object:
        lines = [json.dumps({"SYSLOG_IDENTIFIER": who, "MESSAGE": what}) for who, what in self.said]
        return SimpleNamespace(returncode=0, stdout="\n".join(lines), stderr="")


def too_often() -> MachctlError:
    return job_failed(f"restart {UNIT}", UNIT, "start-limit-hit")


def test_a_start_that_is_refused_for_those_before_it_is_asked_for_again() -> None:
    assert isinstance(too_often(), StartedTooOften)
    host = Starting(too_often())
    asyncio.run(lifecycle.restart_machine("web", host))
    assert host.done == [f"restart {UNIT}", f"reset {UNIT}", f"start {UNIT}"]
    host = Starting(too_often())
    asyncio.run(lifecycle.finish_start("web", "/job", host))
    assert host.done == [f"wait {UNIT}", f"reset {UNIT}", f"start {UNIT}"]
    host = Starting(too_often())
    lifecycle.wait_started("web", "/job", host, timeout=1)
    assert host.done == ["wait /job", f"reset {UNIT}", f"start {UNIT}", "wait /again"]


def test_a_start_that_is_refused_twice_does_not_end_with_words_of_the_time_before() -> None:
    host = Starting(too_often(), too_often())
    host.placed["web"] = Tree("web", "/var/lib/machines/web")
    host.said = [(SYSTEMD, f"Starting {UNIT}"), (NSPAWN, "Halting system.")]
    with pytest.raises(CommandFailed) as caught:
        asyncio.run(lifecycle.restart_machine("web", host))
    assert caught.value.message == (
        f"machine web did not start: cannot restart {UNIT}: it was started too often within a short time"
    )


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        ([(SYSTEMD, "Starting it"), (NSPAWN, "No image.")], job_failed("start it", UNIT, "failed"), "No image."),
        (
            [(SYSTEMD, "Starting it"), (NSPAWN, "Halting system."), (SYSTEMD, "Stopped it")],
            job_failed("start it", UNIT, "dependency"),
            "cannot start it: a unit that it needs failed",
        ),
        (
            [(SYSTEMD, "Starting it"), (NSPAWN, "Halting system.")],
            Canceled("cannot start it: another job came in its way"),
            "cannot start it: another job came in its way",
        ),
    ],
)
def test_what_a_machine_said_last_is_told_of_the_start_that_failed_alone(
    said: list[tuple[str, str]], error: MachctlError, told: str
) -> None:
    host = Starting(error)
    host.said = said
    host.placed["web"] = Tree("web", "/var/lib/machines/web")
    with pytest.raises(CommandFailed) as caught:
        asyncio.run(lifecycle.finish_start("web", "/job", host))
    assert caught.value.message == f"machine web did not start: {told}"


def test_a_start_of_a_machine_that_goes_meanwhile_says_so() -> None:
    canceled = Canceled("cannot start it: another job came in its way")
    host = Starting(canceled)
    record = Record("web", {}, intent="remove")
    host.files.texts[paths.machine_record("web")] = write_record(record)
    with pytest.raises(NotFound, match="machine web is being removed"):
        asyncio.run(lifecycle.finish_start("web", "/job", host))
    host = Starting(canceled)
    with pytest.raises(NotFound, match="machine web was removed meanwhile"):
        lifecycle.wait_started("web", "/job", host, timeout=1)
    with pytest.raises(NotFound, match="machine web was removed meanwhile"):
        lifecycle.dispatch_start("web", FakeHost())


@pytest.mark.usefixtures("as_root")
def test_a_machine_that_is_asked_to_start_is_removed_with_force_alone() -> None:
    host = FakeHost()
    create(host, web())
    unit = machine_unit("web")
    # Its job waits for others: systemd calls it inactive.
    host.units.starting = {unit}.__contains__
    with pytest.raises(Conflict, match="machine web is starting"):
        asyncio.run(remove("web", host, REPORTER, force=False, dry_run=False))
    assert "web" in observe(host).trees
    host.done.clear()
    asyncio.run(remove("web", host, REPORTER, force=True, dry_run=False))
    assert f"stop {unit}" in host.done
    assert host.placed == {}


def test_a_tree_that_a_start_has_mounted_again_is_removed_the_next_time() -> None:
    host = FakeHost()
    host.storage.unmount = lambda name: None

    def refuse(path: str) -> None:
        raise Conflict(f"{path} is mounted", hint=f"umount it first: umount {path}")

    host.storage.forget_limit, host.pool.remove = (lambda path: None), refuse
    mounted = {paths.tree("web")}
    host.pool.is_mounted = mounted.__contains__
    step = steps.RemoveTree(reason="", machine="web", path="/", layer="web")
    with pytest.raises(Conflict, match="machine web was mounted again") as caught:
        asyncio.run(execute([step], host, reporter=REPORTER))
    assert caught.value.hint == "machctl rm web once more, or machctl gc, finishes it"
    # What others have mounted in it they have to take away.
    mounted.clear()
    with pytest.raises(Conflict, match="/ is mounted"):
        asyncio.run(execute([step], host, reporter=REPORTER))
