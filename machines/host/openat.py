# SPDX-License-Identifier: LGPL-2.1-or-later
"""openat2(2), which resolves a path with a directory as its root."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import cache

NO_XDEV = 0x01
NO_MAGICLINKS = 0x02
NO_SYMLINKS = 0x04
BENEATH = 0x08
IN_ROOT = 0x10

# asm-generic/unistd.h; the number is the same on every architecture.
_SYS_OPENAT2 = 437

# EAGAIN of openat2(2): something was renamed or mounted anywhere on the host while ".." was looked up.
_TRIES = 1000


@cache
def _openat2() -> Callable[[int, bytes, int, int, int], int]:
    import ctypes

    class OpenHow(ctypes.Structure):
        _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    size = ctypes.sizeof(OpenHow)

    def call(directory: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        how = OpenHow(flags, mode, resolve)
        fd = int(syscall(_SYS_OPENAT2, directory, path, ctypes.byref(how), size))
        return fd if fd >= 0 else -ctypes.get_errno()

    return call


def open_at(directory: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below the directory that is open at ``directory``, resolved as openat2(2) has it in ``resolve``.

    The caller closes what it gets. Raises OSError as open(2) does.
    """
    if not flags & os.O_PATH:
        flags |= os.O_NOCTTY
    fd = -errno.EAGAIN
    for _ in range(_TRIES):
        fd = _openat2()(directory, os.fsencode(path), flags | os.O_CLOEXEC, mode, resolve)
        if fd != -errno.EAGAIN:
            break
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), path)
    return fd
