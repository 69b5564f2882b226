# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an apply left that ended in the middle, as a host that went down does it, is done when the host is up again.

machctl-apply.service does that before machines start, and machctl-apply-later.service bootstraps and fetches what some
of them are made of, once the network is up; then it has the first go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.declare.fleet import DECLARATIONS
from machines.errors import MachctlError, NotFound
from machines.operations.applying import apply, left_for_later, look_for_bases, make_bases
from machines.operations.reporter import Reporter
from machines.operations.unfinished import Unfinished, write_unfinished
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

UNIT = "machctl-apply.service"
LATER_UNIT = "machctl-apply-later.service"


def check_there(unfinished: Unfinished, host: Host) -> None:
    """Raise NotFound where the file that was applied is not there: what it declared would count as no longer wanted."""
    if unfinished.declarations == DECLARATIONS:
        return
    for path in unfinished.declarations:
        if host.files.read_text(path) is None:
            raise NotFound(
                f"{path} is not there, of which an apply did not come to its end",
                hint="put it where it outlives a restart of this host, and run: machctl apply -f FILE",
            )


async def resume(
    unfinished: Unfinished, host: Host, reporter: Reporter, *, wait: bool = False
) -> dict[str, MachctlError]:
    """Go on with an apply that did not come to its end; give the errors of machines that failed.

    Unless it is to ``wait``, machines are told to start and not waited for: they are ordered behind this.
    """
    check_there(unfinished, host)
    names, wishes = unfinished.names, unfinished.wishes
    missing = left_for_later(look_for_bases(names, host, wishes)[1], host)
    _, failed = await apply(names, host, reporter, wishes._replace(wait=wait, no_bases=True))
    if missing:
        write_unfinished(names, wishes, host)
        host.units.start(LATER_UNIT)
    return {name: error for name, error in failed.items() if name not in missing}


async def resume_later(unfinished: Unfinished, host: Host, reporter: Reporter) -> dict[str, MachctlError]:
    """Make what the machines are made of that had to wait for the network; give the errors of those it failed for."""
    check_there(unfinished, host)
    missing = look_for_bases(unfinished.names, host, unfinished.wishes)[1]
    later = {name: missing[name] for name in left_for_later(missing, host)}
    made, failed = await make_bases(later, host, reporter)
    if made:
        host.units.start(UNIT)
    else:
        # Whoever comes after this is told by apply what is wrong, and when the host comes up the next time too.
        host.files.remove_file(paths.APPLYING_FILE)
    return failed
