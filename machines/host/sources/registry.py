# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kinds of sources and who makes trees of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from machines.errors import InvalidValue

if TYPE_CHECKING:
    from machines.host.interfaces import SourceMaker

_MODULES = {
    "debian": "bootstrapped",
    "ubuntu": "bootstrapped",
    "arch": "bootstrapped",
    "fedora": "bootstrapped",
    "tar": "tar",
    "raw": "raw",
    "oci": "oci",
    "dir": "directory",
    "image": "image",
}


def source_maker(kind: str) -> SourceMaker:
    """Give what makes trees of a kind of source (machines.model.source.Source)."""
    if kind not in _MODULES:
        raise InvalidValue(f"no image is made of a {kind}", hint="machctl clone copies machines")
    module = import_module(f"machines.host.sources.{_MODULES[kind]}")
    maker: SourceMaker = module.Maker()
    return maker
