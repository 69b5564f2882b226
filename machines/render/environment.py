# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of jinja2: the templates, and the rule that a value never becomes syntax."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from machines.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from jinja2 import Environment

_COMPILED = "machines.render.compiled"


def render(template: str, **values: object) -> str:
    """Give ``templates/<template>.j2`` filled in. Raises InvalidValue if a value holds more than one line."""
    fill = _compiled(f"{template}.j2")
    return fill(values) if fill else environment().get_template(f"{template}.j2").render(**values)


def escape_setting(value: str) -> str:
    r"""Give a path as it stands in a colon-separated setting of a .nspawn file (systemd.nspawn(5), Bind=: ``\:``)."""
    return value.replace("\\", "\\\\").replace(":", "\\:")


def quote_word(value: str) -> str:
    """Give a word as it stands in a list of words in a .nspawn file: quotes count there, backslashes do not.

    That is extract_first_word() with EXTRACT_UNQUOTE and EXTRACT_RETAIN_ESCAPE in systemd's src/basic/extract-word.c.
    """
    return "'\"'".join(f'"{part}"' for part in value.split('"'))


def _compiled(template: str) -> Callable[[Mapping[str, object]], str] | None:
    """Give what compiling.py made of a template when machctl was installed, None if it did not or if that is stale.

    jinja2 takes twice as long to import and to compile the templates as all else that makes a machine.
    """
    try:
        module = sys.modules.get(_COMPILED) or import_module(_COMPILED)
    except ImportError:
        return None
    return _fresh(module, template)


@cache
def _fresh(module: ModuleType, template: str) -> Callable[[Mapping[str, object]], str] | None:
    written: int
    fill: Callable[[Mapping[str, object]], str] | None
    written, fill = module.TEMPLATES.get(template, (0, None))
    return fill if written == os.stat(f"{directory()}/{template}").st_mtime_ns else None


@cache
def environment() -> Environment:
    """Give jinja2's environment of the templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(directory()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=one_line,
    )


@cache
def directory() -> str:
    """Give where the templates are."""
    package = os.path.dirname(os.path.dirname(__file__))
    inside = f"{package}/templates"
    return inside if os.path.isdir(inside) else f"{os.path.dirname(package)}/templates"


def one_line(value: object) -> object:
    """Give back what stands in a line of a file, of which it must not make two. Raises InvalidValue."""
    if not isinstance(value, str) or (value.isprintable() and value[-1:] != "\\"):
        return value
    # A backslash at the end of a line goes on with the next one (systemd.syntax(7)); two of them do not.
    if not value.isprintable() or (len(value) - len(value.rstrip("\\"))) % 2:
        raise InvalidValue(f"{value!r} cannot stand in a line of a settings file", hint="use printable characters")
    return value
