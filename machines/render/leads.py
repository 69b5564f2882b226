# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the rules of the nft table lead what is asked over UDP, and which flows go on as rules of before had it.

The kernel asks the rules about the first packet of a flow only (nft(8), "nat"). What ends by itself with TCP goes on
over UDP for as long as a client keeps its port and asks again before the kernel forgets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from machines.model.flow import Flow
from machines.model.frozen import NamedTuple
from machines.render import paths

# As render.ports.verdict() and render.redirect have them; the chain that answers for the host's own resolver is none.
_CHAINS = ("add rule inet machctl prerouting ", "add rule inet machctl output ")
# Compiled where rules of before differ only.
_RULE = r"(?P<match>.*) udp dport (?P<first>\d+)(?:-(?P<last>\d+))? dnat (?P<family>ip6?) to (?P<to>.*)"
_ONE_ADDRESS = r"ip6? daddr (\S+)"
_PAIR = r"\d+ : (\S+) \. (\d+)"


class Lead(NamedTuple):
    """A rule: ports of an address, "" for all of the host's but loopback, lead to those of a machine from ``guest`` on.

    ``first`` and ``last`` are those of the host.
    """

    family: str
    address: str
    first: int
    last: int
    target: str
    guest: int


def udp_rules(files: Mapping[str, str]) -> str:
    """Give the rules among the files of the nft table that lead UDP to machines, in the order in which they count."""
    rules: dict[str, None] = {}
    for place in (paths.REDIRECT_DIRECTORY, paths.NAT_DIRECTORY):
        for path in sorted(path for path, text in files.items() if path.startswith(f"{place}/") and _leads(text)):
            lines = (line for line in files[path].splitlines() if line.startswith(_CHAINS) and _leads(line))
            rules |= {line.split(" ", 5)[5].partition(" comment ")[0]: None for line in lines}
    return "".join(f"{rule}\n" for rule in rules)


def _leads(text: str) -> bool:
    return "udp dport " in text and " dnat " in text


def is_settled(files: Mapping[str, str]) -> bool:
    """Tell whether no flow can be left that goes on as other rules had it: what was noted when they were loaded.

    A run may have been killed between the two. Where nothing was noted, nothing was led.
    """
    noted = files.get(paths.LED_FILE)
    return noted is None or noted == udp_rules(files)


def read_leads(rules: str) -> tuple[Lead, ...]:
    """Give what the rules say that udp_rules() gave."""
    return tuple(lead for lead in map(_read, rules.splitlines()) if lead is not None)


def _read(rule: str) -> Lead | None:
    found = re.fullmatch(_RULE, rule)
    if found is None:
        return None
    family, first, to = found["family"], int(found["first"]), found["to"]
    one = re.fullmatch(_ONE_ADDRESS, found["match"])
    pair = re.search(_PAIR, to)
    if pair is not None:
        target, guest = pair[1], pair[2]
    elif to.startswith("["):
        target, _, guest = to[1:].partition("]:")
    else:
        target, _, guest = to.partition(":") if family == "ip" else (to, "", "")
    return Lead(family, one[1] if one else "", first, int(found["last"] or first), target, int(guest or first))


def changed_ports(before: Iterable[Lead], now: Iterable[Lead]) -> dict[str, set[int]]:
    """Give the ports, by family, of which one of the two says what the other one does not."""
    ports: dict[str, set[int]] = {}
    for lead in set(before) ^ set(now):
        ports.setdefault(lead.family, set()).update(range(lead.first, lead.last + 1))
    return ports


def is_stale(flow: Flow, before: Iterable[Lead], now: Iterable[Lead]) -> bool:
    """Tell whether a flow goes where rules led it ``before`` that do not ``now``, or nowhere where now one leads it.

    What somebody else leads elsewhere is his.
    """
    wanted = _led(flow, now)
    if (flow.answers, flow.source) == (flow.asked, flow.port):
        return wanted is not None and wanted != _led(flow, before)
    return (flow.answers, flow.source) == _led(flow, before) != wanted


def _led(flow: Flow, leads: Iterable[Lead]) -> tuple[str, int] | None:
    """Give where a flow is led that begins now."""
    family = "ip6" if ":" in flow.asked else "ip"
    for lead in leads:
        if lead.family == family and lead.first <= flow.port <= lead.last and _is_asked(flow, lead):
            return lead.target, lead.guest + flow.port - lead.first
    return None


def _is_asked(flow: Flow, lead: Lead) -> bool:
    if lead.address:
        return lead.address == flow.asked
    # As render.ports has it of every address. What goes to a machine was led there, and so the host was asked.
    loopback = flow.asked == "::1" or flow.asked.startswith("127.")
    return not loopback and (flow.local or flow.answers != flow.asked)
