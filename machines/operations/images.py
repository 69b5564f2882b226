# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bases there are: listed, made without a machine, made anew, removed when no machine was copied from them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from machines.errors import Conflict, InvalidValue, NotFound, raise_all
from machines.model.base import IMPORTED, Base, find_base
from machines.model.frozen import NamedTuple
from machines.model.machine import Machine
from machines.model.names import check_kept_name
from machines.model.source import parse_source
from machines.operations.bases import make_base
from machines.operations.execute import execute
from machines.operations.ready import check_ready
from machines.operations.records import read_records
from machines.operations.reporter import Reporter
from machines.operations.together import for_each
from machines.plan import steps
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.errors import MachctlError
    from machines.host.interfaces import Host

DAY = 86400.0


class ImageStatus(NamedTuple):
    """A base, the machines that were copied from it, and whether it is older than bases are to be."""

    base: Base
    users: tuple[str, ...]
    stale: bool
    superseded: bool

    def row(self) -> dict[str, object]:
        """Give it under the names that JSON has; those are stable."""
        base = self.base
        return {
            "id": base.id,
            "name": base.name or None,
            "source": base.source,
            "kind": base.kind,
            "os": base.os or None,
            "size": base.size,
            "files": base.files,
            "created": base.created,
            "age_days": round((time.time() - base.created) / DAY, 2),
            "stale": self.stale,
            "superseded": self.superseded,
            "users": list(self.users),
            "recipe": dict(base.recipe),
            "digest": base.digest,
            "payload": base.payload._asdict() if base.payload else None,
        }


def images(host: Host, *, max_age: float) -> list[ImageStatus]:
    """Give the bases, by source and age; those older than ``max_age`` days are stale."""
    bases, users = host.storage.bases(), [(name, record.base) for name, record in read_records(host).items()]
    # A snapshot of a layer is nothing without what lies below it.
    users += [(name, each.base) for name, taken in host.storage.all_snapshots().items() for each in taken.values()]
    # Layers of machines that nobody recorded: those that were ejected.
    users += [(tree.name, tree.base) for tree in host.pool.trees().values() if tree.base]
    newest = {base.digest: base.id for base in sorted(bases.values(), key=lambda base: base.created)}
    now = time.time()
    return [
        ImageStatus(
            base,
            tuple(sorted({name for name, used in users if used == base.id})),
            stale=now - base.created > max_age * DAY,
            superseded=newest[base.digest] != base.id,
        )
        for base in sorted(bases.values(), key=lambda base: (base.source, base.name, -base.created))
    ]


def find_image(name: str, host: Host) -> Base:
    """Give the base that is called ``name``, or whose id begins like that. Raises NotFound."""
    found = find_base(host.storage.bases(), name)
    if found is None:
        raise NotFound(f"there is no image {name}", hint="machctl image ls shows those there are")
    return found


async def pull(
    machine: Machine, name: str, host: Host, reporter: Reporter, *, fresh: bool, dry_run: bool
) -> Plan | Base:
    """Make the base that ``machine`` would be copied from, call it ``name`` if that is not empty, and give it.

    It gives the plan instead where that is all that is asked for. Raises Conflict for a name that another base has.
    """
    check_ready(host, verb="image")
    if name:
        check_kept_name(name, what="an image")
        for base in host.storage.bases().values():
            if base.name == name and base.source != str(machine.source):
                raise Conflict(
                    f"image {name} exists already, made of {base.source}",
                    hint=f"choose another name, or remove it: machctl image rm {name}",
                )
    step = steps.MakeBase(reason="asked for", machine=machine.name, declared=machine, fresh=fresh)
    if dry_run:
        return [step]
    reporter.step(step)
    return await make_base(machine, host, partial(reporter.progress, machine.name), name=name, fresh=fresh)


async def remove(names: Iterable[str], host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Remove bases; give the plan. Raises NotFound, and Conflict for one that machines were copied from."""
    check_ready(host, verb="image")
    async with host.files.fleet_lock():
        users = {status.base.id: status.users for status in images(host, max_age=0)}
        chosen = [find_image(name, host) for name in names]
        raise_all(
            [
                Conflict(
                    f"image {base.short} is in use: {', '.join(users[base.id])} "
                    f"{'was' if len(users[base.id]) == 1 else 'were'} copied from it",
                    hint=f"remove what uses it first: machctl rm {' '.join(users[base.id])}",
                )
                for base in chosen
                if users[base.id]
            ]
        )
        plan: Plan = [steps.RemoveBase(reason="asked for", base=base.id) for base in chosen]
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


async def prune(host: Host, reporter: Reporter, *, everything: bool, max_age: float, dry_run: bool) -> Plan:
    """Remove bases that no machine was copied from: those that a newer one takes the place of and those that are stale.

    With ``everything`` all of them, also those that have a name. Gives the plan.
    """
    check_ready(host, verb="image")
    async with host.files.fleet_lock():
        plan: Plan = []
        for status in images(host, max_age=max_age):
            if status.users:
                continue
            if not _repeatable(status.base) and not status.base.name:
                plan.append(steps.RemoveBase(reason="nobody can be copied from it again", base=status.base.id))
            elif status.superseded:
                plan.append(steps.RemoveBase(reason="a newer one takes its place", base=status.base.id))
            elif everything or (status.stale and not status.base.name):
                plan.append(steps.RemoveBase(reason="no machine was copied from it", base=status.base.id))
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


async def refresh(
    names: Iterable[str], host: Host, reporter: Reporter, *, max_age: float, dry_run: bool
) -> tuple[list[Base], dict[str, MachctlError]]:
    """Make bases anew: those named, or all that are stale and can be; give those and what went wrong with which.

    What they were before goes if no machine was copied from it.
    """
    check_ready(host, verb="image")
    names = list(names)
    chosen = [find_image(name, host) for name in names] or [
        status.base
        for status in images(host, max_age=max_age)
        if status.stale and not status.superseded and _repeatable(status.base)
    ]
    raise_all(
        [
            InvalidValue(f"image {base.short} cannot be made anew: {base.source}", hint="import it again")
            for base in chosen
            if not _repeatable(base)
        ]
    )
    if dry_run:
        return chosen, {}
    made: list[Base] = []

    async def one(base_id: str) -> None:
        old = host.storage.bases()[base_id]
        made.append(
            await make_base(as_machine(old), host, partial(reporter.progress, old.short), name=old.name, fresh=True)
        )

    failed = await for_each([base.id for base in chosen], one)
    await prune(host, reporter, everything=False, max_age=1e9, dry_run=False)
    return made, failed


def as_machine(base: Base) -> Machine:
    """Give a machine that would be copied from a base like this one: what it was made of, as it was declared."""
    recipe = dict(base.recipe)
    keyring = recipe.get("keyring")
    return Machine(
        name=base.short,
        source=parse_source(base.source, any_suite=True),
        origin="",
        packages=tuple(map(str, recipe.get("packages", ()))),  # type: ignore[call-overload]
        mirror=_text(recipe.get("mirror")),
        variant=_text(recipe.get("variant")) or "minbase",
        bootstrapper=_text(recipe.get("bootstrapper")) or "auto",
        keyring=_text(keyring.get("file")) if isinstance(keyring, dict) else None,
        checksum=_text(recipe.get("checksum")),
        insecure=bool(recipe.get("insecure")),
        # Only whether there is one shapes the tree.
        ssh_keys=("",) if recipe.get("ssh") else (),
    )


def _repeatable(base: Base) -> bool:
    return not base.source.startswith(("dir:", "image:", IMPORTED))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
