# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl rollout"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from machines.cli import words
from machines.cli.declarations import FILE, host_of
from machines.cli.fleetprogress import FleetProgress
from machines.cli.output import note, show_rows
from machines.cli.plans import show_plan
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.errors import InvalidValue, NotPermitted
from machines.operations.standin import How
from machines.plan.kinds import LIVE, RELOAD
from machines.plan.steps import StartMachine

if TYPE_CHECKING:
    from machines.cli.options import Options
    from machines.errors import MachctlError

COLUMNS = ("name", "generation", "phase", "at", "undo", "why")
BACK = "what it was before"
_AFTERWARDS = "its ports answer, be it by a stand-in; run it again, or machctl apply: it goes on from there"


class Progress(FleetProgress):
    """Says of each machine that it was rolled out, and how long that took."""

    done = "rolled out"

    def ended(self, machine: str, error: MachctlError | None) -> None:
        super().ended(machine, error)
        if error is not None:
            # What was done before is taken back now.
            self.done = BACK

    def _words(self, machine: str) -> str:
        if machine not in self._did:
            return "changed"
        return self.done if self.done == BACK or self.stood_in(machine) else super()._words(machine)

    def stood_in(self, machine: str) -> bool:
        """Tell whether a stand-in was started for a machine; what is made of others is no rollout."""
        return StartMachine in self._did.get(machine, ())


def rollout(
    context: words.Context,
    what: list[str] = words.Argument(
        ...,
        metavar="NAME | status [NAME...] | undo NAME",
        help="A machine, or the name that replicas are declared under.",
    ),
    file: str = FILE,
    force: bool = words.Option(
        False, "--force", help="With a fresh tree, whatever there is to change; undo: whatever was restored since."
    ),
    drain: float = words.Option(10.0, "--drain", metavar="SECONDS", help="How long connections may take to end."),
    health_timeout: float = words.Option(
        None, "--health-timeout", metavar="SECONDS", help="How long a machine may take to be healthy."
    ),
) -> None:
    """Make machines what is declared, one by one, while a stand-in answers; undo it where one is not healthy.

    The stand-in is a second one of the machine. What that alone writes into of the host (binds that are neither
    read-only nor written by other machines) would have two writers, so such a machine is refused, with --force too:
    machctl apply does it. Where its tree stays, what is written into that of the stand-in goes with it.
    """
    options, host = context.obj, host_of(file)
    if drain < 0 or (health_timeout is not None and health_timeout <= 0):
        raise InvalidValue("there is no such time", hint="machctl rollout web --drain 10 --health-timeout 60")
    how = How(force, drain, health_timeout)
    if what[0] == "status":
        _status(what[1:], host, options)
    elif what[0] == "undo":
        _undo(_single(what[1:]), host, options, how)
    else:
        _rollout(_single(what), host, options, how)


def _single(names: list[str]) -> str:
    from machines.model.names import check_known_name

    if len(names) != 1:
        raise InvalidValue("a rollout is of one machine, or of the replicas of one", hint="machctl rollout web")
    return check_known_name(names[0])


def _rollout(name: str, host: RealHost, options: Options, how: How) -> None:
    from machines.operations.rollout import choose, plan_shown
    from machines.operations.rollout import rollout as operate

    if options.dry_run:
        chosen = choose(name, host, force=how.force)
        show_plan(plan_shown(chosen, host, how), options)
        return
    progress = Progress(options)
    try:
        done = run(
            operate(name, host, progress, how), timeout=options.timeout, what=f"rollout {name}", afterwards=_AFTERWARDS
        )
    finally:
        progress.clear()
    if options.quiet:
        return
    if not done:
        note("nothing to do")
    if live := [each for each, kind in done.items() if kind in {LIVE, RELOAD} and not progress.stood_in(each)]:
        note(f"{', '.join(live)}: made live, without a stand-in; there is nothing for rollout undo to take back")


def _undo(name: str, host: RealHost, options: Options, how: How) -> None:
    from machines.operations.rollout import undo as operate

    if options.dry_run:
        from machines.errors import raise_all
        from machines.operations.rollout import members, refusals, undo_of
        from machines.operations.standin import read_state

        for machine in members(name, host, verb="rollout undo"):
            can = undo_of(read_state(machine.name, host), host)
            raise_all(refusals(machine.name, host, how) if can else [])
            note(f"{machine.name}: {'would be what it was before its rollout' if can else 'stays as it is'}")
        return
    progress = Progress(options)
    progress.done = BACK
    try:
        done = run(
            operate(name, host, progress, how),
            timeout=options.timeout,
            what=f"rollout undo {name}",
            afterwards=_AFTERWARDS,
        )
    finally:
        progress.clear()
    if done and not options.quiet:
        _say_declared(name, done, host)


def _say_declared(name: str, undone: list[str], host: RealHost) -> None:
    """Say what does again what was undone: the files were left as they are."""
    from machines.errors import MachctlError
    from machines.model.command import apply_command
    from machines.operations.declared import one_file
    from machines.operations.fleetplan import PLAIN, fleet_plan

    file = one_file(host)
    anew = apply_command(file, "--recreate", *undone)
    whole = f"{apply_command(file, name, verb='rollout')}, or {anew},"
    by_apply = f"the next {apply_command(file)} does it again ({apply_command(file, name, verb='plan')})"
    try:
        planned = fleet_plan(undone, host, verb="plan", wishes=PLAIN)
    except MachctlError:
        # They say something that cannot be done, or nothing that can be read: whoever corrects that is told then.
        words = by_apply
    else:
        applied = any(planned.plans.get(each) for each in undone)
        if any(each in planned.notes for each in undone):
            # Another source makes its tree anew, which apply alone does not.
            words = f"{whole} does it again" + f"; of what needs no new tree, {by_apply}" * applied
        elif applied:
            words = by_apply
        else:
            return
    note(f"{', '.join(undone)}: the files still say what was undone; correct them, or {words}")


def _status(names: list[str], host: RealHost, options: Options) -> None:
    from machines.cli.ago import ago
    from machines.operations.rollout import status

    rows = status(names, host)
    if os.geteuid() != 0 and not rows:
        raise NotPermitted("what is known of rollouts needs root", hint="run it again with sudo")
    if options.output not in {"json", "yaml"}:
        rows = [{**row, "at": ago(row["at"])} for row in rows]
    show_rows(rows, COLUMNS, options, empty="no machine was rolled out yet: machctl rollout NAME")
