# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of the command line that say what a machine may use and how it is held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from machines.cli import words
from machines.errors import MachctlError

MEMORY_HIGH = words.Option(None, "--memory-high", metavar="SIZE", help="Slow it down when it uses more than that.")
SWAP = words.Option(None, "--swap", metavar="SIZE", help="The most swap it may use; 0 for none.")
CPU_WEIGHT = words.Option(None, "--cpu-weight", metavar="1..10000", help="Its share of busy processors; 100 is usual.")
IO_WEIGHT = words.Option(None, "--io-weight", metavar="1..10000", help="Its share of busy disks; 100 is usual.")
TASKS = words.Option(None, "--tasks", metavar="NUMBER", help="The most processes and threads it may have.")
RESTART = words.Option(None, "--restart", metavar="WHEN", help="Start it again when it ends: no, on-failure or always.")
RESTART_DELAY = words.Option(None, "--restart-delay", metavar="TIME", help="Wait that long before, as in 5s.")
DEVICE = words.Option([], "--device", metavar="/dev/NODE[:rwm]", help="Let it use a device of the host.")
CAPABILITY = words.Option(
    [], "--capability", "--cap-add", metavar="NAME", help="What its root may do beside the usual."
)
DROP_CAPABILITY = words.Option([], "--drop-capability", "--cap-drop", metavar="NAME", help="What its root may not do.")
CALLS = words.Option(
    [], "--system-call-filter", metavar="[~]CALL|@GROUP", help="System calls it may use beside the usual; with ~ not."
)
NESTING = words.Option(False, "--nesting", help="Let it run containers of its own: podman, docker.")  # noqa: FBT003
READ_ONLY = words.Option(False, "--read-only", help="Let nothing be written to its tree.")  # noqa: FBT003
VOLATILE = words.Option(
    None, "--volatile", metavar="WHAT", help="Forget at each stop all but /usr (yes), /var (state) or all (overlay)."
)
HEALTH = words.Option(
    None, "--health", metavar="KIND=TARGET[,KEY=VALUE]...", help="Probe it: http=80/, tcp=, unit=, file=, exec=."
)
ENVIRONMENT = words.Option([], "--env", "-e", metavar="NAME=VALUE", help="Put this into its environment.")
SECRET = words.Option(
    [], "--secret", metavar="NAME=credential:NAME|file:PATH", help="Give it this as a system credential."
)
TMPFS = words.Option([], "--tmpfs", metavar="PATH[:SIZE]", help="Keep this place of its tree in memory.")


def read_settings(given: Mapping[str, Any], errors: list[MachctlError]) -> dict[str, Any]:
    """Give the fields of a machine that were said something of; what is wrong goes into ``errors``."""
    said = {name: value for name, value in given.items() if value}
    if not said:
        return {}
    from machines.declare.keys import BY_NAME
    from machines.declare.machine import read_word

    found: dict[str, Any] = {}
    for name, value in said.items():
        key = BY_NAME[name.replace("_", "-")]
        try:
            if isinstance(value, list):
                items = [item for text in value for item in read_word(key, text)]
                found[name] = tuple(dict.fromkeys(items))
            else:
                found[name] = value if value is True else read_word(key, value)
        except MachctlError as error:
            errors.append(error)
    return found
