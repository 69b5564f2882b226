# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drop-ins of a machine's unit (systemd.exec(5), systemd.resource-control(5)) to keys of a declaration."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from machines.declare.foreign.found import Found
from machines.declare.foreign.ini import Assignment, assignments, number, words

_STAYS = "it stays in that file, and in force"
_SIZES = {"MemoryMax": "memory", "MemoryHigh": "memory-high", "MemorySwapMax": "swap"}
_NUMBERS = {"CPUWeight": "cpu-weight", "IOWeight": "io-weight", "TasksMax": "tasks"}
_KEYS = {
    **_SIZES, **_NUMBERS, "CPUQuota": "cpus", "Restart": "restart", "RestartSec": "restart-delay",
    "DeviceAllow": "devices", "After": "after", "Wants": "after",
}  # fmt: skip
_MACHINE = re.compile(r"systemd-nspawn@([A-Za-z0-9.-]+)\.service")


def read_dropins(texts: Mapping[str, str], found: Found) -> dict[str, list[tuple[Assignment, str]]]:
    """Read drop-ins, path to text; give what of each a declaration says as well, and by which key, by path.

    systemd reads them in the order of their names, whichever directories they are in (systemd.unit(5)). The rest is
    noted in ``found``, which has what the machine's settings say already.
    """
    taken: dict[str, list[tuple[Assignment, str]]] = {path: [] for path in texts}
    for path in sorted(texts, key=posixpath.basename):
        for each in assignments(texts[path]):
            if _read(each, found):
                taken[path].append((each, _KEYS.get(each.key, "")))
            else:
                found.leave(str(each), _STAYS, where=path)
    return taken


def _read(each: Assignment, found: Found) -> bool:
    """Read one assignment; tell whether a declaration says all of it."""
    key, value = each.key, each.value
    if each.section == "Unit" and key in {"After", "Wants", "Requires", "BindsTo"}:
        names = [_MACHINE.fullmatch(word) for word in words(value)]
        if not names or not all(names):
            return False
        if key == "After":
            found.add("after", *(match[1] for match in names if match))
        # A machine that is waited for is wanted as well; that the other's end is one's own is not said by that.
        return key in {"After", "Wants"}
    if each.section != "Service":
        return False
    if key in _SIZES or key in _NUMBERS:
        return _limit(key, value, found)
    match key:
        case "CPUQuota" if (percents := number(value.removesuffix("%"))) is not None:
            found.set("cpus", percents / 100)
        case "Restart" if value in {"no", "on-failure", "always"}:
            found.set("restart", value)
        case "RestartSec" if re.fullmatch(r"[0-9]{1,18}(s|sec)?", value):
            found.set("restart-delay", f"{re.sub('[a-z]', '', value)}s")
        case "DeviceAllow":
            return _device(value, found)
        case _:
            return False
    return True


def is_said(each: Assignment, key: str, values: Mapping[str, object]) -> bool:
    """Tell whether a declaration says, by ``key``, what an assignment does, of several items each one."""
    if not key or each.value in {"", "infinity"}:
        return True
    said = values.get(key)
    if key not in {"devices", "after"} or not isinstance(said, list):
        return said is not None
    have = [str(item) for item in said]
    if key == "devices":
        path = each.value.partition(" ")[0]
        return any(item == path or item.startswith(f"{path}:") for item in have)
    names = [match[1] for match in map(_MACHINE.fullmatch, words(each.value)) if match]
    return {*names} <= {item.partition("/")[0].partition(":")[0] for item in have}


def _limit(key: str, value: str, found: Found) -> bool:
    name = _SIZES.get(key) or _NUMBERS[key]
    if not value or value == "infinity":
        found.values.pop(name, None)
        # Without a limit of its own the unit's TasksMax= counts.
        return key != "TasksMax"
    if key in _NUMBERS:
        count = number(value)
        if count is not None:
            found.set(name, count)
        return count is not None
    if not re.fullmatch(r"[0-9]{1,18}[KMGT]?", value):
        return False
    found.set(name, _short(value))
    return True


def _short(value: str) -> str:
    """Give a size in bytes, as set-property writes it, in the largest unit that it is whole in."""
    if not value.isdigit():
        return value
    size = int(value)
    for unit in ("", "K", "M", "G"):
        if size % 1024 or not size:
            return f"{size}{unit}"
        size //= 1024
    return f"{size}T"


def _device(value: str, found: Found) -> bool:
    """A device that is allowed and bound as well is one that the machine has; else it may only make its node."""
    path, _, access = value.partition(" ")
    devices = found.values.get("devices")
    # A declaration would take what is no access for a part of the name.
    if not isinstance(devices, list) or path not in devices or not set(access.strip()) <= set("rwm"):
        return False
    devices[devices.index(path)] = f"{path}:{access.strip()}" if access.strip() else path
    return True
