# SPDX-License-Identifier: LGPL-2.1-or-later
"""A text held against the JSON Schema of declaration files, as far as that schema goes."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from machines.declare.schema import fleet_schema

TYPES = {"string": str, "number": (int, float), "array": list, "object": dict, "boolean": bool}


def wrong(value: Any, schema: Any, root: Any, path: str = "") -> list[str]:
    """What of a value is against a schema, as far as ours go (json-schema.org, 2020-12)."""
    if "$ref" in schema:
        return wrong(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds):
        return [f"{path}: {value!r} is not {kinds}"]
    found = [f"{path}: {value!r}"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, list):
        found += [
            each for index, item in enumerate(value) for each in wrong(item, schema["items"], root, f"{path}[{index}]")
        ]
    if isinstance(value, dict):
        names = schema.get("propertyNames", {})
        for name, inner in value.items():
            if not re.search(names.get("pattern", ""), name) or len(name) > names.get("maxLength", 1000):
                found.append(f"{path}: {name!r} is no name")
            known = schema.get("properties", {}).get(name, schema["additionalProperties"])
            found += wrong(inner, known, root, f"{path}.{name}") if known else [f"{path}: {name!r} is not known"]
    return found


def against(text: str) -> list[str]:
    schema = fleet_schema()
    return wrong(tomllib.loads(text), schema, schema)
