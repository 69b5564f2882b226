# SPDX-License-Identifier: LGPL-2.1-or-later
"""The global flags, which may stand before the verb or after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from machines.errors import InvalidValue
from machines.model.frozen import NamedTuple

FORMATS = ("table", "wide", "json", "yaml", "csv", "name")
_FLAGS = {"--json", "--quiet", "-q", "--verbose", "--dry-run", "--yes", "-y", "--no-legend", "--debug"}
_VALUED = {"--output", "-o", "--timeout", "--color"}
# Behind the machine's name the words of these belong to the guest.
_PASSING = {"exec", "shell", "run"}


class Options(NamedTuple):
    """The global flags as they were given."""

    output: str = "table"
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False
    yes: bool = False
    timeout: float | None = None
    legend: bool = True
    color: str = "auto"
    debug: bool = False

    @classmethod
    def checked(cls, **values: object) -> Options:
        """Give the options. Raises InvalidValue for a format or a colour mode that there is none of."""
        options = cls(**values)  # type: ignore[arg-type]
        if options.output not in FORMATS:
            raise InvalidValue(f"{options.output!r} is not an output format", hint=f"use one of {', '.join(FORMATS)}")
        if options.color not in {"auto", "always", "never"}:
            raise InvalidValue(f"{options.color!r} is no colour mode", hint="use auto, always or never")
        if options.timeout is not None and not 0 < options.timeout < 1e9:
            raise InvalidValue(f"{options.timeout:g} is no time to wait for", hint="give seconds above 0")
        return options


def hoist(words: Sequence[str], verbs: Collection[str]) -> list[str]:
    """Give the words with the global flags in front of the verb, where click wants them."""
    front: list[str] = []
    rest: list[str] = []
    index, verb, positionals = 0, "", 0
    while index < len(words):
        word = words[index]
        if word == "--" or (verb in _PASSING and positionals):
            rest += words[index:]
            break
        name, equals, _ = word.partition("=")
        if word in _FLAGS or (name in _VALUED and equals):
            front.append(word)
        elif word in _VALUED and index + 1 < len(words):
            front += words[index : index + 2]
            index += 1
        else:
            rest.append(word)
            if not word.startswith("-"):
                positionals += bool(verb)
                verb = verb or (word if word in verbs else "")
        index += 1
    return front + rest
