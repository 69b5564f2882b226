# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries of a machine's journal, as journalctl(1) gives them with --output=json: one object a line.

What is in them a guest wrote, as it likes: into no line does it write what looks like another entry.
"""

from __future__ import annotations

import json
from typing import Any

from machines.model.frozen import NamedTuple

# What is shown of an entry (systemd.journal-fields(7)).
SHOWN = ("MESSAGE", "SYSLOG_IDENTIFIER", "_COMM", "_PID", "SYSLOG_PID")
# The year 9999, in microseconds: there is no day for more.
_AT_MAX = 253_370_764_800_000_000


class Entry(NamedTuple):
    """An entry of a machine's journal: microseconds since the epoch, and how it is printed without its time.

    ``boot`` is the boot of the machine that it is of; "" where journalctl does not say.
    """

    at: int
    machine: str
    lines: tuple[str, ...]
    boot: str = ""


def read_entry(machine: str, line: str, *, plain: bool) -> Entry | None:
    """Read an entry, as JSON that names its machine, or as ``plain`` text; None for what is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    at = entry.get("__REALTIME_TIMESTAMP") if isinstance(entry, dict) else None
    if not isinstance(at, str) or not at.isascii() or not at.isdigit() or len(at) > 18 or int(at) > _AT_MAX:
        return None
    text = _lines(entry) if plain else (json.dumps({**entry, "MACHINE": machine}, ensure_ascii=False),)
    return Entry(int(at), machine, text, _text(entry.get("_BOOT_ID")))


def _lines(entry: dict[str, Any]) -> tuple[str, ...]:
    """Give an entry as --output=short has it: who said it, and the lines of what was said."""
    who = _text(entry.get("SYSLOG_IDENTIFIER")) or _text(entry.get("_COMM")) or "unknown"
    number = _text(entry.get("_PID")) or _text(entry.get("SYSLOG_PID"))
    first, *others = _text(entry.get("MESSAGE")).rstrip().split("\n")
    shown = f"{who}[{number}]: {first}" if number else f"{who}: {first}"
    return (_printable(shown), *map(_printable, others))


def _text(value: object) -> str:
    """Give the text of a field: a string, the numbers of its bytes where it is no UTF-8, or a list of any of these."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, list) and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return bytes(value).decode(errors="replace")
    return value if isinstance(value, str) else ""


def _printable(line: str) -> str:
    """Give a line without what a terminal would act upon."""
    if line.isprintable():
        return line
    import re

    bare = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line)
    return "".join(each if each.isprintable() or each in "\t\xa0\u3000" else "\ufffd" for each in bare)
