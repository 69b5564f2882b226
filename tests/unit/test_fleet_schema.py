# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON Schema and the example of a fleet file: both are made of the table of keys that the reader goes by."""

from __future__ import annotations

import re
from typing import Any

import pytest

from machines.declare.example import fleet_example
from machines.declare.fleet import parse_fleet
from machines.declare.keys import IMAGE_KEYS, KEYS, NETWORK_KEYS, Key, function
from machines.declare.machine import parser
from machines.declare.networks import parse_networks
from machines.declare.schema import fleet_schema
from machines.model.machine import Machine
from machines.model.network import DeclaredNetwork
from schemas import against

FILE = "/etc/machctl/fleet.toml"
INNER = [key for outer in KEYS if outer.inner for key in function(outer.inner)]


def test_example_is_right_and_names_every_key() -> None:
    text = fleet_example()
    found, errors = parse_fleet({FILE: text})
    assert (errors, parse_networks({FILE: text})[1]) == ([], [])
    assert list(found) == ["db", "web-1", "web-2"]
    assert against(text) == []
    for key in (*KEYS, *INNER, *NETWORK_KEYS):
        assert re.search(rf"(?m)^(# )?({key.name} = |\[machines\.\w+\.{key.name}\]$)", text), key.name


@pytest.mark.parametrize("key", [*KEYS, *INNER, *NETWORK_KEYS, *IMAGE_KEYS], ids=lambda key: key.name)
def test_table_of_keys(key: Key) -> None:
    """Functions are there, examples and choices are read, and there is a field for each."""
    assert key.kind in {"text", "number", "texts", "flag", "words", "map", "table"}
    assert key.about.endswith(".")
    assert len(key.about) < 110
    assert not key.form or callable(function(key.form))
    assert not key.parse or callable(function(key.parse))
    if key in KEYS and key.name not in {"profiles", "replicas", "bridges"}:
        assert hasattr(Machine, key.field) or key.field in Machine.__annotations__
    if key in NETWORK_KEYS:
        assert key.field in DeclaredNetwork.__annotations__
    if key.parse and key.kind in {"text", "number"}:
        for text in (*key.choices, *([str(key.example)] if key.example is not None else [])):
            parser(key.parse)(text)
    if key.parse and key.kind == "texts" and isinstance(key.example, list):
        assert all(parser(key.parse)(text) is not None for text in key.example)
    if key.parse and key.kind == "map" and isinstance(key.example, dict):
        assert all(function(key.parse)(name, text) for name, text in key.example.items())


def test_every_field_of_a_machine_has_a_key() -> None:
    fields = {key.field for key in KEYS} | {"name", "origin", "group"}
    assert set(Machine.__annotations__) <= fields


@pytest.mark.parametrize(
    "text",
    [
        "[machines.web]\nmemroy = '1G'",
        "[machine.web]",
        "[machines.Web]",
        "[machines.web]\nautostart = 'yes'",
        "[machines.web]\nvariant = 'tiny'",
        "[machines.web]\npublish = '80:80'",
        "[machines.web]\nenvironment = { A = 1 }",
        "[defaults]\nprofiles = ['a']",
        "[profiles.a]\nreplicas = 2",
        "[networks.lab]\nmode = 'bridged'",
        "[images]\nstale = 3",
    ],
)
def test_schema_and_reader_refuse_the_same(text: str) -> None:
    assert len(against(text)) == 1
    assert parse_fleet({FILE: text})[1]


def test_schema_is_closed_and_described() -> None:
    def look(schema: Any, path: str) -> None:
        for name, inner in schema.get("properties", {}).items():
            assert inner.get("description") or "$ref" in inner, f"{path}.{name}"
            look(inner, f"{path}.{name}")
        if schema.get("type") == "object":
            assert "additionalProperties" in schema, path
            if isinstance(schema["additionalProperties"], dict):
                look(schema["additionalProperties"], f"{path}.*")

    schema = fleet_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    look(schema, "")
