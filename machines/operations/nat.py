# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loading the nft table, with what the kernel has to forget for its rules to count."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from machines.errors import MachctlError
from machines.operations.reporter import Reporter
from machines.render import paths
from machines.render.leads import changed_ports, is_stale, read_leads, udp_rules

if TYPE_CHECKING:
    from machines.host.interfaces import Host

_RULES = (f"{paths.REDIRECT_DIRECTORY}/*.nft", f"{paths.NAT_DIRECTORY}/*.nft")
# "table" before "delete table": deleting one that is not there would be an error (nft(8)).
_DROP = "".join(f"table {family} machctl\ndelete table {family} machctl\n" for family in ("inet", "bridge"))


def load_nat(host: Host, reporter: Reporter, *, drop: bool) -> None:
    """Load the nft table from its files, or ``drop`` it, and end the flows of UDP that its rules lead elsewhere now.

    One at a time: what flows may follow is what the last one noted. Raises MachctlError with what nft says.
    """
    noted = host.files.read_text(paths.LED_FILE) or ""
    if drop:
        rules = ""
        host.tools.run(["nft", "-f", "-"], input=_DROP)
    else:
        # Before nft reads them: who changes them meanwhile loads them as well, and compares with what is noted here.
        rules = udp_rules(host.files.read_files(_RULES))
        host.tools.run(["nft", "-f", paths.NAT_FILE])
    if rules == noted:
        return
    before, now = read_leads(noted), read_leads(rules)
    try:
        host.links.drop_flows(changed_ports(before, now), partial(is_stale, before=before, now=now))
    except MachctlError as error:
        reporter.warn(f"who asks over UDP all the time may be answered as before: {error}")
    # Last: as long as it is another one, a run that was killed before it is made up for.
    if rules:
        host.files.write_file(paths.LED_FILE, rules)
    else:
        host.files.remove_file(paths.LED_FILE)
