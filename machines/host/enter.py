# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in machines that have no systemd to ask for it: nsenter(1) joins the namespaces of their first process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

from machines.errors import NotFound
from machines.host.guest import open_in_root, read_file
from machines.host.run import replace


def enter(
    leader: int, argv: Sequence[str], *, user: str, env: Mapping[str, str], directory: str | None, name: str
) -> NoReturn:
    """Become a command in the machine that process ``leader`` is the first of, with our own stdio.

    ``user`` is a name or a number, "" for root. Raises NotFound for a user or a directory that the machine lacks.
    """
    root = f"/proc/{leader}/root"
    words = ["nsenter", "--target", str(leader), "--all"]
    if user not in {"", "root", "0"}:
        uid, gid = _ids(root, user, name)
        words += ["--setuid", str(uid), "--setgid", str(gid)]
    # Opened before the command is in the machine, and within its root: a working directory outside is a way out.
    try:
        fd = open_in_root(root, directory or "/", flags=os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise NotFound(f"machine {name} has no directory {directory}: {error.strerror}") from error
    os.set_inheritable(fd, True)  # noqa: FBT003
    replace([*words, f"--wd=/proc/self/fd/{fd}", "--", *argv], env=env)


def _ids(root: str, user: str, name: str) -> tuple[int, int]:
    who, _, group = user.partition(":")
    for line in (read_file(root, "/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and who in {fields[0], fields[2]} and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(group if group.isdigit() else fields[3])
    if who.isdigit():
        return int(who), int(group) if group.isdigit() else int(who)
    raise NotFound(f"there is no user {who} in machine {name}", hint="give a number, or a user of its /etc/passwd")
