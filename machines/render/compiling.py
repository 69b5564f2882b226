# SPDX-License-Identifier: LGPL-2.1-or-later
"""The templates as Python, by jinja2's own compiler, for machctl's installer: rendering them then takes no jinja2.

``python3 -m machines.render.compiling`` writes compiled.py beside this file.
"""

from __future__ import annotations

import os

from machines.render.environment import directory, environment

_HEAD = '''# SPDX-License-Identifier: LGPL-2.1-or-later
"""Made of templates/ when machctl was installed."""

from machines.render.runtime import Undefined, environment, filled, missing  # noqa: F401

TEMPLATES = {}
'''


def source() -> str:
    """Give the text of compiled.py: of each template its function, and when what it was made of was written."""
    parts = [_HEAD]
    for name in sorted(os.listdir(directory())):
        path = f"{directory()}/{name}"
        with open(path, encoding="utf-8") as file:
            code = environment().compile(file.read(), name, raw=True)
        # Around it are imports from jinja2.runtime and what tracebacks and template inheritance need.
        body = code.partition("\ndef root(")[2].partition("\nblocks = ")[0]
        written = os.stat(path).st_mtime_ns
        parts.append(f"def root({body}\nTEMPLATES[{name!r}] = {written}, filled(root)\n")
    return "\n\n".join(parts)


if __name__ == "__main__":
    with open(os.path.join(os.path.dirname(__file__), "compiled.py"), "w", encoding="utf-8") as made:
        made.write(source())
