# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that errors lead to."""

from __future__ import annotations

DIRECTORY = "/etc/machctl/"
"""Where the declarations of this host are."""


def apply_command(origin: str, *words: str, verb: str = "apply") -> str:
    """Give the command that does ``verb`` by what the file ``origin`` declares: one that is not the host's is named."""
    from shlex import quote

    file = [] if not origin or origin.startswith(DIRECTORY) else ["-f", quote(origin)]
    return " ".join(["machctl", verb, *file, *words])
