# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mounts of a pool in a file: the file system, and its two halves where machines and machctl look for them."""

from __future__ import annotations

from machines.model.names import mount_unit
from machines.render import paths
from machines.render.environment import render

HEADER = "# machctl: fleet pool, made by machctl pool create"


def render_pool() -> dict[str, str]:
    """Give the mount units of the pool, path to text, in the order in which they are to be started."""
    whole = {"what": paths.POOL_IMAGE, "where": paths.POOL_MOUNT, "type": "btrfs", "options": "loop,noatime"}
    halves = [
        {"what": f"{paths.POOL_MOUNT}/machines", "where": paths.POOL_DIRECTORY, "type": "none", "options": "bind"},
        {"what": f"{paths.POOL_MOUNT}/store", "where": paths.STORE_DIRECTORY, "type": "none", "options": "bind"},
    ]
    described = zip([whole, *halves], ("machctl's pool", "Machines of the pool", "Images of the pool"), strict=True)
    return {
        f"{paths.UNIT_DIRECTORY}/{mount_unit(mount['where'])}": render(
            "pool.mount", header=HEADER, description=description, **mount
        )
        for mount, description in described
    }
