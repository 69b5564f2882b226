# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine says, made of layers: the defaults, its profiles, and its own table; the later before the earlier.

Scalars are replaced, tables merged key by key, lists joined with each entry once. Each value keeps its place, so that
an error names the line it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from machines.declare.keys import BY_NAME, Key, function
from machines.errors import InvalidValue
from machines.model.frozen import NamedTuple


class Layer(NamedTuple):
    """A table of a file: ``path`` is its name there, as in ``profiles.small``."""

    file: str
    path: str
    values: Mapping[str, object]


class Place(NamedTuple):
    """Where a value stands: its file, and its key path in it."""

    file: str
    path: str


class Merged(NamedTuple):
    """Layers made one: values by key, and the places of keys, of items (``publish[0]``) and of keys of inner tables."""

    values: dict[str, object]
    places: dict[str, Place]


def merge(layers: Iterable[Layer], below: Merged | None = None) -> Merged:
    """Put layers over each other, and all of them over ``below``, which stays as it is."""
    values = dict(below.values) if below else {}
    places = dict(below.places) if below else {}
    for layer in layers:
        for name, value in layer.values.items():
            _put(values, places, "", name, value, layer, BY_NAME)
    return Merged(values, places)


def _put(
    values: dict[str, object],
    places: dict[str, Place],
    prefix: str,
    name: str,
    value: object,
    layer: Layer,
    keys: Mapping[str, Key],
) -> None:
    path = prefix + name
    old, key = values.get(name), keys.get(name)
    place = Place(layer.file, f"{layer.path}.{path}")
    if isinstance(value, dict):
        inner = {each.name: each for each in function(key.inner)} if key and key.inner else {}
        made = dict(old) if isinstance(old, dict) else {}
        for word, more in value.items():
            _put(made, places, f"{path}.", word, more, layer, inner)
        values[name] = made
        places[path] = place
        return
    joined = isinstance(value, list) and (key is None or key.kind == "texts")
    if joined and isinstance(value, list):
        earlier = old if isinstance(old, list) else []
        items = list(earlier)
        for index, item in enumerate(value):
            # What one layer says twice is a mistake for the reader to find.
            if item not in earlier:
                places[f"{path}[{len(items)}]"] = Place(place.file, f"{place.path}[{index}]")
                items.append(item)
        value = items
    for other in [other for other in values if key and key.one_of and _same_choice(keys.get(other), key)]:
        del values[other]
    values[name] = value
    places[path] = place


def _same_choice(other: Key | None, key: Key) -> bool:
    return other is not None and other.one_of == key.one_of and other.name != key.name


LITERAL = ("ssh-keys",)
"""Keys that have no placeholders: comments of ssh keys are anybody's."""

_PLACEHOLDERS = ("{name}", "{index}")


def fill(value: object, names: Mapping[str, str]) -> object:
    """Give a value with the placeholders of every string in it replaced by what ``names`` has.

    Raises InvalidValue for an index that there is none of.
    """
    if isinstance(value, str):
        return fill_text(value, names) if has_placeholder(value) else value
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, names) for key, item in value.items()}
    return value


def has_placeholder(text: str) -> bool:
    """Tell whether braces mean anything in a string; in all others they stand for themselves, as they always did."""
    return any(each in text for each in _PLACEHOLDERS)


def fill_text(text: str, names: Mapping[str, str]) -> str:
    """Give a string that has placeholders with them replaced; ``{{`` is a brace in it. Raises InvalidValue."""
    made = []
    while text:
        before, brace, text = text.partition("{")
        made.append(before.replace("}}", "}"))
        word, _, rest = text.partition("}")
        if f"{{{word}}}" in _PLACEHOLDERS:
            if word not in names:
                # Not the text: it may be a secret that somebody wrote there by mistake.
                raise InvalidValue(
                    f"{{{word}}}: only machines with replicas have one", hint="write replicas = 3, or leave it out"
                )
            made.append(names[word])
            text = rest
        elif brace:
            made.append(brace)
            text = text.removeprefix("{")
    return "".join(made)


def escape(value: object) -> object:
    """Give a value that fill() gives back as this one."""
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}") if has_placeholder(value) else value
    if isinstance(value, list):
        return [escape(item) for item in value]
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    return value
