# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans as people and programs read them: each step with its reason, and what exactly differs."""

from __future__ import annotations

from collections.abc import Mapping

from machines.cli.options import Options
from machines.cli.output import note, say
from machines.plan.steps import Plan


def show_plan(plans: Mapping[str, Plan], options: Options) -> None:
    """Print the plan of each machine."""
    if options.output == "json":
        import json

        rows = [
            {
                "machine": name,
                "step": type(step).__name__,
                "what": str(step),
                "reason": step.reason,
                "difference": step.detail.splitlines(),
            }
            for name, plan in plans.items()
            for step in plan
        ]
        say(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not any(plans.values()):
        note("nothing to do")
        return
    for name, plan in plans.items():
        if not plan:
            continue
        say(f"{name or 'what nobody needs any more'}:")
        for step in plan:
            say(f"  {step}  ({step.reason})")
            for line in step.detail.splitlines():
                say(f"    {line}")
