# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine's tree out of a base, by each driver: beside its place first, in its place when it is finished."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from machines.errors import Conflict, NotFound
from machines.host.files import read_text
from machines.host.storage import pool
from machines.host.storage.places import LAYERS
from machines.host.storage.store import base_path, sync_file_system
from machines.model.base import Base
from machines.model.ids import SIZE
from machines.model.names import mount_unit

if TYPE_CHECKING:
    from machines.host.interfaces import Progress

# sys/mount.h
_UMOUNT_NOFOLLOW = 8


async def copy_base(base: Base, name: str, *, driver: str, uid: int | None, log: str, progress: Progress) -> str:
    """Make the tree of machine ``name`` of a base, beside its place, and give where files of its own go in.

    Of a layer that is its upper directory. Raises MachctlError; what is half made then is for the caller to remove.
    """
    source = base_path(base)
    if driver == "overlay":
        from machines.host.storage import overlay

        assert uid is not None
        unmount(name)
        overlay.remove_layer(name)
        overlay.make_layer(name, uid)
        os.symlink(source, f"{LAYERS}/{name}/base")
        return f"{LAYERS}/{name}/upper"
    pool.make_pool()
    if driver == "raw":
        from machines.host.sources.raw import copy_image

        target = f"{pool.staging_path(name)}.raw"
        pool.remove_path(target)
        await copy_image(source, target, log=log, progress=progress)
        os.chmod(target, 0o600)
        return target
    target = pool.staging_path(name)
    if driver == "btrfs":
        from machines.host.storage import btrfs

        pool.remove_path(target)
        btrfs.snapshot(source, target)
        return target
    from machines.host.storage import copying

    pool.make_empty(name)
    reflink = driver == "reflink"
    await copying.copy(source, target, reflink=reflink, log=log, progress=progress, total=base.files or None)
    return target


def place(name: str, driver: str) -> None:
    """Put the finished tree of machine ``name`` into its place. Raises Conflict if that is taken.

    A layer is mounted there when somebody needs it: by systemd when the machine starts, or by mount().
    """
    target = f"{pool.POOL}/{name}"
    if driver == "overlay":
        if os.path.lexists(target) and os.listdir(target):
            raise Conflict(f"{target} has appeared in the meantime", hint="choose another name, or remove it")
        pool.make_pool()
        os.makedirs(target, mode=0o755, exist_ok=True)
        return
    if driver == "raw":
        target += ".raw"
    staged = f"{pool.staging_path(name)}{'.raw' if driver == 'raw' else ''}"
    if driver != "btrfs":
        # A snapshot is on disk as far as what it was taken of is.
        sync_file_system(staged)
    if os.path.lexists(target):
        raise Conflict(f"{target} has appeared in the meantime", hint="choose another name, or remove it")
    os.rename(staged, target)


def mount(name: str) -> None:
    """Mount the tree of a machine that is a layer over a base, if it is not.

    Raises NotFound without the base, CommandFailed with the words of mount(8) or systemd.
    """
    from machines.host.run import run
    from machines.host.storage import overlay

    points = f"{LAYERS}/{name}/lower", f"{pool.POOL}/{name}"
    units = list(map(mount_unit, points))
    if pool.is_mounted(points[1]):
        _require_base(name)
        return
    check_layer(name)
    if not overlay.is_apart():
        # systemd, which would take ten times as long, or a second where there has been much mounting, sees it happen.
        for point in points:
            if not pool.is_mounted(point):
                run(_as_unit_says(point))
        return
    run(["systemctl", "start", units[1]])
    if not all(map(pool.is_mounted, points)):
        # It looks at mounts a few times a second at most, and took some that have just gone for being there still.
        # Once it has stopped them it has looked.
        run(["systemctl", "stop", *reversed(units)], check=False)
        run(["systemctl", "start", units[1]])


def _as_unit_says(point: str) -> list[str]:
    """Give the command that systemd runs for a .mount unit (systemd.mount(5)). Raises NotFound where there is none."""
    path = f"/etc/systemd/system/{mount_unit(point)}"
    values = dict(line.partition("=")[::2] for line in (read_text(path) or "").splitlines())
    if "What" not in values:
        raise NotFound(f"{point} cannot be mounted: there is no {path}", hint="machctl apply writes it")
    return ["mount", "-t", values["Type"], "-o", values["Options"], "--", values["What"], point]


