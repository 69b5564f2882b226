# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layers of an OCI image, one on top of the other (layer.md of the image-spec): what is new, and what is taken away."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from machines.errors import MachctlError
from machines.host import removal
from machines.host.archive.entries import Entry, shown
from machines.host.archive.writer import TreeWriter
from machines.host.interfaces import Progress

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# What aufs kept for itself.
_META = ".wh..wh."


class LayerWriter(TreeWriter):
    """A TreeWriter that knows whiteouts; they take away what the layers below have, not what their own has."""

    def __init__(
        self, fd: int, *, name: str, shift: int = 0, devices: bool = False, progress: Progress | None = None
    ) -> None:
        super().__init__(fd, name=name, shift=shift, devices=devices, replace=True, progress=progress)
        self._layers = 0
        # The paths that the layer being applied has made, and all that are above them.
        self._made: set[str] = set()

    def apply(self, entries: Iterable[Entry]) -> None:
        """Apply one layer."""
        self._made.clear()
        for entry in entries:
            parent, _, name = entry.path.rpartition("/")
            if not name.startswith(_WHITEOUT):
                self.add(entry)
                # The first has nothing below it.
                if self._layers:
                    self._remember(entry.path)
            elif name == _OPAQUE:
                self._white_out(parent, None)
            elif not name.startswith(_META):
                hidden = name.removeprefix(_WHITEOUT)
                if hidden in {"", ".", ".."}:
                    raise MachctlError(f"{self.name} takes away what has no name: {shown(entry.path)}")
                self._white_out(parent, hidden)
        self._layers += 1

    def _remember(self, path: str) -> None:
        while path and path not in self._made:
            self._made.add(path)
            path = path.rpartition("/")[0]

    def _white_out(self, parent: str, name: str | None) -> None:
        if not self._layers:
            return
        try:
            directory = self.directory(parent, make=False)
            if name is None:
                self._clear(directory, parent)
            else:
                self._hide(directory, parent, name)
        except (FileNotFoundError, NotADirectoryError):
            # Nothing is there, so nothing has to go.
            pass
        except OSError as error:
            raise MachctlError(f"{self.name}: {shown(parent)} cannot be cleared: {error.strerror}") from error

    def _hide(self, directory: int, parent: str, name: str) -> None:
        path = f"{parent}/{name}" if parent else name
        if path not in self._made:
            self.remove(directory, name)
            return
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            self._white_out(path, None)

    def _clear(self, directory: int, path: str) -> None:
        """Take away what the layers below have in a directory, and in those that this layer has made of it."""
        pending = [path]
        while pending:
            current = pending.pop()
            fd = os.dup(directory) if current == path else os.dup(self.directory(current, make=False))
            try:
                for name in os.listdir(fd):
                    below = f"{current}/{name}" if current else name
                    directory_below = stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
                    if below in self._made:
                        pending += [below] if directory_below else []
                    elif directory_below:
                        removal.remove_directory(fd, name)
                    else:
                        os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        self._stale = True
