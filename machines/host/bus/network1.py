# SPDX-License-Identifier: LGPL-2.1-or-later
"""networkd, org.freedesktop.network1(5)."""

from __future__ import annotations

from machines.host.bus._sdbus import BusError, open_host

SERVICE = "org.freedesktop.network1"
PATH = "/org/freedesktop/network1"
MANAGER = SERVICE + ".Manager"


def reload() -> None:
    """Have networkd read its .netdev and .network files again (Reload).

    It makes bridges that are new and leaves those whose files have gone. Raises Unsupported where it does not run.
    """
    bus = open_host()
    try:
        bus.call(SERVICE, PATH, MANAGER, "Reload")
    except BusError as error:
        raise error.translated(doing="reload systemd-networkd", service=SERVICE) from None
    finally:
        bus.close()
