# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl adopt, eject"""

from __future__ import annotations

import os

from machines.cli import words
from machines.cli.names import complete
from machines.cli.names import names as names_argument
from machines.cli.options import Options
from machines.cli.output import note, say
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.several import exit_status
from machines.cli.wire import RealHost
from machines.declare.fleet import own_file
from machines.errors import InvalidValue, MachctlError
from machines.operations.adopt import Adoption
from machines.operations.inspect import expand
from machines.plan import steps


def adopt(
    context: words.Context,
    names: list[str] = words.Argument(
        None,
        metavar="[NAME]...",
        help="The machines; of --from FILE all it describes if left out.",
        autocompletion=complete,
    ),
    file: str = words.Option(
        "", "--from", metavar="FILE", help="Declare what a config of jailmaker or LXC or a compose file describes."
    ),
) -> None:
    """Take over machines made by hand or by machinectl, which run on meanwhile; what does not map is listed."""
    options = context.obj
    if not names and not file:
        raise InvalidValue("which machine is to be adopted?", hint="machctl adopt NAME, or --from FILE")
    host, failed = RealHost(), dict[str, MachctlError]()
    done: list[Adoption] = []
    progress = Progress(options)
    if file:
        from machines.operations.adopt import adopt_from

        path = os.path.abspath(os.path.expanduser(file))
        done = run(
            adopt_from(names or [], path, host, progress, dry_run=options.dry_run),
            timeout=options.timeout,
            what=f"adopt --from {file}",
        )
    else:
        from machines.operations.adopt import adopt as adopt_one

        chosen = expand(names, host)
        for name in chosen:
            try:
                work = adopt_one(name, host, progress, dry_run=options.dry_run)
                done.append(run(work, timeout=options.timeout, what=f"adopt {name}"))
            except MachctlError as error:
                failed[name] = error
    progress.clear()
    _show(done, options, described=bool(file))
    raise words.Exit(exit_status(failed, len(done) + len(failed)))


def _show(done: list[Adoption], options: Options, *, described: bool) -> None:
    if options.output == "json":
        import json

        say(json.dumps([each.row() for each in done], indent=2, ensure_ascii=False))
    elif options.dry_run:
        show_plan({each.name: each.plan for each in done}, options)
    for each in done:
        for unmapped in each.unmapped:
            note(f"{each.name}: not declared: {unmapped}")
        if options.quiet or options.dry_run:
            continue
        if described:
            note(f"declared {each.name}; make it: machctl apply {each.name}")
            if each.inherited:
                note(
                    f"  {own_file(each.name)} is for root alone: it has what {', '.join(each.inherited)} "
                    f"{'is' if len(each.inherited) == 1 else 'are'} in the environment of this command\n"
                    f"  where the program takes a file instead: machctl secret set NAME, then "
                    f"machctl set {each.name} --unset-env NAME --secret NAME=credential:NAME"
                )
            continue
        note(f"adopted {each.name}; machctl cat {each.name} shows how it is declared")
        if each.kept:
            note(f"  what others wrote is kept: {os.path.dirname(each.kept[0])}")
        if each.restart:
            note(f"  it runs on as it did; what is new counts from its next start on: machctl restart {each.name}")
            if any(isinstance(step, steps.OpenPorts) for step in each.plan):
                note("  until then its ports may lead nowhere: they lead to the address that it has from then on")


def eject(
    context: words.Context, names: list[str] = names_argument("The machines, or patterns such as 'web*'.")
) -> None:
    """Leave machines to systemd alone: with plain units and files, no longer declared, and running on."""
    from machines.operations.eject import eject as eject_one

    options = context.obj
    host, failed = RealHost(), dict[str, MachctlError]()
    chosen = expand(names, host)
    for name in chosen:
        try:
            plan, left = run(
                eject_one(name, host, Progress(options), dry_run=options.dry_run),
                timeout=options.timeout,
                what=f"eject {name}",
            )
        except MachctlError as error:
            failed[name] = error
            continue
        if options.dry_run:
            show_plan({name: plan}, options)
        for text in left:
            note(f"{name}: {text}")
        if not (options.quiet or options.dry_run):
            note(f"ejected {name}; from now on: systemctl start|stop systemd-nspawn@{name}")
    raise words.Exit(exit_status(failed, len(chosen)))
