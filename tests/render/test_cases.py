# SPDX-License-Identifier: LGPL-2.1-or-later
"""A case is a fleet file with what its host adds, and the tree of files it becomes.

``tests/run unit --regen tests/render`` writes the trees; what git then shows is what has to be judged. A new case is a
new file: what stands above the line SPLIT is a fleet file, what stands below is the host.
"""

from __future__ import annotations

import ipaddress
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from machines.declare.fleet import parse_fleet
from machines.model.base import Payload
from machines.model.network import Network
from machines.model.settings import Node
from machines.render.machine import render_machine
from machines.render.networks import render_bridge
from machines.render.placement import Placement

CASES = Path(__file__).parent / "cases"
SPLIT = "# ---- the host ----\n"


def rendered(case: Path) -> dict[str, str]:
    """Give every file that a case's machines become: path to text, those in a machine's tree under /tree/NAME."""
    fleet, _, host = case.read_text().partition(SPLIT)
    machines, errors = parse_fleet({"/etc/machctl/fleet.toml": fleet})
    assert not errors, [error.message for error in errors]
    facts = tomllib.loads(host)
    networks = {name: read_network(name, found) for name, found in facts.get("networks", {}).items()}
    files: dict[str, str] = {}
    for name, machine in machines.items():
        placement = Placement(
            networks={bridge: networks[bridge] for bridge in machine.networks if bridge in networks},
            addresses=facts.get("addresses", {}).get(name, {}),
            addresses6=facts.get("addresses6", {}).get(name, {}),
            dns=tuple(facts.get("dns", ())),
            idmap_paths=frozenset(facts.get("idmap-paths", ())),
            ipv6_loopback=facts.get("ipv6-loopback", True),
            networkd=facts.get("networkd", True),
            storage=facts.get("storage", ""),
            uid=facts.get("uids", {}).get(name),
            payload=payload(facts["payloads"][name]) if name in facts.get("payloads", {}) else None,
            secrets=facts.get("secrets", {}),
            devices={
                path: Node("char", open=words == "open")
                for words in ("open", "shut")
                for path in facts.get(f"{words}-devices", ())
            },
        )
        files |= render_machine(machine, placement)
        for network in placement.networks.values():
            files |= render_bridge(
                network,
                networkd=placement.networkd,
                dns=placement.dns,
                local_dns=facts.get("local-dns", ""),
                network_manager=facts.get("network-manager", False),
            )
    return files


def read_network(name: str, found: str | dict[str, Any]) -> Network:
    """Read a network: its subnet, or a table of what it has."""
    values = {"subnet": found} if isinstance(found, str) else found
    six = values.get("subnet6")
    return Network(
        name,
        ipaddress.IPv4Network(values["subnet"]),
        ipaddress.IPv6Network(six) if six else None,
        mtu=values.get("mtu"),
        kind=values.get("kind", "bridge"),
    )


def payload(values: dict[str, Any]) -> Payload:
    """Read what a tree without an init runs."""
    return Payload(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@pytest.mark.parametrize("case", sorted(CASES.glob("*.toml")), ids=lambda path: path.stem)
def test_case(case: Path, request: pytest.FixtureRequest) -> None:
    expected = case.with_suffix(".expected")
    found = rendered(case)
    if request.config.getoption("--regen"):
        shutil.rmtree(expected, ignore_errors=True)
        for path, text in found.items():
            file = expected / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    wanted = {f"/{file.relative_to(expected)}": file.read_text() for file in expected.rglob("*") if file.is_file()}
    assert sorted(found) == sorted(wanted)
    for path in found:
        assert found[path] == wanted[path], path


def test_every_tree_has_its_case() -> None:
    assert {path.stem for path in CASES.glob("*.expected")} == {path.stem for path in CASES.glob("*.toml")}
