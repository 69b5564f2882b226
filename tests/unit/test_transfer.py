# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives that become machines again: what their trees are made of, and what is left out."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER, create, web
from fakes import FakeHost
from machines.cli.options import Options
from machines.cli.verbs import transfer as verb
from machines.declare.write import write_machine
from machines.errors import MachctlError
from machines.host import archives
from machines.host.archive.compress import create_archive
from machines.host.archive.entries import Entry
from machines.host.archive.tarwriter import write_tar
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources import tar
from machines.model.base import Payload
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.source import Source
from machines.operations.transfer import bring

pytestmark = pytest.mark.usefixtures("as_root")

PATH = "/dev/null"
NETWORKD = "/usr/lib/systemd/system/systemd-networkd.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
THEIRS = {"/etc/machine-id": "0123\n", "/etc/hostname": "theirs\n", "/root/mine": "mine\n", NETWORKD: "x"}


@pytest.fixture
def host(host: FakeHost) -> FakeHost:
    async def make(request: SourceRequest, progress: Progress) -> None:
        host.maker.requests.append(request)
        for path, text in THEIRS.items():
            host.guests.write_file(str(request.target), path, text)

    host.maker.make = make  # type: ignore[method-assign]
    return host


def brought(
    host: FakeHost, said: Machine | None, *, name: str = "two", forget: bool = False, trust: bool = False
) -> Any:
    text = write_machine(said) if said else ""
    host.archives = SimpleNamespace(kind=lambda path: "tar", declaration=lambda path, form: text)
    return asyncio.run(bring(PATH, name, host, REPORTER, forget=forget, form=None, trust=trust, dry_run=False))


def tree(host: FakeHost, name: str = "two") -> dict[str, str]:
    root = f"/var/lib/machines/{name}"
    return {path.removeprefix(root): text for path, text in host.guests.texts.items() if path.startswith(f"{root}/")}


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("said", [web(), web(hostname="theirs"), None])
def test_tree_is_the_archives_with_either_identity(host: FakeHost, said: Machine | None, *, forget: bool) -> None:
    brought(host, said, forget=forget)
    assert [str(request.source) for request in host.maker.requests] == [f"tar:{PATH}"]
    made = tree(host)
    assert made["/root/mine"] == "mine\n"
    assert made["/etc/machine-id"] == ("" if forget else "0123\n")
    assert ("/etc/hostname" in made) is not forget
    # What machctl exported is a machine already; of a tree that came from elsewhere a base is made.
    assert (WANTED in made) is (forget and said is None)
    (base,) = host.storage.bases().values()
    assert base.source == (f"tar:{PATH}" if forget and said is None else "import:two")


def test_another_machine_has_not_the_declared_host_name(host: FakeHost) -> None:
    kept, _, left_out, _ = brought(host, web(hostname="theirs"))
    assert (kept.hostname, left_out) == ("theirs", [])
    other, _, left_out, _ = brought(host, web(hostname="theirs", publish=()), name="three", forget=True)
    assert (other.hostname, left_out) == (None, ["host name theirs"])


@pytest.mark.parametrize(
    ("given", "trust", "said"),
    [
        ({}, False, ["  without port 8080:80"]),
        ({"publish": ()}, False, []),
        ({"autostart": True}, True, ["  without port 8080:80"]),
        ({"autostart": True}, False, ["  without port 8080:80", "  without autostart; --trust takes it over"]),
        (
            {"publish": (), "autostart": True, "capabilities": ("net_raw", "sys_time")},
            False,
            ["  without capability net_raw, capability sys_time, autostart; --trust takes them over"],
        ),
        (
            {"publish": (), "network": "host", "links": ()},
            False,
            ["  without the host's network; --trust takes it over"],
        ),
        (
            {"publish": (), "links": (Attachment("interface", "eth0"), Attachment("bridge", "br0"))},
            False,
            ["  without link interface:eth0; --trust takes it over"],
        ),
    ],
)
def test_trust_is_named_where_it_would_change_something(
    given: dict[str, Any], trust: bool, said: list[str], host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    create(host, web())
    monkeypatch.setattr(verb, "RealHost", lambda: host)
    text = write_machine(web("two", **given))
    host.archives = SimpleNamespace(kind=lambda path: "tar", declaration=lambda path, form: text)
    context: Any = SimpleNamespace(obj=Options())
    verb.import_(context, PATH, "two", "new", None, trust, start=False, wait=None)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "without" in line] == said


