# SPDX-License-Identifier: LGPL-2.1-or-later
"""All modules in one file, for machctl's installer.

A command imports a hundred of them, and to find each one in its directory, beside its source, is a tenth of its time.

``python3 -m machines.bundled FROM TO`` bundles the package in FROM as what it is once that is moved to TO. What is
changed in the files afterwards counts once they are bundled anew: vagrant/provision.sh does both.
"""

from __future__ import annotations

import marshal
import os
import sys
from importlib import _bootstrap_external
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

# What byte code means, as in each .pyc file (PEP 3147); then how long the index is, and the whole file.
_MAGIC = _bootstrap_external.MAGIC_NUMBER
_NUMBER = 8
_HEAD = len(_MAGIC) + 2 * _NUMBER


class Bundle:
    """A finder and loader of importlib (PEP 451) for the modules of a bundle.

    Raises ValueError for a file that is none, or none of this version of Python, or not all of one.
    """

    def __init__(self, fd: int) -> None:
        head = os.pread(fd, _HEAD, 0)
        numbers = head.removeprefix(_MAGIC)
        length, whole = (int.from_bytes(each, "little") for each in (numbers[:_NUMBER], numbers[_NUMBER:]))
        if not head.startswith(_MAGIC) or os.fstat(fd).st_size != whole:
            raise ValueError("no bundle of this Python")
        self._fd = fd
        self._index: dict[str, tuple[str, bool, int, int]] = marshal.loads(os.pread(fd, length, _HEAD))
        self._begin = _HEAD + length

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Give what importlib has to know of a module, None for one that is not in here."""
        if name not in self._index:
            return None
        file, package, _, _ = self._index[name]
        spec = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]
        if package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Have importlib make the module as it does by itself."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of a module."""
        # A spec that says where its module is makes importlib work out where its byte code would be, too.
        module.__file__ = self._index[module.__name__][0]
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """Give the code of a module."""
        _, _, offset, size = self._index[name]
        code: CodeType = marshal.loads(os.pread(self._fd, size, self._begin + offset))
        return code


def install(directory: str) -> None:
    """Import from the bundle in ``directory`` from now on, if there is a whole one for this version of Python."""
    try:
        fd = os.open(_path(directory), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    if fd <= 2:
        # Whoever called has closed its standard streams: what is opened next is not to be taken for one of them.
        import fcntl

        low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(low)
    try:
        sys.meta_path.insert(0, Bundle(fd))
    except ValueError:
        os.close(fd)


def write(source: str, place: str) -> None:
    """Bundle the modules of the package in ``source``, which will be at ``place``; whole or not at all."""
    index, codes, offset = {}, [], 0
    for directory, _, files in os.walk(os.path.join(source, __package__)):
        for file in sorted(files):
            if not file.endswith(".py"):
                continue
            path = os.path.join(directory, file)
            inside = os.path.relpath(path, source)
            with open(path, "rb") as text:
                code = marshal.dumps(compile(text.read(), os.path.join(place, inside), "exec", dont_inherit=True))
            package = file == "__init__.py"
            name = (os.path.dirname(inside) if package else inside.removesuffix(".py")).replace("/", ".")
            index[name] = (os.path.join(place, inside), package, offset, len(code))
            codes.append(code)
            offset += len(code)
    named = marshal.dumps(index)
    numbers = (len(named), _HEAD + len(named) + offset)
    head = _MAGIC + b"".join(number.to_bytes(_NUMBER, "little") for number in numbers)
    with open(f"{_path(source)}.new", "wb") as made:
        made.write(head + named + b"".join(codes))
        made.flush()
        os.fsync(made.fileno())
    os.replace(f"{_path(source)}.new", _path(source))


def _path(directory: str) -> str:
    return os.path.join(directory, f"bundle.{sys.implementation.cache_tag}")


if __name__ == "__main__":
    write(*sys.argv[1:])
