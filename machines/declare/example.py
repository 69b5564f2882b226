# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet file to begin with: a small fleet that works, and every key that there is."""

from __future__ import annotations

import json

from machines.declare.keys import KEYS, NETWORK_KEYS, Key, function

_FLEET = """\
# The machines of this host. After a change of this file:
#
#   machctl check     is it right?
#   machctl plan      what would be done, and why
#   machctl apply     do it
#
# Files in /etc/machctl/fleet.d are read as well; "machctl create" writes its machines there. Editors that know TOML
# complete and check this one by its schema: machctl schema > fleet.schema.json, and as the first line of this file
#:schema ./fleet.schema.json

# What every machine has that does not say otherwise.
[defaults]
source = "debian:trixie"

# Sets of keys with a name. A machine has the defaults, then its profiles in their order, then what it says itself:
# the later counts; lists are joined, tables merged.
[profiles.small]
memory = "256M"
cpus = 0.5

[profiles.server]
profiles = ["small"]
autostart = true
restart = "on-failure"

# A network of their own; machines on it know each other by name.
[networks.lab]
mode = "nat"

[machines.db]
profiles = ["server"]
bridges = ["lab"]
memory = "512M"

# Two of a kind: web-1 and web-2. In every value {index} and {name} stand for theirs; {{ is a brace.
[machines.web]
replicas = 2
profiles = ["server"]
bridges = ["lab"]
publish = ["808{index}:80"]
after = ["db"]

[machines.web.environment]
GREETING = "I am {name}"
"""


def fleet_example() -> str:
    """Give the text of a fleet file that is right, and names every key in a comment."""
    lines = [_FLEET, "# All that a machine, a profile and [defaults] may say:", "#", "# [machines.NAME]"]
    plain = [key for key in KEYS if key.kind not in {"map", "table"}]
    lines += _listed(plain)
    for key in KEYS:
        if key.kind == "map":
            said = key.example if isinstance(key.example, dict) else {}
            lines += ["#", f"# {key.about}", f"# [machines.NAME.{key.name}]"]
            lines += [f"# {name} = {json.dumps(value)}" for name, value in said.items()]
        elif key.kind == "table":
            lines += ["#", f"# {key.about}", f"# [machines.NAME.{key.name}]", *_listed(function(key.inner))]
    lines += ["#", "# [networks.NAME]", *_listed(NETWORK_KEYS)]
    return "\n".join(lines) + "\n"


def _listed(keys: tuple[Key, ...] | list[Key]) -> list[str]:
    said = [f"{key.name} = {json.dumps(_value(key))}" for key in keys]
    width = min(max(map(len, said)), 40)
    return [f"# {line.ljust(width)}  # {_about(key)}" for line, key in zip(said, keys, strict=True)]


def _value(key: Key) -> object:
    if key.example is not None or key.kind == "flag":
        return key.example or True
    return key.choices[-1]


def _about(key: Key) -> str:
    return f"{key.about} One of {', '.join(key.choices)}." if key.choices else key.about
