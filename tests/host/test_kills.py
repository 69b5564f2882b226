# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl is killed at random moments; afterwards gc and apply leave machines that are whole, and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from throwaway import MAIN_JOB, Roads

INSIDE = Path(__file__).parents[1] / "inside"
SEED = os.environ.get("MACHCTL_TESTS_SEED", "1")

BATCHES = 12
"""Each kills every operation once: with two hosts that makes more than 200."""

SOURCE = ("debian", "--package", MAIN_JOB[MAIN_JOB.index("--package") + 1])
"""What the machine of every host was made of: its base is there."""


@pytest.mark.parametrize("name", ["trixie", "static"])
def test_kills_leave_machines_whole_or_gone(roads: Roads, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    road = roads.get(name)
    host = road.host
    for script in ("inventory.py", "rounds.py"):
        host.write(f"/root/kills/{script}", (INSIDE / script).read_text())
    with host.unchanged():
        words = ("python3", "-B", "/root/kills/rounds.py", SEED, str(BATCHES), *SOURCE)
        told = host.run(*words, timeout=900).json()
    host.sh("rm -rf /root/kills*")
    rows = [
        "{operation:18} {kills:5} {finished:8} {whole:5} {gone:4} {cleaned:7}".format(**row) for row in told["rows"]
    ]
    with capsys.disabled():
        sys.stdout.write(f"\n{host.name}, seed {SEED}:\noperation          kills finished whole gone cleaned by gc\n")
        sys.stdout.write("".join(f"{row}\n" for row in rows))
    assert not told["wrong"], f"with MACHCTL_TESTS_SEED={SEED}:\n" + "\n".join(told["wrong"])
    assert sum(row["kills"] for row in told["rows"]) >= 100
    # Kills that come too late, or before anything was done, would show nothing.
    assert sum(row["finished"] for row in told["rows"]) <= 50
