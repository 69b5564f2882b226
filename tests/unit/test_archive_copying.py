# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl cp: what lands where, to whom it belongs, and that a machine's symlinks lead nowhere else."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.cli.options import Options
from machines.cli.verbs import copy as verb
from machines.errors import Conflict, InvalidValue, MachctlError, NotFound
from machines.host.archive.copying import check, copy, pack, unpack
from machines.model.place import Place
from machines.operations.copying import hidden, is_machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

SHIFT = 0x20000


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The tree of a machine with private ids, and a trap in it."""
    root = tmp_path / "machine"
    (root / "etc").mkdir(parents=True)
    (root / "etc/motd").write_text("hello")
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/sub/file").write_text("x")
    (root / "su").write_text("")
    (root / "trap").symlink_to(tmp_path / "host")
    (root / "up").symlink_to("../../host")
    (root / "abs").symlink_to("/etc")
    for path in [root, *root.rglob("*")]:
        os.chown(path, SHIFT, SHIFT, follow_symlinks=False)
    os.chown(root / "su", SHIFT + 5, SHIFT + 6)
    (root / "su").chmod(0o4755)
    (tmp_path / "host").mkdir()
    (tmp_path / "host/plain").write_text("host")
    return root


def quiet(*_: object) -> None:
    pass


def test_what_lands_where(machine: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"

    def out(source: str, target: str) -> list[str]:
        copy(Place("web", str(machine), source, SHIFT), Place("", "/", f"{host}/{target}"), progress=quiet)
        return sorted(str(path.relative_to(host)) for path in host.rglob("*") if path.name != "plain")

    assert out("/etc/motd", "") == ["motd"]
    assert out("/etc/motd", "motd") == ["motd"]
    (host / "motd").unlink()
    assert out("/dir", "new") == ["new", "new/sub", "new/sub/file"]
    assert out("/dir", "new") == ["new", "new/dir", "new/dir/sub", "new/dir/sub/file", "new/sub", "new/sub/file"]
    assert out("/dir/sub/.", "new")[-1] == "new/sub/file"
    assert (host / "new/file").read_text() == "x"
    with pytest.raises(Conflict, match="no directory"):
        out("/dir", "plain")
    with pytest.raises(Conflict):
        out("/etc/motd", "plain/")
    for source, target in (("/none", ""), ("/etc/motd", "no/where"), ("/etc/motd", "no/")):
        with pytest.raises(NotFound):
            out(source, target)
    with pytest.raises(NotFound, match="web:/none"):
        out("/none", "")


def test_owners_and_setuid(machine: Path, tmp_path: Path) -> None:
    web = Place("web", str(machine), "/su", SHIFT)
    copy(web, Place("", "/", f"{tmp_path}/plain"), progress=quiet)
    assert (tmp_path / "plain").stat()[4:6] == (0, 0)
    assert (tmp_path / "plain").stat().st_mode & 0o7777 == 0o755
    copy(web, Place("", "/", f"{tmp_path}/kept"), progress=quiet, archive=True)
    assert (tmp_path / "kept").stat()[4:6] == (5, 6)
    assert (tmp_path / "kept").stat().st_mode & 0o7777 == 0o4755
    copy(Place("", "/", f"{tmp_path}/kept"), web._replace(path="/in"), progress=quiet)
    assert (machine / "in").stat()[4:6] == (SHIFT, SHIFT)
    copy(Place("", "/", f"{tmp_path}/kept"), web._replace(path="/in"), progress=quiet, archive=True)
    assert (machine / "in").stat()[4:6] == (SHIFT + 5, SHIFT + 6)


def test_symlinks_of_a_machine_lead_nowhere_else(machine: Path, tmp_path: Path) -> None:
    web = Place("web", str(machine), "/", SHIFT)
    before = sorted(tmp_path.joinpath("host").iterdir())
    source = Place("", "/", f"{tmp_path}/host/plain")
    for path in ("/trap/", "/trap/x", "/up/x"):
        with pytest.raises((NotFound, Conflict)):
            copy(source, web._replace(path=path), progress=quiet)
    copy(source, web._replace(path="/abs/"), progress=quiet)
    assert (machine / "etc/plain").exists()
    copy(source, web._replace(path="/up"), progress=quiet)
    assert (machine / "up").read_text() == "host"
    with pytest.raises(NotFound):
        copy(web._replace(path="/trap/plain"), Place("", "/", f"{tmp_path}/stolen"), progress=quiet)
    copy(web._replace(path="/trap"), Place("", "/", f"{tmp_path}/link"), progress=quiet)
    assert (tmp_path / "link").is_symlink()
    assert sorted(tmp_path.joinpath("host").iterdir()) == before


def test_into_itself(machine: Path) -> None:
    web = Place("web", str(machine), "/", SHIFT)
    for source, target in (("/.", "/dir"), ("/dir", "/dir/sub/new"), ("/dir", "/dir")):
        with pytest.raises(InvalidValue, match="into itself"):
            copy(web._replace(path=source), web._replace(path=target), progress=quiet)


def test_tar_streams(machine: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    web = Place("web", str(machine), "/dir", SHIFT)
    with archive.open("wb") as file:
        pack(web, file.fileno(), progress=quiet)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["dir", "dir/sub", "dir/sub/file"]
        assert tar.getmember("dir").uid == 0
    with archive.open("rb") as file:
        unpack(file.fileno(), web._replace(path="/etc"), progress=quiet)
    assert (machine / "etc/dir/sub/file").stat().st_uid == SHIFT
    with archive.open("rb") as file, pytest.raises(NotFound):
        unpack(file.fileno(), web._replace(path="/none"), progress=quiet)
    os.mkfifo(machine / "fifo")
    with pytest.raises(MachctlError, match="neither"):
        copy(web._replace(path="/fifo"), Place("", "/", f"{tmp_path}/f"), progress=quiet)


def test_which_words_mean_a_machine() -> None:
    assert [is_machine(word) for word in ("web:/x", "web:x", "-", "./a:b", "/a:b", "a")] == [True, True, *[False] * 4]
    with pytest.raises(InvalidValue):
        is_machine(":/x")


def test_a_file_that_is_cut_off_leaves_nothing(machine: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"w" * 1000)
    (tmp_path / "rnd").write_bytes(os.urandom(100_000))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("whole", "rnd"):
            tar.add(tmp_path / name, name)
    os.truncate(tmp_path / "a.tar", 50_000)
    web = Place("web", str(machine), "/dir", SHIFT)
    with (tmp_path / "a.tar").open("rb") as file, pytest.raises(MachctlError):
        unpack(file.fileno(), web, progress=quiet)
    assert sorted(path.name for path in (machine / "dir").iterdir()) == ["sub", "whole"]
    # Nor is what was there lost for it.
    (machine / "dir/rnd").write_text("before")
    with (tmp_path / "a.tar").open("rb") as file, pytest.raises(MachctlError):
        unpack(file.fileno(), web, progress=quiet)
    assert {path.name for path in (machine / "dir").iterdir()} == {"sub", "whole", "rnd"}
    assert (machine / "dir/rnd").read_text() == "before"


def test_a_dry_run_looks_as_the_copy_does(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    web = Place("web", str(machine), "/dir", SHIFT)
    check(web, web._replace(path="/etc"))
    check(web, None)
    check(None, web)
    for source, target in ((web._replace(path="/none"), web), (web, web._replace(path="/no/where")), (None, None)):
        with pytest.raises(NotFound):
            check(source, target or web._replace(path="/none"))
    with pytest.raises(InvalidValue, match="into itself"):
        check(web, web._replace(path="/dir/sub"))
    assert sorted(path.name for path in (machine / "dir").iterdir()) == ["sub"]

    @contextlib.contextmanager
    def sides(words: list[str], _: object) -> Iterator[list[Place]]:
        yield [Place("", "/", words[0]), web._replace(path=words[1].removeprefix("web:"))]

    monkeypatch.setattr(verb, "sides", sides)
    context = SimpleNamespace(obj=Options(dry_run=True))
    with pytest.raises(NotFound, match="nosuch"):
        verb.cp(context, f"{machine.parent}/nosuch", "web:/etc/", archive=False, follow=False)
    assert capsys.readouterr().err == ""
    (machine / "tmp").mkdir()
    verb.cp(context, "/etc/hostname", "web:/tmp/x", archive=False, follow=False)
    assert capsys.readouterr().err.splitlines() == [
        "warning: web does not run, and does not see this once it does: /tmp is another there",
        "would copy /etc/hostname to web:/tmp/x",
    ]


def test_what_is_hidden_once_a_machine_runs() -> None:
    stopped = Place("web", "/var/lib/machines/web", "/")
    seen = {
        path: hidden(stopped._replace(path=path)) for path in ("/run/x", "/tmp", "/dev/shm/a", "/root", "/var/run/x")
    }
    assert seen == {"/run/x": "/run", "/tmp": "/tmp", "/dev/shm/a": "/dev", "/root": "", "/var/run/x": "/run"}
    assert hidden(stopped._replace(path="/srv/../tmp/x")) == "/tmp"
    assert hidden(stopped._replace(path="/runner")) == ""
    assert hidden(Place("web", "/proc/5/root", "/run/x")) == ""
    assert hidden(Place("", "/", "/run/x")) == ""
    assert hidden(None) == ""
