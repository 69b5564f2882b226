# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory is watched before it is there, while it is, and when it comes again."""

from __future__ import annotations

import select
from pathlib import Path

from machines.host.inotify import Changes


def came(changes: Changes) -> bool:
    if not select.select([changes.fileno()], [], [], 0.5)[0]:
        return False
    changes.take()
    return True


def quiet(changes: Changes) -> bool:
    # That a watch was taken back is told as well.
    while select.select([changes.fileno()], [], [], 0)[0]:
        changes.take()
    return True


def test_changes(tmp_path: Path) -> None:
    directory = tmp_path / "machctl/health"
    with Changes(str(directory)) as changes:
        directory.parent.mkdir()
        assert came(changes)
        directory.mkdir()
        assert came(changes)
        assert quiet(changes)
        (tmp_path / "machctl/elsewhere").write_text("")
        assert not select.select([changes.fileno()], [], [], 0)[0], "only what is in the directory counts"
        (tmp_path / "new").write_text("state=healthy\n")
        (tmp_path / "new").rename(directory / "web")
        assert came(changes)
        (directory / "web").unlink()
        assert came(changes)
        directory.rmdir()
        assert came(changes)
        quiet(changes)
        directory.mkdir()
        assert came(changes)
        quiet(changes)
        (directory / "web").write_text("")
        assert came(changes)
