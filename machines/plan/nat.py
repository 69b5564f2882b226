# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the kernel's nft table is the one that the files describe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from machines.render import paths

# What of a rule nft(8) prints as it was written; it leaves out what the rest implies.
_PORT = re.compile(r"(?:ip daddr (\d\S+) )?tcp dport (\d+) dnat ip to (\S+)")
_SUBNET = re.compile(r"ip saddr (\S+) ip daddr (?:!= )?\S+ (ct status dnat )?masquerade")


def is_loaded(files: Mapping[str, str], table: str) -> bool:
    """Tell whether ``table``, as nft lists it, has just the rules of the files; "" is no table at all."""
    written = "\n".join(text for path, text in files.items() if path.startswith(f"{paths.NAT_DIRECTORY}/"))
    return bool(table) and _rules(written) == _rules(table)


def _rules(text: str) -> Counter[tuple[str, ...]]:
    return Counter([*_PORT.findall(text), *_SUBNET.findall(text)])
