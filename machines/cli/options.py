# SPDX-License-Identifier: LGPL-2.1-or-later
"""The global flags, which may stand before the verb or after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

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


def hoist(
    words: Sequence[str], verbs: Collection[str], options_of: Callable[[str], Mapping[str, bool]] = lambda verb: {}
) -> list[str]:
    """Give the words with the global flags in front of the verb, where click wants them.

    So it does the options of a verb that passes a command on: those behind the machine are put in front of it where a
    "--" ends them. ``options_of`` tells of the options of such a verb whether they take a value. Raises InvalidValue.
    """
    words = _options_first(words, verbs, options_of)
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
        elif verb in _PASSING and options_of(verb).get(word):
            # What is given with it is not the machine.
            rest += words[index : index + 2]
            index += 1
        else:
            rest.append(word)
            if not word.startswith("-"):
                positionals += bool(verb)
                verb = verb or (word if word in verbs else "")
        index += 1
    return front + rest


def _options_first(
    words: Sequence[str], verbs: Collection[str], options_of: Callable[[str], Mapping[str, bool]]
) -> Sequence[str]:
    """Put options that stand between a machine and the "--" of its command in front of the machine."""
    verb = _skip(words, 0, _VALUED)
    if "--" not in words or verb >= len(words) or words[verb] not in _PASSING or words[verb] not in verbs:
        return words
    options = options_of(words[verb])
    taking = _VALUED.union(option for option, takes in options.items() if takes)
    name = _skip(words, verb + 1, taking)
    end = words.index("--")
    # A command that has begun may have a "--" of its own.
    if end <= name or not words[name + 1].startswith("-"):
        return words
    behind = _skip(words, name + 1, taking)
    between = [word.partition("=")[0] for word in words[name + 1 : behind]]
    # What click does not know it says first, and what it may have been meant for.
    unknown = [word for word in between if word.startswith("--") and word not in {*options, *_FLAGS, *_VALUED}]
    if behind < end and not unknown:
        raise InvalidValue(
            f"{words[behind]!r} is no option of {words[verb]}, and stands before the --",
            hint="the command and its words follow the --",
        )
    if behind > end:
        raise InvalidValue(f"{words[end - 1]} wants a value before the --")
    return [*words[:name], *words[name + 1 : end], words[name], *words[end:]]


def _skip(words: Sequence[str], index: int, valued: Collection[str]) -> int:
    """Give where the first word from ``index`` on is that is no option and no value of one, or is "--"."""
    while index < len(words) and words[index] not in {"-", "--"} and words[index].startswith("-"):
        word = words[index]
        # Of letters in one word the first that takes a value has the rest of it, or the next word.
        letters = [] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
        taking = next((place for place, letter in enumerate(letters, 1) if letter in valued), 0)
        index += 2 if word in valued or (taking and taking == len(letters)) else 1
    return index
