# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: words in, one operation, output and exit status. Only this room prints or exits."""

from __future__ import annotations


def main() -> int:
    """Run machctl with the words of sys.argv and give its exit status."""
    import gc

    # Collecting while hundreds of classes are imported finds nothing and takes a tenth of a short command's time.
    gc.disable()
    from machines.cli.app import run

    return run()
