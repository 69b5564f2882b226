# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bases of the store: each a directory with its tree or disk image and what is known of it, whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from machines.errors import NotFound, NotPermitted
from machines.host.files import write_file
from machines.host.storage import btrfs
from machines.host.storage.places import BASES, STORE
from machines.model.base import Base, Payload

_NEW = ".new-"
_OLD = ".old-"


def bases() -> dict[str, Base]:
    """Give the bases by id; one whose description cannot be read is none.

    Raises NotPermitted for whoever may not look there: to him there would seem to be none.
    """
    found = {}
    try:
        names = sorted(os.listdir(BASES))
    except PermissionError as error:
        raise NotPermitted(f"images need root: {BASES} cannot be read", hint="run it again with sudo") from error
    except OSError:
        return {}
    for name in names:
        if name.startswith("."):
            continue
        try:
            with open(f"{BASES}/{name}/base.json", encoding="utf-8") as file:
                found[name] = _read(name, json.load(file))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def base_path(base: Base) -> str:
    """Give the tree or the disk image of a base."""
    return f"{BASES}/{base.id}/{'disk.raw' if base.kind == 'raw' else 'tree'}"


def stage_base(base: str) -> str:
    """Make room for a new base called ``base`` and give the directory it is made in, with an empty ``tree``."""
    # Trees hold setuid programs, and files that are their users' alone.
    os.makedirs(STORE, mode=0o700, exist_ok=True)
    os.makedirs(BASES, mode=0o700, exist_ok=True)
    path = f"{BASES}/{_NEW}{base}"
    remove_path(path)
    os.mkdir(path, 0o700)
    if btrfs.on_btrfs(path):
        btrfs.create(f"{path}/tree")
    else:
        os.mkdir(f"{path}/tree")
    os.chmod(f"{path}/tree", 0o755)
    return path


def finish_base(base: Base) -> None:
    """Let a staged base be one: on disk, read-only, in its place."""
    staged = f"{BASES}/{_NEW}{base.id}"
    if base.kind == "raw":
        os.rmdir(f"{staged}/tree")
        os.chmod(f"{staged}/disk.raw", 0o400)
    elif btrfs.is_subvolume(f"{staged}/tree"):
        btrfs.set_read_only(f"{staged}/tree", on=True)
    write_file(f"{staged}/base.json", json.dumps(_written(base), indent=1) + "\n")
    # One sync for all of it stands in for the fsync of every file that dpkg was told to leave out.
    sync_file_system(staged)
    os.rename(staged, f"{BASES}/{base.id}")


def rename_base(base: Base, name: str) -> None:
    """Give a base another name, or none."""
    write_file(f"{BASES}/{base.id}/base.json", json.dumps(_written(base._replace(name=name)), indent=1) + "\n")


def remove_base(base: str) -> None:
    """Remove a base: out of sight at once, gone when this returns. Raises NotFound."""
    try:
        os.rename(f"{BASES}/{base}", f"{BASES}/{_OLD}{base}")
    except FileNotFoundError:
        if not os.path.lexists(f"{BASES}/{_OLD}{base}"):
            raise NotFound(f"there is no base {base}", hint="machctl image ls shows those there are") from None
    remove_path(f"{BASES}/{_OLD}{base}")


def base_leftovers() -> dict[str, str]:
    """Give what interrupted runs left of bases: path to the base's id."""
    try:
        names = sorted(os.listdir(BASES))
    except OSError:
        return {}
    return {f"{BASES}/{name}": name[len(_NEW) :] for name in names if name.startswith((_NEW, _OLD))}


def remove_path(path: str) -> None:
    """Remove a directory of the store with all that is in it; none is fine."""
    from machines.host.storage import pool

    for tree in (f"{path}/tree", path):
        pool.remove_path(tree)


def sync_file_system(path: str) -> None:
    """Write all of the file system that ``path`` is on to its disk (syncfs(2))."""
    import ctypes

    fd = os.open(path, os.O_RDONLY)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(fd)
    finally:
        os.close(fd)


def _written(base: Base) -> dict[str, object]:
    values = base._asdict()
    del values["id"]
    values["payload"] = base.payload._asdict() if base.payload else None
    return values


def _read(name: str, values: Mapping[str, object]) -> Base:
    known = {key: value for key, value in values.items() if key in Base._fields}
    payload = known.pop("payload", None)
    if isinstance(payload, dict):
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in payload.items()}
        known["payload"] = Payload(**values)  # type: ignore[arg-type]
    return Base(id=name, **known)  # type: ignore[arg-type]
