# SPDX-License-Identifier: LGPL-2.1-or-later
"""The probe of a machine as a file, and what has systemd run it while the machine runs."""

from __future__ import annotations

import json
from typing import Any

from machines.model.base import Payload
from machines.model.health import Health
from machines.model.machine import Machine
from machines.model.names import health_timer, health_unit
from machines.render import paths
from machines.render.environment import render


def health_files(machine: Machine, *, header: str, payload: Payload | None) -> dict[str, str]:
    """Give the files of the probe of a machine; none where it has none. ``payload`` is what it runs without an init."""
    health = machine.health
    if health is None:
        return {}
    content = {**health.__dict__, "target": list(health.target)}
    # A command of the probe is run as what the machine runs is.
    content["payload"] = payload._asdict() if payload else None
    if payload and machine.environment:
        # As in render/machine.py: imported where a machine has an environment.
        from machines.render.given import payload_environment

        content["payload"]["environment"] = payload_environment(machine, payload)
    return {
        paths.probe_file(machine.name): f"{header}\n{json.dumps(content, ensure_ascii=False)}\n",
        paths.health_dropin(machine.name): render(
            "health.conf",
            header=header,
            timer=health_timer(health.interval),
            service=health_unit(health.interval),
        ),
    }


def read_probe(text: str) -> tuple[Health, Payload | None] | None:
    """Read the file of a probe, and what its machine runs without an init; None for what is none."""
    try:
        content: dict[str, Any] = json.loads(text.partition("\n")[2])
        runs: dict[str, Any] | None = content.pop("payload")
        payload = Payload(**_tuples(runs)) if runs else None
        return Health(**_tuples(content)), payload
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
