# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ranges of user and group ids: a machine has 65536 of them, and its root is the first (systemd-nspawn(1), -U)."""

from __future__ import annotations

SIZE = 0x10000


def first_of_range(owner: int) -> int:
    """Give the first id of the range that the owner of a tree's root directory is in, as nspawn finds it.

    The owner itself will not do: the machine's root may give its root directory to anybody.
    """
    return owner & ~(SIZE - 1)


def spread(name: str) -> int:
    """Give a number of 32 bits that is the same for the same name, and another one for most others."""
    import zlib

    return zlib.crc32(name.encode())
