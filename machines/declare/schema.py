# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON Schema (2020-12) of declaration files, made of the table of keys that their reader goes by."""

from __future__ import annotations

from collections.abc import Iterable

from machines.declare.keys import IMAGE_KEYS, KEYS, NETWORK_KEYS, Key, function
from machines.model.machine import Machine
from machines.model.names import HOST_NAME_MAX, IFNAMSIZ
from machines.model.network import DeclaredNetwork

Schema = dict[str, object]

_TEXT: Schema = {"type": "string"}
_KINDS: dict[str, Schema] = {
    "flag": {"type": "boolean"},
    "text": _TEXT,
    "number": {"type": ["number", "string"]},
    "texts": {"type": "array", "items": _TEXT},
    "words": {"type": ["string", "array"], "items": _TEXT},
    "map": {"type": "object", "additionalProperties": _TEXT},
}
# What a table may not say, of what a machine may.
_OWN = {"machines": (), "profiles": ("replicas",), "defaults": ("replicas", "profiles")}


def fleet_schema() -> Schema:
    """Give the schema of /etc/machctl/fleet.toml and its like."""
    networks = _tables(_table(NETWORK_KEYS, DeclaredNetwork), maximum=IFNAMSIZ)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "machctl fleet",
        "description": "The machines of a host: machctl check, machctl plan, machctl apply.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "defaults": _about("What every machine has that does not say otherwise.", _machine("defaults")),
            "profiles": _about("Sets of keys that machines name in their profiles.", _tables(_machine("profiles"))),
            "machines": _about("The machines, by name.", _names(_tables(_machine("machines"), maximum=HOST_NAME_MAX))),
            "networks": _about("The networks, by the name of their bridge.", networks),
            "images": _about("What machines are made of.", _table(IMAGE_KEYS, object)),
        },
        "$defs": {key.name: _key(key, Machine) for key in KEYS},
    }


def _machine(kind: str) -> Schema:
    keys = [key.name for key in KEYS if key.name not in _OWN[kind]]
    return _closed({name: {"$ref": f"#/$defs/{name}"} for name in keys})


def _names(schema: Schema) -> Schema:
    # What check_declared_name() takes; "..", which no pattern of TOML editors' libraries agrees on, is left to it.
    own = schema["propertyNames"]
    assert isinstance(own, dict)
    return {**schema, "propertyNames": {**own, "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}}


def _tables(inner: Schema, *, maximum: int | None = None) -> Schema:
    names: Schema = {"minLength": 1} if maximum is None else {"minLength": 1, "maxLength": maximum}
    return {"type": "object", "propertyNames": names, "additionalProperties": inner}


def _table(keys: Iterable[Key], defaults: type) -> Schema:
    return _closed({key.name: _key(key, defaults) for key in keys})


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _key(key: Key, defaults: type) -> Schema:
    made = _table(function(key.inner), object) if key.kind == "table" else dict(_KINDS[key.kind])
    if key.choices and key.kind == "texts":
        made["items"] = {**_TEXT, "enum": list(key.choices)}
    elif key.choices:
        made["enum"] = list(key.choices)
    if key.example is not None:
        made["examples"] = [key.example]
    default = getattr(defaults, key.field, None)
    if isinstance(default, (bool, str)) and default != "":
        made["default"] = default
    return _about(key.about, made)


def _about(text: str, schema: Schema) -> Schema:
    return {"description": text, **schema}
