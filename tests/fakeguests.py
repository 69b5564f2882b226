# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root trees to test with, of which only the files are there that somebody wrote."""

from __future__ import annotations

from machines.render import paths


class FakeGuests:
    """machines.host.interfaces.Guests: all trees are one mapping of paths, and have the files they are given."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.modes: dict[str, int] = {}
        self.copied: list[str] = []

    def exists(self, root: str, path: str) -> bool:
        return root + path in self.texts

    def read_file(self, root: str, path: str) -> str | None:
        if root.endswith("/upper"):
            # What is in a layer is seen in the tree it is mounted on.
            root = paths.tree(root.split("/")[-2])
        return self.texts.get(root + path)

    def read_whole_file(self, root: str, path: str) -> str | None:
        return self.read_file(root, path) or ""

    def write_file(self, root: str, path: str, text: str, *, mode: int = 0o644) -> None:
        self.texts[root + path] = text
        self.modes[root + path] = mode

    def link(self, root: str, path: str, target: str) -> None:
        self.texts[root + path] = f"-> {target}"

    def remove_file(self, root: str, path: str) -> None:
        self.texts.pop(root + path, None)

    def list_directory(self, root: str, path: str) -> list[str]:
        if root.endswith("/upper"):
            root = paths.tree(root.split("/")[-2])
        inside = f"{root}{path}/"
        return sorted({name[len(inside) :].split("/")[0] for name in self.texts if name.startswith(inside)})

    def remove_tree(self, root: str, path: str) -> None:
        whole = root + path
        self.texts = {name: text for name, text in self.texts.items() if not f"{name}/".startswith(f"{whole}/")}

    def make_directory(self, root: str, path: str) -> None:
        self.texts.setdefault(root + path, "a directory")

    def copy_directories(self, root: str, other: str, path: str) -> None:
        self.copied.append(path)

    def move(self, root: str, other: str, *, keep: bool = False) -> None:
        """Let what is in one tree be in another."""
        for name in [name for name in self.texts if name.startswith(f"{root}/")]:
            self.texts[other + name[len(root) :]] = self.texts[name] if keep else self.texts.pop(name)
