# SPDX-License-Identifier: LGPL-2.1-or-later
"""Declaration files, checked by themselves: whatever this host is like."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.fleet import read_fleet
from machines.declare.networks import parse_networks
from machines.declare.reader import located
from machines.errors import MachctlError
from machines.model.frozen import NamedTuple


class Checked(NamedTuple):
    """What files declare, and all that is wrong with them, in the order of their lines."""

    files: tuple[str, ...]
    machines: tuple[str, ...]
    networks: tuple[str, ...]
    errors: tuple[MachctlError, ...]

    def report(self) -> dict[str, object]:
        """Give it for programs."""
        wrong = [
            {
                "file": getattr(error, "file", None),
                "line": getattr(error, "line", None),
                "key": getattr(error, "path", None),
                "message": getattr(error, "said", error.message),
                "hint": error.hint,
            }
            for error in self.errors
        ]
        return {
            "valid": not self.errors,
            "files": list(self.files),
            "machines": list(self.machines),
            "networks": list(self.networks),
            "errors": wrong,
        }

    def summary(self) -> str:
        """Say what is declared."""
        what = [_count(len(self.machines), "machine"), _count(len(self.networks), "network")]
        return f"{' and '.join(what)} in {_count(len(self.files), 'file')}: nothing is wrong"


def check_files(files: Mapping[str, str]) -> Checked:
    """Read declaration files, path to text, and find all that is wrong."""
    fleet = read_fleet(files)
    networks, wrong = parse_networks(files)
    errors = located([*fleet.errors, *fleet.clashes, *wrong], files)
    errors.sort(key=lambda error: (getattr(error, "file", ""), getattr(error, "line", None) or 0))
    return Checked(tuple(sorted(files)), tuple(fleet.machines), tuple(networks), tuple(errors))


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
