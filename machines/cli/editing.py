# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verbs that edit one machine: its declaration is changed, and made so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from machines.cli.options import Options
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.errors import NotFound, raise_all
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.plan.steps import Plan


class Given:
    """What of a map of a machine, its environment or its secrets, is said anew as NAME=VALUE, and what goes by name.

    Raises what is wrong with the words.
    """

    def __init__(self, key: str, said: Sequence[str], gone: Sequence[str]) -> None:
        self._key, self._gone = key, tuple(dict.fromkeys(gone))
        self._said: dict[str, Any] = {}
        # Not what the values are: they may be anything.
        self.said = [*(f"{word.partition('=')[0]}=" for word in said), *(f"no {name}" for name in self._gone)]
        if not said:
            return
        from machines.declare.keys import BY_NAME
        from machines.declare.machine import read_word

        for text in said:
            for item in read_word(BY_NAME[key], text):
                self._said[_name_of(item)] = item

    def edit(self, machine: Machine) -> Machine:
        """Give the machine as it is then. Raises NotFound for a name that is to go and that it does not have."""
        if not self.said:
            return machine
        have = {_name_of(item): item for item in getattr(machine, self._key)}
        missing = [name for name in self._gone if name not in have]
        hint = f"it has {', '.join(have) or 'none'}"
        raise_all([NotFound(f"{name} is not among the {self._key} of {machine.name}", hint=hint) for name in missing])
        items = {name: item for name, item in {**have, **self._said}.items() if name not in self._gone}
        return replace(machine, **{self._key: tuple(items.values())})  # type: ignore[arg-type]


def _name_of(item: Any) -> str:
    return str(item[0] if isinstance(item, tuple) else item.name)


def edit_machine(
    name: str,
    edit: Callable[[Machine], Machine],
    options: Options,
    *,
    verb: str,
    done: str,
    nothing: str,
    what: str = "",
) -> Plan:
    """Do ``edit`` to a machine and say that it is ``done``, or that there was ``nothing`` to do; give the plan.

    ``what`` is the command as errors name it, where that is not "VERB NAME". Raises what the edit and its plan raise.
    """
    from machines.operations import fleet
    from machines.operations.declared import other_file

    host = RealHost()
    if file := other_file(name, host):
        host.declarations = (file,)
    plan = run(
        fleet.change(name, edit, host, Progress(options), dry_run=options.dry_run, verb=verb),
        timeout=options.timeout,
        what=what or f"{verb} {name}",
        quick=True,
    )
    if options.dry_run:
        show_plan({name: plan}, options)
    elif not options.quiet:
        note(done if plan else nothing)
        if file and plan:
            note(f"  {file} says so now")
    return plan


def note_restart(name: str, plan: Plan, options: Options) -> None:
    """Say it where some of what was changed counts from the machine's next start on."""
    from machines.operations import fleet

    if not (options.dry_run or options.quiet) and fleet.restarts(plan, RealHost()):
        note(f"  some of it counts from its next start on: machctl restart {name}")
