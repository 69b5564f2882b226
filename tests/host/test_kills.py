# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl is killed at random moments; afterwards gc and apply leave machines that are whole, and nothing else."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from throwaway import MAIN_JOB, Host, Roads

INSIDE = Path(__file__).parents[1] / "inside"
SEED = os.environ.get("MACHCTL_TESTS_SEED", "1")

BATCHES = 12
"""Each kills every operation once: with two hosts that makes more than 200."""

SOURCE = ("debian", "--package", MAIN_JOB[MAIN_JOB.index("--package") + 1])
"""What the machine of every host was made of: its base is there."""


def test_kills_leave_machines_whole_or_gone(roads: Roads, capsys: pytest.CaptureFixture[str]) -> None:
    # Both at once: most of the time somebody waits.
    hosts = [roads.get(name).host for name in ("trixie", "static")]
    for host in hosts:
        for script in ("inventory.py", "rounds.py"):
            host.write(f"/root/kills/{script}", (INSIDE / script).read_text())
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(rounds, hosts))
    wrong = []
    for host, told in zip(hosts, results, strict=True):
        host.sh("rm -rf /root/kills*")
        rows = [
            "{operation:18} {kills:5} {finished:8} {whole:5} {gone:4} {cleaned:7}".format(**row) for row in told["rows"]
        ]
        with capsys.disabled():
            heading = "operation          kills finished whole gone cleaned by gc"
            sys.stdout.write(f"\n{host.name}, seed {SEED}:\n{heading}\n" + "".join(f"{row}\n" for row in rows))
        wrong += [f"{host.name}: {each}" for each in told["wrong"]]
    assert not wrong, f"with MACHCTL_TESTS_SEED={SEED}:\n" + "\n".join(wrong)
    for told in results:
        assert sum(row["kills"] for row in told["rows"]) >= 100
        # Kills that come too late, or before anything was done, would show nothing.
        assert sum(row["finished"] for row in told["rows"]) <= 50


def rounds(host: Host) -> Any:
    """Kill machctl on a host again and again; give what was seen. In the end the host is what it was."""
    with host.unchanged():
        words = ("python3", "-B", "/root/kills/rounds.py", SEED, str(BATCHES), *SOURCE)
        return host.run(*words, timeout=900).json()
