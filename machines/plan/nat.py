# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the kernel's nft tables are those that the files describe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from machines.render import paths
from machines.render.leads import is_settled

# What render.rules.stamped() puts to each rule; nft(8) prints the rest of it in words of its own.
_STAMP = r'comment "(\S+-[0-9a-f]{8})"'


def is_loaded(files: Mapping[str, str], table: str) -> bool:
    """Tell whether ``table``, as nft lists it, has just the rules of the files; "" is no table at all.

    Nor may a flow be left that follows rules of before.
    """
    places = (f"{paths.NAT_DIRECTORY}/", f"{paths.REDIRECT_DIRECTORY}/")
    texts = [text for path, text in files.items() if path.startswith(places)]
    if not table or not is_settled(files):
        return False
    return _stamps("\n".join([files.get(paths.NAT_FILE, ""), *texts])) == _stamps(table)


def _stamps(text: str) -> Counter[str]:
    return Counter(re.findall(_STAMP, text))
