# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is different between two root trees, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from machines.cli.options import Options
from machines.cli.output import colored, note, say, show_object, show_rows
from machines.model.difference import Change, Difference, FileChange, Size

DIFFS_MAX = 200
"""The lines of more files than that are not compared: each may take a tenth of a second."""

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_COLORS = {"+": "ok", "-": "bad", "~": "warning"}


def show_difference(difference: Difference, options: Options) -> None:
    """Print a difference in the format that was asked for; with --verbose also the lines of changed text files."""
    for what in difference.unread:
        note(f"not compared: {what}")
    if options.output in {"json", "yaml"}:
        show_object(_as_object(difference), options)
    elif options.output != "table":
        show_rows(list(_rows(difference)), ("kind", "change", "name", "before", "after"), options)
    elif difference.changed:
        say("\n".join([*_lines(difference, options), _size(difference)]))
    else:
        say("nothing changed")


def _groups(difference: Difference) -> Mapping[str, tuple[Change, ...]]:
    return {
        "packages": difference.packages,
        "units": difference.units,
        "users": difference.users,
        "groups": difference.groups,
    }


def _as_object(difference: Difference) -> Mapping[str, object]:
    return {
        "changed": difference.changed,
        **{
            kind: [
                {"name": change.name, "change": change.kind, "before": change.before, "after": change.after}
                for change in changes
            ]
            for kind, changes in _groups(difference).items()
        },
        "etc": [
            {
                "path": change.path,
                "change": change.kind,
                "what": list(change.what),
                "diff": change.diff() if index < DIFFS_MAX else [],
            }
            for index, change in enumerate(difference.etc)
        ],
        "size": {"before": difference.before._asdict(), "after": difference.after._asdict()},
        "unread": list(difference.unread),
    }


def _rows(difference: Difference) -> Iterator[Mapping[str, object]]:
    for kind, changes in _groups(difference).items():
        for change in changes:
            yield {
                "kind": kind, "change": change.kind, "name": _plain(change.name),
                "before": _plain(change.before or ""), "after": _plain(change.after or ""),
            }  # fmt: skip
    for file in difference.etc:
        yield {
            "kind": "etc", "change": file.kind, "name": _plain(file.path),
            "before": file.before.kind if file.before else "", "after": file.after.kind if file.after else "",
        }  # fmt: skip


def _lines(difference: Difference, options: Options) -> Iterator[str]:
    if difference.packages:
        yield "Packages"
        yield from (_line(change, options) for change in difference.packages)
    if difference.etc:
        yield "/etc"
        for index, file in enumerate(difference.etc):
            yield from _file(file, options, lines=options.verbose and index < DIFFS_MAX)
    for heading, changes in (
        ("Units", difference.units), ("Users", difference.users), ("Groups", difference.groups)
    ):  # fmt: skip
        if changes:
            yield heading
            yield from (_line(change, options) for change in changes)


def _line(change: Change, options: Options) -> str:
    values = " -> ".join(_plain(value) for value in (change.before, change.after) if value is not None)
    return _signed(change.kind, f"{_plain(change.name)} {values}".rstrip(), options)


def _file(change: FileChange, options: Options, *, lines: bool) -> Iterator[str]:
    file = change.after or change.before
    name = _plain(change.path) + ("/" if file is not None and file.kind == "directory" else "")
    what = f" ({', '.join(map(_plain, change.what))})" if change.what else ""
    yield _signed(change.kind, name + what, options)
    for line in change.diff() if lines else []:
        yield "      " + colored(_plain(line), options, key=_COLORS.get(line[:1], ""))


def _signed(kind: str, text: str, options: Options) -> str:
    sign = _SIGNS[kind]
    return f"  {colored(f'{sign} {text}', options, key=_COLORS[sign])}"


def _size(difference: Difference) -> str:
    before, after = difference.before, difference.after
    change = f"{(after.bytes - before.bytes) / 2**20:+.1f} MB, {after.files - before.files:+d} files"
    return f"Size\n  {_amount(before)} -> {_amount(after)} ({change})"


def _amount(size: Size) -> str:
    return f"{size.bytes / 2**20:.1f} MB in {size.files} files"


def _plain(text: str) -> str:
    """Give text of a guest without what a terminal would obey."""
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in text
    )
