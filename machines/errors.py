# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one error type of machctl and its few kinds; only cli/ turns them into output and an exit status."""

from __future__ import annotations

from collections.abc import Sequence


class MachctlError(Exception):
    """Something could not be done.

    ``message`` is one line that names the thing and what was wanted of it, ``hint`` says how to go on, and
    ``exit_code`` is the status machctl ends with.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class InvalidValue(MachctlError):
    """A word that was typed is not a value of its kind."""

    exit_code = 2


class NotRunning(MachctlError):
    """The machine has to be running for this."""

    exit_code = 3


class NotFound(MachctlError):
    """There is no machine or image of that name."""

    exit_code = 4


class Conflict(MachctlError):
    """What was asked for exists already or is in use."""

    exit_code = 5


class NotPermitted(MachctlError):
    """The caller may not do this."""

    exit_code = 6


class Unsupported(MachctlError):
    """The host lacks a tool, a service or a systemd version."""

    exit_code = 7


class InvalidFile(MachctlError):
    """A declaration file does not say what it may say."""

    exit_code = 8


class CommandFailed(MachctlError):
    """A tool that machctl ran ended with an error."""


class Canceled(CommandFailed):
    """A job of systemd's ended because another of the same unit took its place."""


class StartedTooOften(CommandFailed):
    """systemd refused to start a unit, as it had been started a few times just before (StartLimitBurst=)."""


class TimedOut(MachctlError):
    """The time limit of the caller ran out."""

    exit_code = 124


class Several(MachctlError):
    """More than one thing is wrong; each is an error of its own, in the order they were found."""

    def __init__(self, errors: Sequence[MachctlError], *, exit_code: int | None = None) -> None:
        codes = {error.exit_code for error in errors}
        super().__init__(
            "; ".join(error.message for error in errors),
            exit_code=exit_code if exit_code is not None else (codes.pop() if len(codes) == 1 else 1),
        )
        self.errors = tuple(errors)


def raise_all(errors: Sequence[MachctlError]) -> None:
    """Raise what ``errors`` holds: nothing, the one error, or all of them together."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Several(errors)
