# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where trees live and how they are copied: what machines.host.interfaces.Storage names, found when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "choose": "capabilities",
    "drivers": "capabilities",
    "bases": "store",
    "base_path": "store",
    "stage_base": "store",
    "finish_base": "store",
    "rename_base": "store",
    "remove_base": "store",
    "base_leftovers": "store",
    "remove_path": "store",
    "copy_base": "trees",
    "place": "trees",
    "mount": "trees",
    "unmount": "trees",
    "check_layer": "trees",
    "measure": "trees",
    "edit_layer": "trees",
    "edit_image": "trees",
    "layers": "overlay",
    "remove_layer": "overlay",
    "rename_layer": "overlay",
    "layer_leftovers": "overlay:leftovers",
    "snapshots_of": "snapshots",
    "all_snapshots": "snapshots",
    "snapshot_path": "snapshots",
    "origin_of_machine": "snapshots",
    "origin_of_snapshot": "snapshots",
    "take_snapshot": "snapshots",
    "copy_origin": "snapshots",
    "stage_restored": "snapshots",
    "exchange_restored": "snapshots",
    "restored_leftovers": "snapshots",
    "remove_snapshot": "snapshots",
    "remove_snapshots": "snapshots",
    "rename_snapshots": "snapshots",
    "snapshot_leftovers": "snapshots",
    "view": "overlay",
    "limit": "quota",
    "set_limit": "quota",
    "forget_limit": "quota:forget",
    "make_pool_image": "loop_pool:make_image",
    "pool_leftovers": "loop_pool:leftovers",
    "usage_of": "usage:usage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    module, _, own_name = _HOMES[name].partition(":")
    return getattr(import_module(f"machines.host.storage.{module}"), own_name or name)
