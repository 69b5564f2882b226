# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from machines.cli.options import Options
from machines.errors import MachctlError, Several

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Row = Mapping[str, object]

_COLORS = {
    "running": "32",
    "starting": "33",
    "stopping": "33",
    "paused": "33",
    "failed": "31",
    "healthy": "32",
    "unhealthy": "31",
    "ok": "32",
    "warning": "33",
    "bad": "31",
    "skipped": "2",
}


class Unwritten(OSError):
    """What was said on stdout could not be written."""


class _Output(io.FileIO):
    """A descriptor whose failures are known from those of all other files."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Unwritten(error.errno, error.strerror) from error


def watched(stream: TextIO) -> TextIO:
    """Give ``stream`` anew, with Unwritten as the error of what it cannot write."""
    output = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty(),
    )


def say(text: str) -> None:
    """Print a line of the answer."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print a line that is not the answer."""
    sys.stderr.write(text + "\n")


def report_error(error: BaseException) -> int:
    """Print an error as its one line and its indented hint, and give the exit status that goes with it."""
    try:
        sys.stdout.flush()
    except OSError as unwritten:
        # Nothing more may be written there, by the interpreter neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(unwritten, Unwritten) and not isinstance(error, Unwritten):
            report_error(unwritten)
    if isinstance(error, Several):
        for single in error.errors:
            report_error(single)
        return error.exit_code
    if isinstance(error, MachctlError):
        _tell(f"machctl: {error.message}" + "".join(f"\n  {line}" for line in error.hint.splitlines()))
        return error.exit_code
    if isinstance(error, Unwritten):
        _tell(f"machctl: output could not be written: {error.strerror}")
        return 1
    import click

    # click has it from 8.2 on.
    no_words = getattr(click.exceptions, "NoArgsIsHelpError", None)
    if no_words is not None and isinstance(error, no_words):
        say(error.format_message())
        return 2
    if isinstance(error, (click.exceptions.Abort, KeyboardInterrupt)):
        return 130
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "machctl"
        _tell(f"{path}: {error.format_message()}\n  see: {path} --help")
        return 2
    if isinstance(error, BrokenPipeError):
        # Whoever read the answer has had enough of it; nothing more may be written, by the interpreter neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, PermissionError):
        _tell(f"machctl: {error.filename or error}: not permitted\n  run it as root")
        return 6
    _tell(
        f"machctl: {type(error).__name__}: {error}\n"
        "  this is a fault in machctl; the same command with --debug shows where"
    )
    return 1


def _tell(text: str) -> None:
    """Print a line of an error; where that cannot be written either, the exit status still tells."""
    with contextlib.suppress(OSError):
        note(text)


def colored(text: str, options: Options, *, key: str = "") -> str:
    """Give ``text`` in the colour of the state ``key`` where stdout shows colours (NO_COLOR is honoured)."""
    code = _COLORS.get(key or text)
    return f"\x1b[{code}m{text}\x1b[0m" if code and colours(options) else text


def colours(options: Options) -> bool:
    """Tell whether stdout shows colours."""
    return options.color == "always" or (
        options.color == "auto" and "NO_COLOR" not in os.environ and sys.stdout.isatty()
    )


def show_rows(
    rows: Sequence[Row], columns: Sequence[str], options: Options, *, empty: str = "", named: str = "name"
) -> None:
    """Print rows in the format that was asked for; a table has ``columns``, the other formats every key.

    ``named`` is the key of what rows are called by; each name is printed once, and a row without one has none.
    """
    match options.output:
        case "json":
            import json

            say(json.dumps([dict(row) for row in rows], indent=2, ensure_ascii=False))
        case "yaml":
            say("\n".join(_yaml(list(map(dict, rows)))))
        case "csv":
            import csv

            writer = csv.writer(sys.stdout, lineterminator="\n")
            if options.legend:
                writer.writerow(columns)
            writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
        case "name":
            for name in dict.fromkeys(str(row[named]) for row in rows if row[named]):
                say(name)
        case _:
            _table(rows, columns, options, empty)


def show_object(row: Row, options: Options) -> None:
    """Print one object: as JSON, or else as "key: value" lines."""
    if options.output == "json":
        import json

        say(json.dumps(dict(row), indent=2, ensure_ascii=False))
    else:
        say("\n".join(_yaml(dict(row))))


def _table(rows: Sequence[Row], columns: Sequence[str], options: Options, empty: str) -> None:
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not cells:
        if empty and options.legend:
            note(empty)
        return
    heading = [column.upper() for column in columns] if options.legend else []
    widths = [
        max(len(line[index]) for line in [*cells, *([heading] if heading else [])]) for index in range(len(columns))
    ]
    if heading:
        say("  ".join(word.ljust(width) for word, width in zip(heading, widths, strict=True)).rstrip())
    for line in cells:
        padded = [word.ljust(width) for word, width in zip(line, widths, strict=True)]
        # Only a state has a colour; a machine may be called "failed".
        shown = [
            text.replace(word, colored(word, options)) if column in {"state", "level", "health"} else text
            for column, text, word in zip(columns, padded, line, strict=True)
        ]
        say("  ".join(shown).rstrip())


def _cell(value: object) -> str:
    if value is None or value == "" or value == [] or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


def _yaml(value: object, indent: str = "") -> list[str]:
    """Give the YAML lines of plain data; every scalar is written as JSON, which YAML 1.2 contains."""
    import json

    lines: list[str] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (dict, list, tuple)) and inner:
                lines += [f"{indent}{key}:", *_yaml(inner, indent + "  ")]
            else:
                lines.append(f"{indent}{key}: {json.dumps(inner, ensure_ascii=False)}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            inner_lines = _yaml(inner, indent + "  ")
            lines += [f"{indent}- {inner_lines[0].lstrip()}", *inner_lines[1:]]
    else:
        lines.append(f"{indent}{json.dumps(value, ensure_ascii=False)}")
    return lines or [f"{indent}[]"]
