# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans as people and programs read them: each step with its reason, what it costs, and what exactly differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from machines.cli.options import Options
from machines.cli.output import note, say
from machines.plan.steps import Plan

_WIDTH = len("recreate")


def show_plan(plans: Mapping[str, Plan], options: Options, *, notes: Mapping[str, str] | None = None) -> None:
    """Print the plan of each machine; ``notes`` says why machines would have to be recreated, which nobody asked for.

    What is marked with what it costs a machine is printed with that.
    """
    if options.output == "json":
        import json

        say(json.dumps(list(_rows(plans, notes or {})), indent=2, ensure_ascii=False))
        return
    if not any(plans.values()):
        note("nothing to do")
    for name, plan in plans.items():
        if not plan:
            continue
        say(f"{name or 'this host'}:" + _kind(plan))
        marked = any(step.kind for step in plan)
        for step in plan:
            kind = f"{step.kind:<{_WIDTH}}  " if marked else ""
            say(f"  {kind}{step}  ({step.reason})")
            for line in step.detail.splitlines():
                say(f"    {line}")


def _kind(plan: Plan) -> str:
    """Say what a whole plan costs the machine."""
    from machines.plan.kinds import kind_of_plan

    kind = kind_of_plan(plan)
    return f" {kind}" if kind else ""


def _rows(plans: Mapping[str, Plan], notes: Mapping[str, str]) -> Iterator[Mapping[str, object]]:
    for name, plan in plans.items():
        for step in plan:
            yield {
                "machine": name,
                "kind": step.kind or None,
                "step": type(step).__name__,
                "what": str(step),
                "reason": step.reason,
                "difference": step.detail.splitlines(),
            }
    for name, text in notes.items():
        yield {
            "machine": name,
            "kind": "recreate",
            "step": "MakeTree",
            "what": "make the tree anew",
            "reason": text,
            "difference": [],
            "asked": False,
        }
