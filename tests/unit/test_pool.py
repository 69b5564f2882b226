# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root trees in the pool: they appear whole, and go whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from machines.errors import Conflict, NotFound
from machines.host.storage import places, pool, trees


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool of this test's own."""
    folder = tmp_path / "machines"
    folder.mkdir()
    monkeypatch.setattr(pool, "POOL", str(folder))
    monkeypatch.setattr(pool, "LAYERS", str(tmp_path / "layers"))
    monkeypatch.setattr(trees, "LAYERS", str(tmp_path / "layers"))
    return folder


def test_trees(room: Path) -> None:
    (room / "web").mkdir()
    (room / "image.raw").write_bytes(b"")
    (room / "both").mkdir()
    (room / "both.raw").write_bytes(b"")
    (room / ".#machctl-new-db").mkdir()
    (room / ".hidden").mkdir()
    (room / "notes.txt").write_text("")
    # Every ext4 that is mounted there has the first; machined takes it for an image.
    (room / "lost+found").mkdir()
    (room / "-x").mkdir()
    (room / "a b.raw").write_bytes(b"")
    found = {name: (tree.path, tree.kind) for name, tree in pool.trees().items()}
    assert found == {
        "web": (f"{room}/web", "directory"),
        "image": (f"{room}/image.raw", "raw"),
        "both": (f"{room}/both", "directory"),
    }


def test_tree_that_a_layer_is_mounted_on_is_told_from_others(room: Path, tmp_path: Path) -> None:
    for name in ("web", "db"):
        (room / name).mkdir()
    (tmp_path / "layers/web").mkdir(parents=True)
    assert {name: tree.kind for name, tree in pool.trees().items()} == {"web": "overlay", "db": "directory"}


@pytest.mark.parametrize("suffix", ["", ".raw"])
def test_tree_may_have_the_longest_name(room: Path, suffix: str) -> None:
    path = room / ("a" * 64 + suffix)
    if suffix:
        path.write_bytes(b"")
    else:
        path.mkdir()
    assert list(pool.trees()) == ["a" * 64]


def test_a_layer_that_was_emptied_is_no_tree(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LAYERS", str(room / "layers"))
    for name in ("web", "db"):
        (room / name).mkdir()
        (room / "layers" / name / "lower/usr").mkdir(parents=True)
    # An empty directory is where a layer is about to be mounted; machinectl remove leaves a mount of nothing.
    monkeypatch.setattr(pool, "is_mounted", lambda path: path.endswith("web"))
    assert set(pool.trees()) == {"db", "layers"}
    (room / "layers/web/lower/usr").rmdir()
    assert "web" in pool.trees()
    (room / "layers/web/lower/usr").mkdir()
    (room / "web/usr").mkdir()
    assert pool.trees()["web"].kind == "overlay"


def test_staging_path_is_where_trees_are_made() -> None:
    assert pool.make_empty("web") == pool.staging_path("web")
    assert pool.leftovers() == {pool.staging_path("web"): "web"}


def test_pool_that_is_not_there(room: Path) -> None:
    room.rmdir()
    assert pool.trees() == {}
    assert pool.leftovers() == {}
    assert pool.free_bytes() > 0


def test_tree_is_made_beside_its_place_and_placed(room: Path) -> None:
    path = Path(pool.make_empty("web"))
    assert path.parent == room
    assert pool.trees() == {}
    (path / "etc").mkdir()
    trees.place("web", "copy")
    assert (room / "web/etc").is_dir()
    assert pool.leftovers() == {}


def test_make_empty_clears_what_a_killed_run_left(room: Path) -> None:
    (Path(pool.make_empty("web")) / "half").write_text("")
    assert list(Path(pool.make_empty("web")).iterdir()) == []


def test_place_that_is_taken(room: Path) -> None:
    pool.make_empty("web")
    (room / "web").mkdir()
    with pytest.raises(Conflict, match="has appeared in the meantime"):
        trees.place("web", "copy")
    assert pool.leftovers() == {f"{room}/.#machctl-new-web": "web"}


def test_image_is_placed_as_one(room: Path) -> None:
    staged = Path(f"{pool.staging_path('web')}.raw")
    staged.write_bytes(b"image")
    assert pool.leftovers() == {str(staged): "web"}
    trees.place("web", "raw")
    assert {tree.path: tree.kind for tree in pool.trees().values()} == {f"{room}/web.raw": "raw"}
    staged.write_bytes(b"other")
    with pytest.raises(Conflict, match="has appeared in the meantime"):
        trees.place("web", "raw")
    assert (room / "web.raw").read_bytes() == b"image"


def test_layer_is_not_placed_over_what_somebody_has_there(room: Path) -> None:
    (room / "web").mkdir()
    (room / "web/theirs").write_text("")
    with pytest.raises(Conflict, match="has appeared in the meantime"):
        trees.place("web", "overlay")
    (room / "web/theirs").unlink()
    trees.place("web", "overlay")
    trees.place("db", "overlay")
    assert list((room / "web").iterdir()) == list((room / "db").iterdir()) == []


def test_leftovers_name_their_machine(room: Path) -> None:
    (room / ".#machctl-new-web").mkdir()
    (room / ".#machctl-old-db.example.org").mkdir()
    (room / ".#other").mkdir()
    assert pool.leftovers() == {
        f"{room}/.#machctl-new-web": "web",
        f"{room}/.#machctl-old-db.example.org": "db.example.org",
    }


@pytest.mark.parametrize("kind", ["folder", "raw", "link"])
def test_tree_is_removed_and_nothing_behind_links(room: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    path = room / ("web.raw" if kind == "raw" else "web")
    match kind:
        case "folder":
            path.mkdir()
            (path / "link").symlink_to(outside)
        case "raw":
            path.write_bytes(b"x")
        case _:
            path.symlink_to(outside)
    pool.remove(str(path))
    assert list(room.iterdir()) == []
    assert (outside / "kept").exists()


def test_removing_what_is_not_there(room: Path) -> None:
    with pytest.raises(NotFound) as caught:
        pool.remove(f"{room}/web")
    assert caught.value.exit_code == 4
    pool.remove_path(f"{room}/web")


def test_tree_with_a_mount_in_it_stays(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "web/srv").mkdir(parents=True)
    real = open
    fake = room.parent / "mountinfo"
    mounts = Path("/proc/self/mountinfo").read_text()
    fake.write_text(mounts + f"99 1 0:1 / {room}/web/srv rw - tmpfs tmpfs rw\n")

    def opened(path: str, *args: object, **kwargs: object) -> object:
        return real(fake if path == "/proc/self/mountinfo" else path, *args, **kwargs)

    monkeypatch.setattr(places, "open", opened, raising=False)
    with pytest.raises(Conflict, match="is mounted inside") as caught:
        pool.remove(f"{room}/web")
    assert f"umount {room}/web/srv" in caught.value.hint
    assert (room / "web/srv").is_dir()


def test_file_system_of_a_path() -> None:
    assert pool.filesystem_of("/proc/self") == "proc"
    assert pool.filesystem_of("/") != ""
