# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an image or an archive says that is to run in place of an init, as its tree and systemd-nspawn can run it."""

from __future__ import annotations

import shlex

from machines.errors import NotFound, Unsupported
from machines.host import guest
from machines.model.base import Payload

_SCRIPT = "/.machctl-command"


def fitting(payload: Payload, root: str) -> Payload:
    """Give a payload as systemd-nspawn can run it in the tree ``root``, which gets what it lacks for that.

    What is fitting stays as it is. Raises NotFound, Unsupported.
    """
    if not all(map(_can_be_passed, (*payload.command, *payload.environment, payload.directory, payload.user))):
        raise Unsupported("what the image runs has characters in it that no program can be given", hint="correct it")
    return _in_lines(payload._replace(user=_user(payload.user, root)), root)


def _can_be_passed(word: str) -> bool:
    """Tell whether execve(2) takes a word: JSON can say half a character, and NUL."""
    try:
        return b"\0" not in word.encode()
    except UnicodeEncodeError:
        return False


def _user(user: str, root: str) -> str:
    """Give the name of the user that an image runs as: USER, UID, either with a group behind it (OCI image-spec).

    systemd-nspawn asks getent(1) of the image for a name, and takes its group from there. A number that nobody has
    there gets a name. Raises Unsupported for an image without getent.
    """
    who, _, group = user.partition(":")
    if who in {"", "0", "root"}:
        return ""
    if not any(guest.exists(root, f"{directory}/getent") for directory in ("usr/bin", "bin", "usr/sbin", "sbin")):
        raise Unsupported(
            f"the image runs as {user} and has no getent, which systemd-nspawn asks for users",
            hint="put getent into the image (Debian: libc-bin, Alpine: musl-utils), or let it run as root",
        )
    passwd = guest.read_file(root, "/etc/passwd") or ""
    users = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    for fields in users:
        if fields[0] and who in {fields[0], fields[2]}:
            return fields[0]
    if not who.isdigit():
        raise NotFound(f"the image runs as {who}, whom its /etc/passwd does not name", hint="correct the image")
    name = f"uid{who}"
    line = f"{name}:x:{who}:{group if group.isdigit() else who}::/:/sbin/nologin\n"
    guest.write_file(root, "/etc/passwd", passwd + ("" if passwd.endswith("\n") or not passwd else "\n") + line)
    return name


def _in_lines(payload: Payload, root: str) -> Payload:
    """Give a payload that lines of a settings file can hold (systemd.nspawn(5)): else it is put into a script.

    Raises Unsupported for an image without a shell.
    """
    if not payload.directory.isprintable():
        raise Unsupported(
            f"the image runs in {payload.directory!r}, which is no line", hint="give it another working directory"
        )
    odd = [variable for variable in payload.environment if not variable.isprintable()]
    if not odd and all(word.isprintable() for word in payload.command):
        return payload
    if not guest.exists(root, "/bin/sh"):
        raise Unsupported("the image's command has a line break in it, and it has no shell", hint="make it one line")
    lines = [f"export {name}={shlex.quote(value)}" for name, _, value in (each.partition("=") for each in odd)]
    guest.write_file(root, _SCRIPT, "\n".join([*lines, f"exec {shlex.join(payload.command)}", ""]), mode=0o755)
    plain = tuple(variable for variable in payload.environment if variable not in odd)
    return payload._replace(command=("/bin/sh", _SCRIPT), environment=plain)
