# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that gives a host without snapshots a pool that has them: a btrfs in a file."""

from __future__ import annotations

from machines.errors import Conflict, MachctlError, Unsupported
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render.pool import render_pool

REASON = "asked for"


def check_pool(host: Host) -> list[MachctlError]:
    """Give what stands in the way of a pool in a file: it would hide what lies where it is mounted."""
    errors: list[MachctlError] = []
    if "mkfs.btrfs" not in host.tools:
        errors.append(Unsupported("mkfs.btrfs is not installed", hint="apt install btrfs-progs"))
    if host.trees:
        names = " ".join(sorted(host.trees))
        errors.append(
            Conflict(
                f"there are machines in {host.pool}: {names}",
                hint="machctl export each to a file, machctl rm it, make the pool, then machctl import",
            )
        )
    if host.bases:
        errors.append(Conflict("there are images in the old pool", hint="machctl image prune --all"))
    if host.pool_mounted:
        errors.append(
            Conflict(
                f"{host.pool} is a file system of its own already",
                hint="on btrfs it takes snapshots as it is; else umount it and take it out of fstab",
            )
        )
    return errors


def plan_pool(size: int) -> Plan:
    """Give the steps after which the pool is a btrfs of ``size`` bytes, now and after every boot."""
    files = render_pool()
    units = [path.rsplit("/", 1)[1] for path in files]
    plan: Plan = [steps.MakePool(reason=REASON, size=size)]
    plan += [steps.WriteFile(reason=REASON, path=path, text=text) for path, text in files.items()]
    # systemd ships a mount unit of one of these names (var-lib-machines.mount, for a pool as it was made before).
    plan.append(steps.ReloadUnits(reason="unit files changed"))
    plan += [steps.EnableUnit(reason="the pool is to be there after a boot", unit=unit) for unit in units]
    return plan + [steps.StartUnit(reason=REASON, unit=unit) for unit in units]
