# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: words in, one operation, output and exit status. Only this room prints or exits."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run machctl with the words of sys.argv and end this process with its exit status."""
    import contextlib
    import gc
    import os
    import sys

    # Python leaves out a standard stream that whoever called has closed, as "<&-" does.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    # Collecting while hundreds of classes are imported finds nothing and takes a tenth of a short command's time.
    gc.disable()
    # Declarations and settings are for everybody to read, whatever whoever calls wants of their own files.
    os.umask(0o022)
    # typer before 0.17 imports all of rich (30 ms) where that is installed, though nothing here asks it to draw.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from machines.cli.output import report_error, watched
    from machines.cli.quick import run

    # Without a name the stream of before could be collected, and its descriptor closed.
    stdout = sys.stdout
    sys.stdout = watched(stdout)
    status = run()
    try:
        sys.stdout.flush()
    except OSError as error:
        status = report_error(error)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Taking the interpreter apart frees what the kernel frees anyway, and takes as long as starting it.
    os._exit(status)
