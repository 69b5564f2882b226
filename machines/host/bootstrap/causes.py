# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a bootstrap failed, read from the last lines the tool printed; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from machines.errors import CommandFailed
from machines.host.interfaces import BootstrapRequest
from machines.model.frozen import dataclass


@dataclass(frozen=True)
class Cause:
    """A pattern that gives a cause away, the cause in words and its remedy.

    ``{0}`` is the first group of the pattern that matched, of the first line it did or with ``several`` of all;
    the other fields come from the request.
    """

    pattern: re.Pattern[str]
    message: str
    remedy: str
    several: bool = False


def cause(pattern: str, message: str, remedy: str, *, several: bool = False) -> Cause:
    """Give the Cause of a pattern in words."""
    return Cause(re.compile(pattern, re.IGNORECASE), message, remedy, several)


KEYRING = "install the distribution's current keyring package, or name the right keyring"
_NETWORK = "check the network, the proxy settings and the mirror's address"
_SUITE = "check the spelling of the suite, and that the mirror carries it"

SPELLING = "check the spelling of the package names"

NO_SPACE = ("no space left in {target}", "make room there and try again")

HOST = (
    cause(
        r"No space left on device|not enough free (?:disk )?space|Disk quota exceeded",
        *NO_SPACE,
    ),
    cause(r"Read-only file system", "{target} is read-only", "choose a place that can be written to"),
    cause(
        r"mounted with noexec or nodev",
        "{target} is mounted read-only, noexec or nodev",
        "choose a place that is mounted with exec and dev",
    ),
)
"""What is wrong with the place for the tree, whatever the tool."""

NETWORK = (
    cause(
        r"(?:Could not resolve(?: host)?(?=:| ')|Temporary failure resolving|Name or service not known|"
        r"unable to resolve host address)[ :]*\W?([\w.-]*)",
        "the mirror's name cannot be resolved: {0}",
        _NETWORK,
    ),
    cause(
        r"((?:Could not connect to|Unable to connect to|Failed to connect to) .*)|(Connection refused|"
        r"Connection timed out|Connection failed|No route to host|Network is unreachable)",
        "the mirror cannot be reached: {0}",
        _NETWORK,
    ),
    cause(
        r"(Certificate verification failed.*|certificate .*not trusted.*|unable to get local issuer.*)",
        "the mirror's certificate is not trusted",
        "install ca-certificates and check the host's clock",
    ),
)
"""Why a mirror cannot be asked, as apt-get(8), wget(1) and libcurl(3) say it."""

CAUSES = (
    *HOST,
    cause(
        r"Failed to fetch (\S+ +(?:40[0-35-9]|4[1-9]\d|5\d\d) .*?)(?: \[IP.*)?$",
        "the mirror refuses what is asked of it: {0}",
        "check the mirror's address",
    ),
    cause(
        r"(?:NO_PUBKEY|unknown key \(key id|Missing key) ?([0-9A-F]{8,})",
        "the release of {suite} is signed by a key that is not in the keyring ({0})",
        KEYRING,
    ),
    cause(
        r"(?:BADSIG|Invalid Release signature|Bad signature)",
        "the signature of the release of {suite} is wrong",
        "the mirror may be broken or tampered with: try another one",
    ),
    cause(
        r"EXPKEYSIG|KEYEXPIRED|REVKEYSIG|signed by (?:an )?(?:expired|revoked) key|key .*expired",
        "the release of {suite} is signed by a key that has expired or was revoked",
        KEYRING,
    ),
    cause(
        r"Release file .*(?:is expired|not valid (?:yet|anymore))",
        "the release file of {suite} is outside its time of validity",
        "check the host's clock, or try another mirror",
    ),
    cause(
        r"Failed getting release signature|is not signed|NODATA|Error executing gpgv|no valid OpenPGP",
        "the release of {suite} has no signature that could be checked",
        KEYRING,
    ),
    *NETWORK,
    cause(
        r"does not have a Release file|No such script: |Unable to find .*Release file|"
        r"Invalid Release file, no entry",
        "the suite {suite} is not known at {mirror}",
        _SUITE,
    ),
    cause(
        r"Failed getting release file (\S+)",
        "no release file of the suite {suite} could be got ({0})",
        "the mirror cannot be reached, or it has no such suite",
    ),
    cause(
        r"(?:Unable to locate package|Couldn't find these debs:|Couldn't find any package by \S+) ?'?([^']+)",
        "unknown package in {suite}: {0}",
        SPELLING,
        several=True,
    ),
    cause(
        r"Package '?([^\s']+)'? has no installation candidate",
        "unknown package in {suite}: {0}",
        SPELLING,
        several=True,
    ),
    cause(
        r"(?:E: Failed to fetch|Couldn't download|Couldn't retrieve) (.*)",
        "a package could not be fetched: {0}",
        "try again, or try another mirror",
    ),
    cause(r"404 +Not Found", "the suite {suite} is not known at {mirror}", _SUITE),
)
"""Of Debian's tools, in the order of asking: a full disk or a refused key makes errors of the later kinds as well."""

# Lines by which a tool only says that something it called has failed.
_ECHO = re.compile(r"^E: .* failed(?: to run)?$|^[WIN]: |^\+ |^$|^==> |^Errors occurred, ")


def explain(
    lines: Sequence[str], request: BootstrapRequest, *, tool: str, causes: Sequence[Cause] = CAUSES
) -> CommandFailed:
    """Give the error for a ``tool`` that failed with ``lines`` last: its cause, remedy and the log's path."""
    message, remedy = _diagnose(lines, request, causes)
    wanted = f"{request.distribution} {request.suite}".strip()
    hint = "; ".join(filter(None, (remedy, f"the full log is {request.log}")))
    return CommandFailed(f"{tool} could not make a tree of {wanted}: {message}", hint=hint)


def _diagnose(lines: Sequence[str], request: BootstrapRequest, causes: Sequence[Cause]) -> tuple[str, str]:
    words = {
        "suite": request.suite,
        "mirror": request.mirror or "the default mirror",
        "target": str(request.target.parent),
    }
    for each in causes:
        if matches := [found for line in lines if (found := each.pattern.search(line))]:
            said = [next((group for group in found.groups() if group), "").strip(" .") for found in matches]
            named = dict.fromkeys(said if each.several else said[:1])
            return each.message.format(", ".join(named), **words), each.remedy
    other = [line.strip() for line in lines if not _ECHO.search(line)]
    errors = [line for line in other if re.match(r"E: |dpkg: error|.*\berror\b", line, re.IGNORECASE)]
    return (re.sub(r"^(?:E|error): ", "", (errors or other or ["it printed nothing"])[-1], flags=re.IGNORECASE), "")
