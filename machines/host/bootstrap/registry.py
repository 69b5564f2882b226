# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bootstrappers by name, and which of them to take for a distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from machines.errors import InvalidValue, Unsupported
from machines.host.bootstrap.arch import Pacstrap
from machines.host.bootstrap.debootstrap import Debootstrap
from machines.host.bootstrap.fedora import Dnf
from machines.host.bootstrap.mmdebstrap import Mmdebstrap
from machines.host.interfaces import BootstrapRequest, Progress
from machines.host.run import PACKAGES


class Bootstrapper(Protocol):
    """A tool that makes root trees."""

    name: str

    def missing_tools(self) -> tuple[str, ...]:
        """Give the programs this bootstrapper needs that the host does not have; empty when it can run."""
        ...

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        """Fill ``request.target``; on failure or cancellation nothing of the tool is left running or mounted.

        Raises CommandFailed naming the cause, with the log's path in the hint.
        """
        ...


BOOTSTRAPPERS: dict[str, Callable[[], Bootstrapper]] = {
    "mmdebstrap": Mmdebstrap,
    "debootstrap": Debootstrap,
    "pacstrap": Pacstrap,
    "dnf": Dnf,
}

DISTRIBUTIONS = {
    "debian": ("mmdebstrap", "debootstrap"),
    "ubuntu": ("mmdebstrap", "debootstrap"),
    "arch": ("pacstrap",),
    "fedora": ("dnf",),
}
"""What makes trees of a distribution, in the order in which ``auto`` tries them."""


def choose(preference: str = "auto", distribution: str = "debian") -> Bootstrapper:
    """Give the bootstrapper to use: the one named, or with ``auto`` the first that can run on this host.

    Raises InvalidValue for a word that names none that makes trees of ``distribution``, Unsupported where what is
    asked for is not installed.
    """
    fitting = DISTRIBUTIONS.get(distribution)
    if fitting is None:
        raise InvalidValue(f"no tool makes trees of {distribution!r}", hint=f"choose one of {', '.join(DISTRIBUTIONS)}")
    if preference not in ("auto", *fitting):
        what = f"{preference} makes no trees of {distribution}"
        raise InvalidValue(
            what if preference in BOOTSTRAPPERS else f"there is no bootstrapper {preference!r}",
            hint=f"choose one of {', '.join(('auto', *fitting))}",
        )
    names = fitting if preference == "auto" else (preference,)
    candidates = [BOOTSTRAPPERS[name]() for name in names]
    for candidate in candidates:
        if not candidate.missing_tools():
            return candidate
    lacking = candidates[0].missing_tools()
    packages = dict.fromkeys(PACKAGES.get(tool, tool) for tool in lacking)
    if len(candidates) > 1:
        others = ", ".join(names[1:])
        raise Unsupported(
            "no tool to make a root tree with is installed", hint=f"apt install {names[0]} ({others} does as well)"
        )
    raise Unsupported(
        f"{names[0]} cannot run, the host lacks {', '.join(lacking)}", hint=f"apt install {' '.join(packages)}"
    )
