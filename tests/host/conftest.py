# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts that live as long as the tests do, each with the machine that machctl's main job made on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import HOSTS, KEEP, Host, Road, Roads


@pytest.fixture(scope="session", params=[name for name in HOSTS if name not in {"beside", "uplink"}])
def each_road(request: pytest.FixtureRequest, roads: Roads) -> Road:
    """Every kind of host, one after the other."""
    return roads.get(request.param)


@pytest.fixture
def road(each_road: Road) -> Road:
    """Every kind of host, its machine running."""
    return each_road.ready()


@pytest.fixture
def host(roads: Roads) -> Host:
    """The host of Debian 13, whatever its machine does."""
    return roads.get("trixie").host


@pytest.fixture
def debian(roads: Roads) -> Road:
    """The host of Debian 13, its machine running."""
    return roads.get("trixie").ready()


@pytest.fixture
def unchanged(debian: Road) -> Iterator[None]:
    """The host of Debian 13 is in the end what it was in the beginning, its machine running."""
    with debian.host.unchanged():
        yield
        debian.ready()


@pytest.fixture(scope="session")
def kept(roads: Roads) -> Iterator[str]:
    """A copy of the machine's tree on the host of Debian 13, to make other machines from without a bootstrap."""
    host = roads.get("trixie").host
    host.machctl("stop", "debian", status=None)
    kept = host.keep_tree("debian")
    yield kept
    if KEEP:
        host.drop_tree(kept)
