# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where root trees come from: the SOURCE of ``machctl create``."""

from __future__ import annotations

from dataclasses import dataclass

from machines.errors import InvalidValue

# The code names rather than their aliases are kept, so that a machine made today and one made from the same
# declaration after the next release are the same.
DEBIAN_SUITES = {
    "bullseye": "bullseye",
    "bookworm": "bookworm",
    "trixie": "trixie",
    "forky": "forky",
    "sid": "sid",
    "oldstable": "bookworm",
    "stable": "trixie",
    "testing": "forky",
    "unstable": "sid",
}

PLANNED = ("ubuntu", "arch", "fedora", "tar", "raw", "oci", "dir", "image", "machine")


@dataclass(frozen=True)
class Source:
    """A distribution to bootstrap: ``debian`` in one of its suites."""

    distribution: str
    suite: str

    def __str__(self) -> str:
        return f"{self.distribution}:{self.suite}"


def parse_source(text: str, *, any_suite: bool = False) -> Source:
    """Read ``debian`` or ``debian:SUITE``; ``any_suite`` takes suites machctl has not heard of (for --mirror).

    Raises InvalidValue, which tells a source that is planned from one that is unknown.
    """
    kind, _, suite = text.partition(":")
    if kind in PLANNED:
        raise InvalidValue(f"source {kind!r} is not supported yet", hint="use debian or debian:SUITE")
    if kind != "debian":
        raise InvalidValue(f"{text!r} is not a source", hint="use debian or debian:SUITE, as in debian:trixie")
    if text == "debian":
        suite = "stable"
    known = DEBIAN_SUITES.get(suite)
    if known:
        return Source("debian", known)
    if any_suite and suite and all(c.isalnum() or c in "-._" for c in suite) and suite[0].isalnum():
        return Source("debian", suite)
    raise InvalidValue(
        f"Debian has no suite {suite!r}",
        hint=f"use one of {', '.join(DEBIAN_SUITES)}; any other needs the --mirror that has it",
    )
