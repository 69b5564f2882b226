# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports that come and go on a running machine leave those that stay alone, and nothing behind."""

from __future__ import annotations

import json
import sys

import pytest

import lan
from throwaway import Road

OPERATIONS = 500
GUEST_PORT = 7000
STAYS = 7300
COME_AND_GO = 7310


def test_five_hundred_operations_lose_no_connection(debian: Road, capsys: pytest.CaptureFixture[str]) -> None:
    host = debian.host
    stays = (f"{STAYS}:{GUEST_PORT}", f"{STAYS}:{GUEST_PORT}/udp")
    cells = [
        cell for cell in lan.cells("bridge", STAYS)
        if cell["id"].split()[2] in {"lan", "localhost"} and cell["id"] != "bridge ipv6 localhost udp"
    ]  # fmt: skip
    lan.put(host, "probe.py", "churn.py")
    with host.unchanged(), lan.lan(host):
        host.machctl("publish", "debian", *stays)
        with host.unchanged():
            words = ("python3", "-B", "/root/churn.py", "debian", GUEST_PORT, OPERATIONS, COME_AND_GO)
            told = host.run(*map(str, words), stdin=json.dumps(cells), timeout=300).json()
        host.machctl("unpublish", "debian", *stays)
    with capsys.disabled():
        sys.stdout.write(
            "\n{operations} publish and unpublish in {seconds:.0f} s, {median:.3f} s each; beside them {connections} "
            "connections and {asked} questions on those kept, {lost} lost\n".format(**told)
        )
    assert not told["failed"], f"{told['failed'][:5]}\n{told['said']}"
    assert not told["wrong"]
    assert told["connections"] > OPERATIONS
