# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl shell, exec"""

from __future__ import annotations

import os
import sys

from machines.cli import words
from machines.cli.names import name as name_argument
from machines.cli.names import one
from machines.cli.output import note
from machines.errors import InvalidValue, MachctlError, NotFound, NotRunning, Unsupported
from machines.model.names import check_known_name

# As podman has it: machctl's own failure must not look like the command's (podman-exec(1), EXIT STATUS).
OWN_FAILURE = 125


def exec_(
    context: words.Context,
    name: str = name_argument("The machine."),
    command: list[str] = words.Argument(..., metavar="-- COMMAND...", help="The command and its words."),
    user: str = words.Option(None, "--user", "-u", metavar="USER", help="Run it as this user of the machine."),
    setenv: list[str] = words.Option([], "--setenv", "-E", "-e", metavar="NAME=VALUE", help="Set a variable for it."),
    directory: str = words.Option(None, "--chdir", "-C", metavar="DIR", help="Run it in this directory."),
    tty: bool = words.Option(
        None, "--tty/--no-tty", "-t/-T", help="With a terminal; as stdin and stdout are, if left out."
    ),
) -> None:
    """Run a command in a machine. Its exit status is machctl's.

    125 says that machctl itself failed, 126 and 127 that there is no such command; 2, 3 and 4 are as of other verbs:
    wrong words, a machine that does not run, and none of that name.
    """
    from machines.host.bus.guest import exec_in

    name = check_known_name(one(name))
    command = words.bare(command)
    terminal = sys.stdin.isatty() and sys.stdout.isatty() if tty is None else tty
    environment, timeout = dict(_variable(text) for text in setenv), context.obj.timeout
    try:
        try:
            _refuse_paused(name)
            status = exec_in(name, command, user=user, env=environment, cwd=directory, tty=terminal, timeout=timeout)
        except Unsupported:
            _enter(name, command, user=user, env=environment, directory=directory, timeout=timeout)
            raise
    except NotRunning:
        _require(name)
        raise
    except MachctlError as error:
        if error.exit_code not in {124, 126, 127}:
            error.exit_code = OWN_FAILURE
        raise
    raise words.Exit(status)


def shell(
    context: words.Context,
    machine: str = words.Argument(
        ..., metavar="[USER@]NAME", help="The machine, and whose shell.", autocompletion=None
    ),
    command: list[str] = words.Argument(None, metavar="[COMMAND]...", help="Instead of a shell."),
    setenv: list[str] = words.Option([], "--setenv", "-E", metavar="NAME=VALUE", help="Set a variable in it."),
) -> None:
    """Open a shell in a machine, as machinectl shell does. Ctrl-] three times within a second leaves it."""
    from machines.cli.buses import open_shell

    user, _, name = machine.rpartition("@")
    name = check_known_name(one(name))
    variables = dict(_variable(text) for text in setenv)
    command = words.bare(command)
    if command and not command[0].startswith("/"):
        # OpenMachineShell() knows no PATH.
        raise InvalidValue(
            f"shell wants the whole path of a command, not {command[0]!r}",
            hint=f"machctl exec {name} -- {command[0]} looks for it in the machine's PATH",
        )
    _refuse_paused(name)
    _check_user(name, user or "root")
    try:
        reason = open_shell(
            name,
            user=user or "root",
            command=command,
            env={"TERM": os.environ.get("TERM", "dumb"), **variables},
            connected=lambda: _greet(name, quiet=context.obj.quiet),
            timeout=context.obj.timeout,
        )
    except NotRunning:
        _require(name)
        raise
    if sys.stdin.isatty() and not context.obj.quiet:
        note(f"\r\nleft machine {name}; what runs in that shell has ended" if reason == "escape" else "")


def _refuse_paused(name: str) -> None:
    from machines.host.freezer import refuse_paused

    refuse_paused(name)


def _check_user(name: str, user: str) -> None:
    """Raise NotFound for a user the machine does not have: its shell would end at once without a word."""
    from machines.host.guest import read_file
    from machines.host.registered import registered_machine

    entry = registered_machine(name)
    if entry is None or user == "root" or os.geteuid() != 0:
        return
    passwd = read_file(f"/proc/{entry.leader}/root", "/etc/passwd") or ""
    if any(line.startswith(f"{user}:") for line in passwd.splitlines()):
        return
    from machines.host.bus.guest import exec_in

    # It may be one of LDAP or systemd-homed.
    with open(os.devnull, "r+b") as null:
        fd = null.fileno()
        if exec_in(name, ["getent", "passwd", user], stdin=None, stdout=fd, stderr=fd) != 0:
            raise NotFound(f"there is no user {user} in machine {name}", hint=f"machctl exec {name} -- adduser {user}")


def _enter(
    name: str,
    command: list[str],
    *,
    user: str | None,
    env: dict[str, str],
    directory: str | None,
    timeout: float | None,
) -> None:
    """Become the command in a machine that has no init to run it, with the environment that what it runs has."""
    from machines.cli.wire import RealHost
    from machines.host.enter import enter, make_group
    from machines.host.registered import registered_machine
    from machines.operations.declared import readable_machines
    from machines.operations.records import read_records
    from machines.render.given import payload_environment

    host = RealHost()
    record, entry = read_records(host).get(name), registered_machine(name)
    if record is None or record.payload is None or entry is None:
        return
    machine = readable_machines(host).get(name)
    given = payload_environment(machine, record.payload) if machine else record.payload.environment
    own = dict(assignment.split("=", 1) for assignment in given if "=" in assignment)
    who = record.payload.user if user is None else user
    where = directory or record.payload.directory or None
    # One of its own, so that all that the command started can be ended with it.
    group = make_group(name, entry.leader, f"exec-{os.urandom(8).hex()}")
    env = {**own, **env}
    enter(entry.leader, command, user=who, env=env, directory=where, name=name, group=group, timeout=timeout, once=True)


def _require(name: str) -> None:
    """Raise NotFound where a machine does not run because there is none."""
    from machines.cli.wire import RealHost
    from machines.operations.inspect import require

    require([name], RealHost())


def _greet(name: str, *, quiet: bool) -> None:
    if sys.stdin.isatty() and not quiet:
        note(f"Connected to machine {name}. Press ^] three times within 1s to exit session.")


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not key.replace("_", "a").isalnum() or key[0].isdigit():
        raise InvalidValue(f"{text!r} sets no variable", hint="write NAME=VALUE")
    # As env(1) and podman have it, a bare name takes its value along.
    return key, value if equals else os.environ.get(key, "")


exec_.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]
shell.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]
