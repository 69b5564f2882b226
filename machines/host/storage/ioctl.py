# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers of ioctl(2) requests, as linux/ioctl.h makes them."""

from __future__ import annotations

import os

# PowerPC, MIPS and SPARC have one bit less for the size and other numbers for the direction (asm/ioctl.h there).
_OTHER = os.uname().machine.startswith(("ppc", "mips", "sparc"))
_DIRECTION_SHIFT = 29 if _OTHER else 30
_WRITE = 4 if _OTHER else 1
_READ = 2


def iow(kind: int, number: int, size: int) -> int:
    """Give the request that hands ``size`` bytes to the kernel (_IOW)."""
    return _WRITE << _DIRECTION_SHIFT | size << 16 | kind << 8 | number


def ior(kind: int, number: int, size: int) -> int:
    """Give the request that takes ``size`` bytes from the kernel (_IOR)."""
    return _READ << _DIRECTION_SHIFT | size << 16 | kind << 8 | number


def iowr(kind: int, number: int, size: int) -> int:
    """Give the request that does both (_IOWR)."""
    return (_WRITE | _READ) << _DIRECTION_SHIFT | size << 16 | kind << 8 | number