def _require_base(name: str) -> None:
    layer = f"{LAYERS}/{name}"
    if os.path.isdir(f"{layer}/base"):
        return
    try:
        base = os.readlink(f"{layer}/base")
    except OSError:
        base = f"{layer}/base"
    raise NotFound(
        f"the base of machine {name} is gone: there is no {base}",
        hint=f"bring it back from a backup: {layer}/upper has what {name} wrote; or give up: machctl rm {name}",
    )


def check_layer(name: str) -> None:
    """See to it that the layer of a machine that is not running has its base under it. Raises NotFound."""
    _require_base(name)
    layer = f"{LAYERS}/{name}"
    if pool.is_mounted(f"{layer}/lower") and not os.listdir(f"{layer}/lower") and os.listdir(f"{layer}/base"):
        # It was brought back; what is mounted is still the one that was deleted.
        unmount(name)


def unmount(name: str) -> None:
    """Unmount the tree of a machine and its base, those that are mounted (umount2(2))."""
    # The base first, which the tree holds on to by itself: without the tree, systemd would begin to unmount it too.
    points = [point for point in (f"{LAYERS}/{name}/lower", f"{pool.POOL}/{name}") if pool.is_mounted(point)]
    if not points:
        return
    from machines.host.run import run
    from machines.host.storage import overlay

    if not overlay.is_apart():
        import ctypes

        # systemd sees that they are gone, as it does after umount(8); asking it to takes ten times as long.
        umount2 = ctypes.CDLL(None).umount2
        for point in points:
            while pool.is_mounted(point) and umount2(os.fsencode(point), _UMOUNT_NOFOLLOW) == 0:
                pass
        points = [point for point in points if pool.is_mounted(point)]
        if not points:
            return
    run(["systemctl", "stop", *map(mount_unit, points)], check=False)
    for point in reversed(points):
        # systemd knows nothing of a mount whose unit has lost its file.
        if pool.is_mounted(point):
            run(["umount", point])


@contextlib.contextmanager
def edit_layer(name: str, uid: int) -> Iterator[str]:
    """Show the tree that the layer of machine ``name`` makes with its base, before it is in its place; give the path.

    What is written there goes into the layer. Only this process sees it (see overlay.view).
    """
    from machines.host.run import run
    from machines.host.storage import overlay

    layer = f"{LAYERS}/{name}"
    overlay.own_namespace()
    with contextlib.ExitStack() as stack:
        for argv in (
            ["mount", "--bind", "-o", f"ro,X-mount.idmap=b:0:{uid}:{SIZE}", f"{layer}/base", f"{layer}/lower"],
            [
                "mount", "-t", "overlay", "-o",
                f"lowerdir={layer}/lower,upperdir={layer}/upper,workdir={layer}/work,{overlay.OPTIONS}",
                "machctl", f"{layer}/lower",
            ],
        ):  # fmt: skip
            run(argv)
            stack.callback(run, ["umount", "--", f"{layer}/lower"], check=False)
        yield f"{layer}/lower"


@contextlib.contextmanager
def edit_image(image: str) -> Iterator[str]:
    """Show the tree in a disk image before that is in its place; give the path. Only this process sees it.

    What is in an image its partition table says (systemd-dissect(1)). Raises CommandFailed where there is no tree.
    """
    import tempfile

    from machines.host.files import LOCK_DIRECTORY
    from machines.host.run import run
    from machines.host.storage import overlay

    overlay.own_namespace()
    os.makedirs(LOCK_DIRECTORY, mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"image-{os.getpid()}-", dir=LOCK_DIRECTORY) as directory:
        try:
            run(["systemd-dissect", "--mount", "--fsck=no", image, directory])
            yield directory
        finally:
            # It leaves mounted what it got to before it failed, at an ESP without a file system for one.
            if os.path.ismount(directory):
                run(["umount", "--recursive", "--", directory])


def measure(path: str) -> tuple[int, int]:
    """Give how many bytes of disk a tree or an image takes, and how many files it has."""
    if os.path.isfile(path):
        return os.stat(path).st_blocks * 512, 1
    size = count = 0
    seen: set[tuple[int, int]] = set()
    for _, directories, files, fd in os.fwalk(path, follow_symlinks=False):
        for entry in [*directories, *files]:
            with contextlib.suppress(OSError):
                status = os.stat(entry, dir_fd=fd, follow_symlinks=False)
                count += 1
                if status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                    size += status.st_blocks * 512
                    seen.add((status.st_dev, status.st_ino))
    return size, count
