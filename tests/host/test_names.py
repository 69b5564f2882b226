# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines and their host find each other by name, with resolved and without, and the names go with the machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host, Roads, until

DOMAIN = "machctl.internal"
NAMES = ("web", f"web.{DOMAIN}")
OWN_LINE = "192.0.2.77 mine.example"


@pytest.fixture(scope="module", params=("trixie", "static"))
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host with a second machine on the bridge and a line of somebody in /etc/hosts; in the end as it was."""
    host = roads.get(request.param).ready().host
    hosts = host.read("/etc/hosts")
    host.write("/etc/hosts", f"{OWN_LINE}\n{hosts}")
    with host.only_debian():
        host.copy("web", "--start", "--wait", "ip")
        yield host
    host.write("/etc/hosts", hosts)


def addresses(said: str) -> set[str]:
    """Give the addresses that getent has printed."""
    return {line.split()[0] for line in said.splitlines()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["ahostsv4", "ahostsv6"])
def test_the_host_finds_a_machine(host: Host, name: str, family: str) -> None:
    found = addresses(host.sh(f"getent {family} {name}"))
    assert found & set(host.machine("web")["addresses"])
    assert any((":" in address) == (family == "ahostsv6") for address in found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["ahostsv4", "ahostsv6"])
def test_a_machine_finds_another(host: Host, name: str, family: str) -> None:
    def look() -> set[str]:
        return addresses(host.inside("debian", f"getent {family} {name}", status=None))

    # networkd tells resolved of a server once the link is configured.
    wanted = {address for address in host.machine("web")["addresses"] if (":" in address) == (family == "ahostsv6")}
    assert until(look, lambda found: bool(found & wanted), limit=10) & wanted


def test_a_machine_finds_its_host(host: Host) -> None:
    name = host.sh("hostname")
    assert addresses(host.inside("web", f"getent ahosts {name}"))


def test_a_machine_finds_names_of_the_world(host: Host) -> None:
    script = "grep -hom1 'http://[^/ ]*' /etc/apt/sources.list /etc/apt/sources.list.d/* | head -n 1"
    url = host.inside("debian", script)
    assert addresses(host.inside("web", f"getent ahostsv4 {url.removeprefix('http://')}"))


def test_other_lines_stay_and_the_names_go_with_the_machine(host: Host) -> None:
    assert OWN_LINE in host.read("/etc/hosts")
    host.machctl("stop", "web")
    # Its address is its own also while it is stopped.
    assert addresses(host.sh(f"getent ahostsv4 {NAMES[1]}"))
    host.machctl("rm", "web")
    assert "web" not in host.read("/etc/hosts")
    # resolved looks whether the file is another one every two seconds.
    assert until(lambda: host.sh(f"getent ahosts {NAMES[1]}", status=None), lambda said: not said, limit=5) == ""
    assert OWN_LINE in host.read("/etc/hosts")
    host.copy("web", "--start", "--wait", "ip")
