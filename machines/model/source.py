# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where root trees come from: the SOURCE of ``machctl create``."""

from __future__ import annotations

import re

from machines.errors import InvalidValue
from machines.model.frozen import dataclass

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
UBUNTU_SUITES = ("jammy", "noble", "plucky", "questing", "resolute")
UBUNTU_LTS = "noble"

BOOTSTRAPPED = ("debian", "ubuntu", "arch", "fedora")
"""Sources that a distribution's own tool makes a tree of."""

REMOTE = ("http://", "https://")

FORMS = (
    "use debian, debian:SUITE, ubuntu:SUITE, arch, fedora:N, tar:PATH|URL, raw:PATH|URL, oci:PATH|REFERENCE, dir:PATH, "
    "image:NAME or machine:NAME, as in debian:trixie"
)
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# As the registries' grammar has it, loosely: it becomes one word of skopeo's command line and nothing else.
_REGISTRY = r"[A-Za-z0-9][A-Za-z0-9._:/@-]*"
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_SUFFIXES = r"\.(?:tar|tgz|txz|tbz2?|gz|xz|zst|bz2|raw|img|oci)$"


@dataclass(frozen=True)
class Source:
    """A ``kind`` of source and what of it: a suite, a release, a path, a URL, a name; arch has none."""

    kind: str
    reference: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.reference}" if self.reference else self.kind

    @property
    def bootstrapped(self) -> bool:
        """Whether a distribution's own tool makes it, signatures checked."""
        return self.kind in BOOTSTRAPPED

    @property
    def path(self) -> str | None:
        """The file or directory of this host that it is, if it is one."""
        return self.reference if self.kind in {"tar", "raw", "oci", "dir"} and self.reference[:1] == "/" else None

    @property
    def remote(self) -> bool:
        """Whether it is fetched from a URL, which says nothing of what it gives."""
        return self.reference.startswith(REMOTE)

    def machine_name(self) -> str | None:
        """Give the name a machine made of it has if nobody says another, None where none comes to mind."""
        if self.bootstrapped:
            return self.kind
        if self.kind in {"image", "machine"}:
            return None
        word = self.reference.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
        if self.kind == "oci" and self.path is None:
            word = word.split(":")[0]
        while (shorter := re.sub(_SUFFIXES, "", word)) != word:
            word = shorter
        return re.sub(r"[^a-z0-9.-]+", "-", word.lower()).strip(".-") or None


def parse_source(text: str, *, any_suite: bool = False) -> Source:
    """Read a source; ``any_suite`` takes suites machctl has not heard of (for --mirror). Raises InvalidValue."""
    kind, colon, reference = text.partition(":")
    match kind:
        case "debian":
            return Source("debian", _debian(reference if colon else "stable", any_suite=any_suite))
        case "ubuntu":
            return Source("ubuntu", _ubuntu(reference if colon else UBUNTU_LTS, any_suite=any_suite))
        case "arch" if not colon:
            return Source("arch")
        case "arch":
            raise InvalidValue("Arch has no releases to choose from", hint="use arch")
        case "fedora":
            if not re.fullmatch(r"[1-9][0-9]{1,2}|rawhide", reference):
                raise InvalidValue(f"{reference!r} is not a release of Fedora", hint="use fedora:N, as in fedora:42")
            return Source("fedora", reference)
        case "tar" | "raw" | "dir":
            return Source(kind, _file(kind, reference))
        case "oci":
            return Source("oci", _file(kind, reference) if reference.startswith("/") else _registry(reference))
        case "image" | "machine":
            if not re.fullmatch(_IMAGE, reference):
                raise InvalidValue(f"{reference!r} is not the name of a{'n' * (kind == 'image')} {kind}", hint=FORMS)
            return Source(kind, reference)
        case _:
            raise InvalidValue(f"{text!r} is not a source", hint=FORMS)


def _debian(suite: str, *, any_suite: bool) -> str:
    known = DEBIAN_SUITES.get(suite)
    if known or (any_suite and re.fullmatch(_WORD, suite)):
        return known or suite
    raise InvalidValue(
        f"Debian has no suite {suite!r}",
        hint=f"use one of {', '.join(DEBIAN_SUITES)}; any other needs the --mirror that has it",
    )


def _ubuntu(suite: str, *, any_suite: bool) -> str:
    if suite in UBUNTU_SUITES or (any_suite and re.fullmatch(_WORD, suite)):
        return suite
    raise InvalidValue(
        f"Ubuntu has no suite {suite!r}",
        hint=f"use one of {', '.join(UBUNTU_SUITES)}; any other needs the --mirror that has it",
    )


def _file(kind: str, reference: str) -> str:
    if kind in {"tar", "raw"} and reference.startswith(REMOTE):
        if re.fullmatch(r"https?://[^\s\]\[<>\"'\\]+", reference):
            return reference
        raise InvalidValue(f"{reference!r} is not a URL", hint=FORMS)
    if not reference.startswith("/") or not reference.isprintable() or ".." in reference.split("/"):
        raise InvalidValue(f"{kind}: {reference!r} is not an absolute path", hint=f"as in {kind}:/srv/{kind}")
    return reference.rstrip("/") or "/"


def _registry(reference: str) -> str:
    if not re.fullmatch(_REGISTRY, reference):
        raise InvalidValue(
            f"{reference!r} is neither a path nor a reference of a registry",
            hint="as in oci:/srv/images/web or oci:registry.example/nginx:1.27",
        )
    return reference
