# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives that mean harm or are not whole: nothing outside the tree is touched, and the error names the member."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from machines.errors import InvalidValue, MachctlError, NotFound
from machines.host.archive.compress import create_archive, open_archive
from machines.host.archive.entries import Counts, Entry
from machines.host.archive.fetch import check_sum, fetch, parse_checksum, sha256_of
from machines.host.archive.tar import read_tar, write_tar
from machines.host.archive.tree import write_tree

LINKS = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Something next to the tree that must stay as it is."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "file").write_text("mine")
    (path / "file").chmod(0o600)
    return path


@pytest.fixture
def tree(tmp_path: Path, outside: Path) -> Path:
    """An empty tree."""
    path = tmp_path / "tree"
    path.mkdir()
    return path


def archive(*members: tuple[str, str, str]) -> bytes:
    """Make a tar archive of (kind, path, text or target)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for kind, path, text in members:
            info = tarfile.TarInfo(path)
            info.mode = 0o4777
            if kind == "file":
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
                continue
            info.type, info.linkname = LINKS.get(kind, tarfile.DIRTYPE), text
            tar.addfile(info)
    return file.getvalue()


def unpack(data: bytes, tree: Path, *, devices: bool = True) -> Counts:
    fd = os.open(tree, os.O_RDONLY)
    try:
        return write_tree(read_tar(io.BytesIO(data), name="a.tar"), fd, devices=devices, name="a.tar")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([("file", "../evil", "x")], "'../evil'"),
        ([("file", "a/../../evil", "x")], "leads out"),
        ([("file", "/evil", "x")], "absolute"),
        ([("directory", "..", "")], "leads out"),
        ([("hardlink", "a", "../outside/file")], "leads out"),
        ([("hardlink", "a", "/etc/passwd")], "absolute"),
        ([("hardlink", "a", "nothing")], "'nothing', which is not there"),
        ([("directory", "d", ""), ("hardlink", "a", "d")], "hard link to a directory"),
        ([("symlink", "up", "../outside"), ("file", "up/evil", "x")], "up/evil"),
        ([("symlink", "up", "../outside"), ("hardlink", "a", "up/file")], "which is not there"),
        ([("file", "f", "x"), ("file", "f/evil", "x")], "'f/evil'"),
        ([("directory", "d", ""), ("file", "d/e", "x"), ("file", "d", "x")], "not empty"),
        ([("symlink", "loop", "loop"), ("file", "loop/x", "x")], "loop/x"),
    ],
)
def test_refused(members: list[tuple[str, str, str]], word: str, tree: Path, outside: Path) -> None:
    with pytest.raises(MachctlError) as caught:
        unpack(archive(*members), tree)
    assert word in caught.value.message
    assert "a.tar" in caught.value.message
    assert sorted(path.name for path in tree.parent.iterdir()) == ["outside", "tree"]
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").stat().st_nlink == 1


def test_symlinks_are_replaced_or_lead_inside(tree: Path, outside: Path) -> None:
    data = archive(
        ("symlink", "direct", f"{outside}/file"), ("file", "direct", "new"),
        ("symlink", "etc", "/"), ("file", "etc/inside", "x"),
        ("symlink", "one", f"{outside}/file"), ("hardlink", "two", "one"), ("file", "two", "new"),
        ("symlink", "dir", str(outside)), ("directory", "dir", ""), ("file", "dir/x", "x"),
        ("symlink", "f", "direct"), ("symlink", "f", "/etc/passwd"),
    )  # fmt: skip
    unpack(data, tree)
    assert (tree / "direct").read_text() == "new"
    assert not (tree / "direct").is_symlink()
    assert (tree / "inside").read_text() == "x"
    assert (tree / "one").is_symlink()
    assert (tree / "two").read_text() == "new"
    assert not (tree / "dir").is_symlink()
    assert (tree / "f").readlink() == Path("/etc/passwd")
    assert (outside / "file").read_text() == "mine"
    assert (outside / "file").stat().st_mode & 0o7777 == 0o600
    assert [path.name for path in outside.iterdir()] == ["file"]


def test_entries_are_not_trusted_either(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    try:
        for entry in (
            Entry("../x", "file"), Entry("/x", "file"), Entry("a\0b", "file"), Entry("x", "symlink", target="a\0"),
            Entry("x", "hardlink", target="../outside/file"), Entry("x", "file", uid=-5), Entry("", "file"),
            Entry("x" * 300, "file"), Entry("x", "file", uid=2**40), Entry("x", "character", device=(2**40, 2**40)),
        ):  # fmt: skip
            with pytest.raises(MachctlError):
                write_tree([entry], fd)
    finally:
        os.close(fd)


def test_devices_can_be_left_out(tree: Path) -> None:
    entries = [
        Entry("null", "character", device=(1, 3)), Entry("again", "hardlink", target="null"), Entry("f", "file"),
    ]  # fmt: skip
    file = io.BytesIO()
    write_tar(entries, file)
    assert unpack(file.getvalue(), tree, devices=False) == Counts(3, 0, 2, 0)
    assert [path.name for path in tree.iterdir()] == ["f"]


def test_attributes_that_no_kernel_takes_are_counted(tree: Path) -> None:
    xattrs = {"user." + "x" * 300: b"", "system.posix_acl_access": b"junk", "trusted.overlay.redirect": b"/"}
    file = io.BytesIO()
    write_tar([Entry("f", "file", xattrs=xattrs)], file)
    assert unpack(file.getvalue(), tree).xattrs_lost == 2
    assert os.listxattr(tree / "f") == []


def test_truncated_anywhere(tree: Path) -> None:
    whole = archive(("file", "a", "x" * 3000), ("directory", "d" * 120, ""), ("symlink", "l", "a"))
    for length in [*range(0, 600, 37), *range(512, 6144, 256)]:
        with pytest.raises(MachctlError, match=r"truncated|empty|no tar archive") as caught:
            unpack(whole[:length], tree)
        assert caught.value.message.startswith("a.tar")
    assert unpack(whole, tree).entries == 3


def test_corrupt_headers(tree: Path) -> None:
    whole = archive(("file", "a", "x" * 600), ("file", "b" * 200, "y"))
    complaints = set()
    for position in range(0, len(whole) - 10240 + 4096, 29):
        bad = bytearray(whole)
        bad[position] ^= 0x15
        try:
            unpack(bytes(bad), tree)
        except MachctlError as error:
            complaints.add(error.message.split(": ")[-1])
    assert "the check sum of a header is wrong" in complaints
    for junk in (b"\x7fELF" + bytes(2000), b"PK\3\4" + bytes(2000), b"x" * 512):
        with pytest.raises(MachctlError, match="no tar archive"):
            unpack(junk, tree)


@pytest.mark.parametrize(
    "records",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
        {"GNU.sparse.map": "0,5,3,5", "GNU.sparse.realsize": "20"},
        {"GNU.sparse.map": "0,4,100,6", "GNU.sparse.realsize": "20"},
        {"GNU.sparse.map": "0,x", "GNU.sparse.realsize": "20"},
        {"size": "-1"},
        {"uid": "99999999999"},
        {"mtime": "never"},
        {"mtime": "nan"},
        {"mtime": "-inf"},
    ],
)
def test_corrupt_records(records: dict[str, str], tree: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.size, info.pax_headers = 10, records
        tar.addfile(info, io.BytesIO(b"0123456789"))
    with pytest.raises(MachctlError, match="corrupt"):
        unpack(file.getvalue(), tree)


def test_sizes_beyond_all_bounds(tree: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.pax_headers = {"GNU.sparse.map": f"{2**62},0", "GNU.sparse.realsize": str(2**62)}
        tar.addfile(info)
    with pytest.raises(MachctlError, match="'f'"):
        unpack(file.getvalue(), tree)


def squeezed(kind: str, data: bytes) -> bytes:
    if kind == "zstd":
        return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout
    return {"gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}[kind](data)


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bzip2"])
def test_compressed(kind: str, tmp_path: Path, tree: Path) -> None:
    data = squeezed(kind, archive(("file", "a", os.urandom(50_000).hex())))
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    read, write = os.pipe()
    os.write(write, data[:40_000])
    os.close(write)
    with open_archive(str(path)) as stream:
        assert [entry.size for entry in read_tar(stream, name="a")] == [100_000]
    with open_archive(io.BytesIO(data)) as stream:
        assert [entry.size for entry in read_tar(stream, name="a")] == [100_000]
    with pytest.raises(MachctlError, match="the pipe is truncated"), open_archive(read, name="the pipe") as stream:
        list(read_tar(stream, name="a"))
    os.close(read)
    for length in (7, 100, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(MachctlError, match=r"a\.tar is (truncated|corrupt)"), open_archive(str(path)) as stream:
            list(read_tar(stream, name=str(path)))
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0xFF
    path.write_bytes(broken)
    with pytest.raises(MachctlError, match=r"a\.tar is (corrupt|truncated)"), open_archive(str(path)) as stream:
        list(read_tar(stream, name=str(path)))


def test_pipes_that_are_not_compressed() -> None:
    data = archive(("file", "a", "x" * 20_000))
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    with open_archive(read) as stream:
        assert [entry.path for entry in read_tar(stream, name="a")] == ["a"]
    os.close(read)


def test_no_archive_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound), open_archive(str(tmp_path / "none")):
        pass
    with pytest.raises(MachctlError, match="directory"), open_archive(str(tmp_path)):
        pass


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_archives_appear_whole_or_not_at_all(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tar"
    path.write_text("old")

    def interrupted() -> None:
        with create_archive(str(path), compression=compression) as stream:  # type: ignore[arg-type]
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
    assert path.read_text() == "old"
    full = create_archive("/dev/full", compression=compression)  # type: ignore[arg-type]
    with pytest.raises(MachctlError, match="No space left"), full as stream:
        stream.write(os.urandom(3_000_000))
    with pytest.raises(NotFound), create_archive(str(tmp_path / "none/a.tar")):
        pass


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_an_archive_that_nobody_reads(compression: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    nobody = create_archive(writing, compression=compression)  # type: ignore[arg-type]
    with pytest.raises(BrokenPipeError), nobody as stream:
        stream.write(os.urandom(3_000_000))
    os.close(writing)


def test_check_sums(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path) == wanted
    assert parse_checksum(wanted.upper()) == parse_checksum(f"sha256:{wanted}") == f"sha256:{wanted}"
    assert parse_checksum("sha512:" + "0" * 128)
    check_sum("x", wanted, f"sha256:{wanted}")
    with pytest.raises(MachctlError, match=rf"x .*{wanted}.*{'0' * 64}"):
        check_sum("x", wanted, "0" * 64)
    for text in ("", "abc", "md5:" + "0" * 32, "sha256:" + "0" * 63, "sha512:" + "0" * 64, "sha256:" + "g" * 64):
        with pytest.raises(InvalidValue):
            parse_checksum(text)


def test_fetch(tmp_path: Path) -> None:
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path != "/none" else 404)
            self.send_header("Content-Length", "9" if self.path == "/short" else "4")
            self.end_headers()
            self.wfile.write(b"data")

        def log_message(self, *_: object) -> None:
            pass

    target = tmp_path / "t"
    said: list[tuple[str, int, int | None]] = []

    def get(url: str) -> str:
        return asyncio.run(fetch(url, target, progress=lambda *what: said.append(what)))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert get(f"{base}/x") == sha256_of(target)
        assert said[-1] == ("fetching", 4, 4)
        with pytest.raises(NotFound, match="404"):
            get(f"{base}/none")
        assert not target.exists()
        with pytest.raises(MachctlError, match="ended after 4 of 9"):
            get(f"{base}/short")
        with pytest.raises(MachctlError, match="TLS failed"):
            get(f"https://127.0.0.1:{server.server_port}/")
        server.shutdown()
    with pytest.raises(MachctlError, match="refused the connection"):
        get(f"{base}/x")
    with pytest.raises(MachctlError, match="cannot be resolved"):
        get("http://no-such-host.invalid/x")
    with pytest.raises(NotFound):
        get(f"file://{tmp_path}/none")
    with pytest.raises(InvalidValue):
        get("gopher://x/")
    (tmp_path / "local").write_bytes(b"abc")
    assert get(f"file://{tmp_path}/local") == sha256_of(tmp_path / "local")
