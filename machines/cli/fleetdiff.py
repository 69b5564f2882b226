# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs between the declared fleet and the host, as a unified diff; what is no text, as a line of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from machines.cli.options import Options
from machines.cli.output import colored, note, say
from machines.operations.fleetplan import FleetPlan
from machines.plan.steps import RemoveFile, Step, WriteFile

_COLORS = {"+": "ok", "-": "bad", "@": "warning"}
_NOTHING = "/dev/null"


def show_diff(planned: FleetPlan, texts: Mapping[str, str], options: Options) -> None:
    """Print what apply would change; ``texts`` are the files it would write or remove, as they are now."""
    if options.output == "json":
        import json

        rows = [
            {
                "machine": name,
                "kind": step.kind or None,
                "path": getattr(step, "path", None) if isinstance(step, (WriteFile, RemoveFile)) else None,
                "what": str(step),
                "reason": step.reason,
                "diff": list(_lines(step, texts)),
            }
            for name, plan in planned.plans.items()
            for step in plan
        ]
        say(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not any(planned.plans.values()):
        note("no differences")
    for plan in planned.plans.values():
        for step in plan:
            lines = list(_lines(step, texts))
            for line in lines:
                say(colored(line, options, key=_COLORS.get(line[:1], "")))
            if not lines:
                say(colored(f"~ {step}  ({step.reason})", options, key="warning"))


def _lines(step: Step, texts: Mapping[str, str]) -> Iterator[str]:
    """Give a unified diff of a step that changes a file, with its headings; nothing for any other."""
    if not isinstance(step, (WriteFile, RemoveFile)):
        return
    import difflib

    old = texts.get(step.path)
    new = step.text if isinstance(step, WriteFile) else ""
    before = _NOTHING if old is None else step.path
    after = step.path if isinstance(step, WriteFile) else _NOTHING
    # A file may hold what a terminal would obey.
    for line in difflib.unified_diff((old or "").splitlines(), new.splitlines(), before, after, lineterm="", n=2):
        yield "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in line)
