# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of jinja2: the templates, and the rule that a value never becomes syntax."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from machines.errors import InvalidValue

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    """Give ``templates/<template>.j2`` filled in. Raises InvalidValue if a value holds more than one line."""
    return _environment().get_template(f"{template}.j2").render(**values)


def escape_setting(value: str) -> str:
    r"""Give a path as it stands in a colon-separated setting of a .nspawn file (systemd.nspawn(5), Bind=: ``\:``)."""
    return value.replace("\\", "\\\\").replace(":", "\\:")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_directory()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=_one_line,
    )


def _directory() -> Path:
    package = Path(__file__).parent.parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


def _one_line(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        raise InvalidValue(f"{value!r} cannot stand in a line of a settings file", hint="use printable characters")
    return value
