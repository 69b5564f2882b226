# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl set, rm"""

from __future__ import annotations

from machines.cli import words
from machines.cli.names import name as name_argument
from machines.cli.names import names as names_argument
from machines.cli.names import one
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.several import exit_status, on_each
from machines.cli.wire import RealHost
from machines.declare.fleet import check_machine
from machines.declare.keys import BY_NAME, KEYS
from machines.declare.machine import read_word
from machines.errors import InvalidValue, MachctlError, raise_all
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.operations import lifecycle
from machines.operations.inspect import expand
from machines.operations.remove import remove, remove_all

_AGAIN = "run it again, or machctl gc: it goes on from there"
_SETTABLE = [key.name for key in KEYS if key.settable]


def set_(
    context: words.Context,
    name: str = name_argument("The machine."),
    assignments: list[str] = words.Argument(
        None,
        metavar="KEY=VALUE...",
        help="memory=512M, cpus=1.5, restart=always, egress=443,53/udp; KEY= takes it back.",
    ),
    env: list[str] = words.Option([], "--env", "-e", metavar="NAME=VALUE", help="Put this into its environment."),
    unset_env: list[str] = words.Option([], "--unset-env", metavar="NAME", help="Take that out of its environment."),
    secret: list[str] = words.Option(
        [], "--secret", metavar="NAME=credential:NAME|file:PATH", help="Give it this as a system credential."
    ),
    unset_secret: list[str] = words.Option([], "--unset-secret", metavar="NAME", help="Give it that no more."),
) -> None:
    """Change limits of a machine, and what it may reach: at once where it runs, and in its declaration.

    What it is given as environment and as secrets counts from its next start on.
    """
    # rm pays for nothing that it does not use.
    from machines.cli.editing import Given, edit_machine, note_restart

    options, name = context.obj, one(name)
    changes = _changes(assignments or [])
    tables = (Given("environment", env, unset_env), Given("secrets", secret, unset_secret))
    said = [*(assignments or ()), *(word for table in tables for word in table.said)]
    if not said:
        raise InvalidValue(f"what of {name} is to be set?", hint=f"machctl set {name} memory=1G; --env NAME=VALUE")

    def edit(machine: Machine) -> Machine:
        made: Machine = replace(machine, **changes)  # type: ignore[arg-type]
        for table in tables:
            made = table.edit(made)
        raise_all(check_machine(made))
        return made

    done = f"set {' '.join(said)} on {name}"
    plan = edit_machine(name, edit, options, verb="set", done=done, nothing=f"{name} has these values already")
    note_restart(name, plan, options)


def rm(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'."),
    force: bool = words.Option(False, "--force", "-f", help="End those that run the hard way first."),
) -> None:
    """Remove machines: their trees, settings, units and declarations, and bridges that nobody else is on."""
    options = context.obj
    host = RealHost()
    chosen = expand(names, host, removed=True)
    failed: dict[str, MachctlError] = {}
    for name in chosen if len(chosen) > 1 else ():
        # What will be refused must not be terminated first.
        try:
            removal = remove(name, host, Progress(options), force=force, dry_run=True)
            run(removal, timeout=None, what=f"rm {name}", quick=True)
        except MachctlError as error:
            failed[name] = error
    left = [name for name in chosen if name not in failed]
    running = [name for name in left if name in host.running()] if force and not options.dry_run else []
    if running and len(chosen) > 1:

        async def act(name: str) -> None:
            await lifecycle.stop_machine(name, host, terminate=True)

        on_each(running, act, options, verb="terminate", done="terminated")

    def removed(name: str) -> None:
        if not options.quiet:
            note(f"removed {name}")

    if len(left) > 1 and not options.dry_run:
        work = remove_all(left, host, Progress(options), force=force, done=removed)
        failed |= run(work, timeout=options.timeout, what=f"rm of {len(left)} machines", quick=True, afterwards=_AGAIN)
        raise words.Exit(exit_status(failed, len(chosen)))
    for name in left:
        try:
            plan = run(
                remove(name, host, Progress(options), force=force, dry_run=options.dry_run),
                timeout=options.timeout,
                what=f"rm {name}",
                quick=True,
            )
        except MachctlError as error:
            failed[name] = error
            continue
        if options.dry_run:
            show_plan({name: plan}, options)
        else:
            removed(name)
    raise words.Exit(exit_status(failed, len(chosen)))


def _changes(assignments: list[str]) -> dict[str, object]:
    errors: list[MachctlError] = []
    found: dict[str, object] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            errors.append(InvalidValue(f"{assignment!r} sets nothing", hint="write KEY=VALUE, as in memory=512M"))
        elif key not in _SETTABLE:
            errors.append(
                InvalidValue(
                    f"{key!r} cannot be set",
                    hint=f"what can: {', '.join(_SETTABLE)}; --env, --secret; all else is in the file: machctl cat",
                )
            )
        elif not value:
            found[BY_NAME[key].field] = getattr(Machine, BY_NAME[key].field)
        else:
            try:
                found[BY_NAME[key].field] = read_word(BY_NAME[key], value)
            except MachctlError as error:
                errors.append(error)
    raise_all(errors)
    return found
