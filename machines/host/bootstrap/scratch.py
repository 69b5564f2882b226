# SPDX-License-Identifier: LGPL-2.1-or-later
"""Directories for the time of one bootstrap, and the leftovers of a tool in a new tree."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from machines.errors import CommandFailed

RUN_DIRECTORY = Path("/run/machctl")


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Give a new directory that every user may look into; gone afterwards, as are those of killed processes."""
    # Not beside the target: only root may look into the pool.
    if not RUN_DIRECTORY.is_dir():
        RUN_DIRECTORY.mkdir(exist_ok=True)
        RUN_DIRECTORY.chmod(0o755)
    for path in RUN_DIRECTORY.glob(f"{prefix}-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-{os.getpid()}-", dir=RUN_DIRECTORY) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def clean(target: Path, patterns: Iterable[str], *, kept: Collection[str] = ()) -> None:
    """Remove what matches ``patterns`` in the new tree ``target``, except for the paths that are ``kept``.

    Raises CommandFailed where a directory on the way is a link that leads out of the tree.
    """
    for pattern in patterns:
        for path in list(target.glob(pattern)):
            if path.relative_to(target).as_posix() not in kept:
                _remove(path, root=target)


def _remove(path: Path, *, root: Path) -> None:
    # A tree from a mirror that somebody else runs may hold a link where the distribution has a directory.
    if path.parent.resolve() != root.resolve() / path.parent.relative_to(root):
        raise CommandFailed(f"{path.parent} leads out of the new tree")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
