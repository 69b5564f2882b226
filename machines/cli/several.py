# SPDX-License-Identifier: LGPL-2.1-or-later
"""One verb on several machines at once: a line for each, and an exit status for all."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from machines.cli.options import Options
from machines.cli.output import note, report_error
from machines.cli.running import run
from machines.errors import MachctlError
from machines.operations.together import for_each

PARTLY = 9
AFTERWARDS = "machctl list shows how things are"


def on_each(
    names: Sequence[str],
    act: Callable[[str], Awaitable[object]],
    options: Options,
    *,
    verb: str,
    done: str,
    timeout: float | None = None,
) -> int:
    """Do ``act`` to every machine at once within ``timeout`` seconds, saying how long each took; give the status."""
    began = time.monotonic()

    async def timed(name: str) -> None:
        result = await act(name)
        if result is None:
            say_done(done, name, began, options)
        elif not options.quiet:
            note(str(result))

    what = f"{verb} {names[0] if len(names) == 1 else f'of {len(names)} machines'}"
    failed = run(for_each(names, timed), timeout=timeout, what=what, afterwards=AFTERWARDS)
    return exit_status(failed, len(names))


def say_done(done: str, name: str, began: float, options: Options) -> None:
    """Say that a machine is ``done``, and how long it took."""
    if not options.quiet:
        note(f"{done} {name} in {time.monotonic() - began:.1f} s")


def exit_status(failed: dict[str, MachctlError], count: int) -> int:
    """Print the errors; give 0, the error's own status, or 9 where some of several machines went well."""
    for error in failed.values():
        report_error(error)
    if not failed:
        return 0
    codes = {error.exit_code for error in failed.values()}
    return codes.pop() if len(failed) == count and len(codes) == 1 else PARTLY
