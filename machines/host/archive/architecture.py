# SPDX-License-Identifier: LGPL-2.1-or-later
"""What OCI calls this host's processor."""

from __future__ import annotations

import os

from machines.model.request import oci_architecture


def architecture() -> str:
    """Give the host's architecture as OCI has it: amd64, arm64, ..."""
    return oci_architecture(os.uname().machine)
