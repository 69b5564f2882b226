# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of whole trees with cp(1): owners, modes, times, hard links, holes, ACLs and extended attributes are kept."""

from __future__ import annotations

import os
import shlex
from collections import deque
from typing import TYPE_CHECKING

from machines.errors import CommandFailed, MachctlError, NotFound
from machines.host import run
from machines.host.streaming import stream

if TYPE_CHECKING:
    from machines.host.interfaces import Progress

STAGE = "copying"

# A call for every file would take longer than the file.
_EVERY = 64

# A running guest may put a symlink where cp goes next. Nothing that is looked up through this mount, which only cp's
# own mount namespace has, follows one (nosymfollow in mount(8)).
_SCRIPT = 'mount --bind -o "$1" -- "$2" "$2" && shift 2 && exec cp "$@"'
_OPTIONS = "ro,nosymfollow"

_REMEDIES = {
    "No space left on device": "make room there and try again",
    "Disk quota exceeded": "give it a larger limit with machctl set --disk, or make room in it",
    "Read-only file system": "choose a place that can be written to",
    "Input/output error": "look at the disk: journalctl -k -b",
}


async def copy(source: str, target: str, *, reflink: bool, log: str, progress: Progress, total: int | None) -> None:
    """Copy the tree ``source`` into the empty directory ``target``; its root's owner and mode come along.

    With ``reflink`` the files share their blocks, and it fails where they cannot. ``total`` is how many files there
    are, as far as known, for ``progress``. On cancellation nothing is left running. Raises NotFound, CommandFailed.
    """
    await copy_mounted(source, target, options="", reflink="always" if reflink else "auto", log=log,
                       progress=progress, total=total)  # fmt: skip


async def copy_mounted(
    source: str, target: str, *, options: str, reflink: str, log: str, progress: Progress, total: int | None
) -> None:
    """Copy as copy() does, reading ``source`` through a mount that has ``options`` of mount(8) besides its own."""
    argv = [
        "sh", "-c", _SCRIPT, "sh", ",".join(filter(None, (_OPTIONS, options))), source,
        # -a alone is silent about attributes that it could not keep.
        "-a", "-v", "--preserve=xattr", "--sparse=auto", f"--reflink={reflink}", "-T", "--",
        source, target,
    ]  # fmt: skip
    for tool in ("cp", "mount"):
        if run.which(tool) is None:
            raise run.not_found(tool)
    if not os.path.isdir(source):
        raise NotFound(f"there is no tree {source}")
    done = 0
    errors: deque[str] = deque(maxlen=50)

    def on_line(line: str) -> None:
        nonlocal done
        # cp quotes every name it reports as done: such a line begins with a quotation mark, whatever the guest
        # called its file.
        if line.startswith(("'", '"')):
            done += 1
            if done % _EVERY == 0:
                progress(STAGE, done, max(done, total) if total is not None else None)
            return
        errors.append(line)
        if line.startswith("cp: "):
            # It would go on, and say the same of each file to come.
            raise _explained(source, target, line, log)

    os.makedirs(os.path.dirname(log), exist_ok=True)
    try:
        # The log of a copy is what went wrong, not the names of ten thousand files.
        status = await stream(argv, on_line=on_line, log=os.devnull)
    finally:
        with open(log, "a", encoding="utf-8", errors="replace") as file:
            file.write("".join(f"{line}\n" for line in (f"+ {shlex.join(argv)}", *errors)))
    if status != 0:
        # mount(8) ends with where to look for more.
        said = next((line for line in errors if line.startswith("mount: ")), run.last_line("\n".join(errors)))
        raise _explained(source, target, said or f"cp {run.ending(status)}", log)
    progress(STAGE, done, done)


def _explained(source: str, target: str, line: str, log: str) -> MachctlError:
    message = f"{source} cannot be copied to {target}"
    for reason, remedy in _REMEDIES.items():
        if line.endswith(reason):
            return CommandFailed(f"{message}: {reason[0].lower()}{reason[1:]}", hint=remedy)
    return CommandFailed(f"{message}: {line.removeprefix('cp: ')}", hint=f"the log is {log}")