RUNS = Payload(("/bin/serve", "80"), ("PATH=/bin", "SAID=50% off; $HOME"), "", "/srv", ("80/tcp",), "SIGINT")


def packed(root: Path, path: Path, payload: Payload | None, *, declaration: str = "") -> None:
    pack = archives.pack(
        str(root), str(path), form="tar", name="web", declaration=declaration, payload=payload, progress=quiet
    )
    asyncio.run(pack)


def unpacked(path: Path, target: Path) -> Payload | None:
    target.mkdir()
    request = SourceRequest(Source("tar", str(path)), str(target), str(target.parent), "/dev/null", "amd64")
    return asyncio.run(tar.Maker().make(request, quiet))


def quiet(stage: str, done: int, total: int | None) -> None:
    """Hear of progress."""


def test_tar_says_what_runs_in_place_of_an_init(tmp_path: Path) -> None:
    root, file = tmp_path / "root", tmp_path / "web.tar"
    root.mkdir()
    os.setxattr(root, "user.note", b"mine")
    packed(root, file, RUNS, declaration="[machine.web]\n")
    assert archives.declaration(str(file), form="tar") == "[machine.web]\n"
    assert unpacked(file, tmp_path / "one") == RUNS
    # What is said of a machine is not of its tree, and what a guest says of itself there counts for nothing.
    assert os.listxattr(tmp_path / "one") == ["user.note"]
    (root / "etc").mkdir()
    os.setxattr(root, "user.machctl.payload", b'{"command": ["/bin/evil"]}')
    packed(root, file, None)
    assert archives.declaration(str(file), form="tar") == ""
    assert unpacked(file, tmp_path / "two") is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"{}", "cannot be read"),
        (b'{"command": []}', "cannot be read"),
        (b'{"command": "/bin/sh"}', "cannot be read"),
        (b'{"command": [1]}', "cannot be read"),
        (b'{"command": ["/bin/sh"], "user": ["root"]}', "cannot be read"),
        (b'{"command": ["/bin/sh"], "binds": ["/"]}', "cannot be read"),
        (b'{"command": ["/bin/sh"], "directory": "/\\n[Files]\\nBind=/"}', "which is no line"),
        (b'{"command": ["/bin/sh", "\\nBind=/"]}', "line break"),
        (b'{"command": ["/bin/sh"], "user": "nobody\\nBind=/"}', "getent"),
        (b'{"command": ["\\ud800"]}', "characters"),
        (b'{"command": ["/bin/sh"], "environment": ["A=\\u0000"]}', "characters"),
    ],
)
def test_what_would_be_more_than_a_payload_is_refused(said: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "web.tar"
    root = Entry("", "directory", 0o755, os.geteuid(), os.getegid(), xattrs={"user.machctl.payload": said})
    with create_archive(str(file), compression="none") as stream:
        write_tar([root], stream)
    with pytest.raises(MachctlError, match=words):
        unpacked(file, tmp_path / "one")


def test_tar_that_has_no_system_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "above/root/etc").mkdir(parents=True)
    packed(tmp_path / "above", tmp_path / "web.tar", None)
    with pytest.raises(MachctlError, match=r"tar:/.*web\.tar is not the root of a system: it has neither etc nor usr"):
        unpacked(tmp_path / "web.tar", tmp_path / "one")
    packed(tmp_path / "above/root", tmp_path / "web.tar", None)
    assert unpacked(tmp_path / "web.tar", tmp_path / "two") is None
