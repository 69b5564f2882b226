# SPDX-License-Identifier: LGPL-2.1-or-later
"""What doctor says of NetworkManager: does it leave the links of machines alone?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER
from fakes import FakeHost
from machines.operations.doctor.look import HostLook
from machines.operations.doctor.manager import examine_network_manager
from machines.operations.execute import execute
from machines.operations.records import write_network
from machines.render import paths
from samples import NETWORK


class Managing(FakeHost):
    """A host with NetworkManager, on which br0 has a machine's link in it; ``states`` is what it says of its links."""

    def __init__(self, **states: str) -> None:
        super().__init__()
        self.states = states
        self.active.add("NetworkManager.service")
        self.files.texts[paths.network_record("br0")] = write_network(NETWORK)

    def _run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        links = [{"ifindex": 3, "ifname": "br0"}, {"ifindex": 4, "ifname": "vb-web", "master": "br0"}]
        links.append({"ifindex": 2, "ifname": "eth0"})
        lines = [f"{name.replace('_', '-')}:{state}" for name, state in self.states.items()]
        text = "\n".join(lines) if argv[0] == "nmcli" else json.dumps(links)
        return SimpleNamespace(returncode=0, stdout=text, stderr="")


def test_what_is_left_alone_is_well() -> None:
    (finding,) = examine_network_manager(HostLook(Managing(br0="unmanaged", vb_web="unmanaged", eth0="connected")))
    assert finding.level == "ok"


@pytest.mark.parametrize("managed", ["br0", "vb_web"])
def test_what_it_manages_is_named_and_it_is_told(managed: str) -> None:
    host = Managing(**{"br0": "unmanaged", "vb_web": "unmanaged", managed: "connected (externally)"})
    (finding,) = examine_network_manager(HostLook(host))
    assert finding.level == "warning"
    assert finding.message.startswith(f"NetworkManager manages {managed.replace('_', '-')}, ")
    asyncio.run(execute(list(finding.fix), host, reporter=REPORTER))
    assert "interface-name:=br0" in host.files.texts[paths.unmanaged_file("br0")]
    assert host.done == ["reload NetworkManager.service"]


def test_nobody_asks_where_it_does_not_run() -> None:
    host = Managing(br0="connected")
    host.active.clear()
    assert examine_network_manager(HostLook(host)) == []
