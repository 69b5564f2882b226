# SPDX-License-Identifier: LGPL-2.1-or-later
"""Doing something in another network namespace."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# setns(2)
_CLONE_NEWNET = 0x40000000


def in_namespace(namespace: str | None, act: Callable[[], T]) -> T:
    """Do ``act`` in the network namespace that ``namespace`` is the file of, or here: setns(2) moves but a thread.

    Raises the OSError of either.
    """
    if namespace is None:
        return act()
    done: list[T | OSError] = []

    def enter() -> None:
        try:
            _enter(namespace)
            done.append(act())
        except OSError as error:
            done.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(done[0], OSError):
        raise done[0]
    return done[0]


def _enter(namespace: str) -> None:
    import ctypes

    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), namespace)
    finally:
        os.close(fd)
