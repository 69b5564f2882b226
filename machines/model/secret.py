# SPDX-License-Identifier: LGPL-2.1-or-later
"""A secret that a machine is given: never itself, only where it is kept."""

from __future__ import annotations

from machines.model.frozen import dataclass

SEALED_DIRECTORY = "/etc/machctl/secrets.encrypted"
PLAIN_DIRECTORY = "/etc/machctl/secrets"
"""Not in /etc/credstore: units of the host itself take what they find there (systemd.exec(5), ImportCredential=)."""

SIZE_MAX = 1024 * 1024
"""The most that all credentials of a unit may have together (CREDENTIALS_TOTAL_SIZE_MAX of systemd)."""


@dataclass(frozen=True)
class Secret:
    """The system credential ``name`` of a machine (systemd-creds(1)).

    ``kind`` is "file" for what stands in the file ``reference``, "credential" for what ``machctl secret set`` sealed
    under that name.
    """

    name: str
    kind: str
    reference: str

    @property
    def id(self) -> str:
        """What the machine's unit calls it: a sealed one opens under the name that it was sealed with alone."""
        return self.reference if self.kind == "credential" else f"{self.name}@file"

    def __str__(self) -> str:
        return f"{self.kind}:{self.reference}"
