# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tar archives as entries, read in one pass: ustar, GNU and pax, with what tarfile does not give.

That is extended attributes as bytes, holes as holes, memory that does not grow with the archive, and an error where
the archive ends too early. The formats: pax(1), and "Basic Tar Format" and "Storing Sparse Files" of GNU tar's manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NoReturn

from machines.errors import MachctlError
from machines.host.archive.entries import CHUNK, SECOND, Content, Entry, clean_path, is_kept, refused, shown
from machines.host.archive.tarwriter import BLOCK, XATTR, write_tar

__all__ = ["read_tar", "write_tar"]

_END = bytes(BLOCK)
# Long names, attributes and sparse maps: more than any file system can hold is no archive but an attack.
_EXTENDED_MAX = 8 * CHUNK
_KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file",
    b"1": "hardlink", b"2": "symlink", b"3": "character", b"4": "block", b"5": "directory", b"6": "fifo",
}  # fmt: skip
_NOT_TREE = {b"V", b"M", b"N"}
_ID_MAX = 2**32 - 2
_TIME = re.compile(rb"(-)?([0-9]{1,20})(?:\.([0-9]*))?")


def read_tar(stream: BinaryIO, *, name: str, trailer: bool = True, layer: bool = False) -> Iterator[Entry]:
    """Give the entries of a tar archive; the content of each is to be read before the next is asked for.

    ``name`` is what errors call the archive; ``trailer`` wants the zeros at its end, without which nobody knows
    whether it is whole; to a ``layer`` of an image "/" is the root of the tree.
    Raises MachctlError: no tar archive, truncated, corrupt, or with a member that would lead out of the tree.
    """
    return _Reader(stream, name, trailer=trailer, layer=layer).entries()


class _Reader:
    def __init__(self, stream: BinaryIO, name: str, *, trailer: bool, layer: bool) -> None:
        self.stream = stream
        self.name = name
        self.trailer = trailer
        self.layer = layer
        self.position = 0
        # What is still unread of the data of the entry that was given last, and of the padding behind it.
        self.left = self.padding = 0
        self.defaults: dict[str, bytes] = {}

    def entries(self) -> Iterator[Entry]:
        records: dict[str, bytes] = {}
        sparse: list[tuple[int, int]] = []
        long_name = long_target = None
        while True:
            header = self._header()
            if header is None:
                break
            kind = header[156:157]
            size = self._number(header, 124, 12)
            if size < 0:
                self._corrupt("a member of negative size")
            if kind in b"LKxgX":
                data = self._extended(size)
                if kind == b"L":
                    long_name = data.rstrip(b"\0")
                elif kind == b"K":
                    long_target = data.rstrip(b"\0")
                elif kind == b"g":
                    self.defaults.update(self._records(data, []))
                else:
                    records = self._records(data, sparse)
                continue
            entry = self._entry(header, kind, size, {**self.defaults, **records}, sparse, long_name, long_target)
            records, sparse, long_name, long_target = {}, [], None, None
            if entry is not None:
                yield entry
            self._skip()
        # What follows is padding, and the check sum of whatever it was compressed with.
        while self.stream.read(CHUNK):
            pass

    def _header(self) -> bytes | None:
        """Give the next header, or None at the end of the archive."""
        header = self.stream.read(BLOCK)
        if header == _END:
            return None
        if len(header) < BLOCK:
            if not self.position:
                self._no_tar() if header else self._fail("is empty")
            if header or self.trailer:
                self._truncated()
            return None
        # As old tars had it, some sum up the bytes as signed ones.
        unsigned = sum(header) - sum(header[148:156]) + 8 * 32
        try:
            wanted = int(header[148:156].strip(b" \0") or b"0", 8)
        except ValueError:
            wanted = -1
        if wanted != unsigned:
            signed = unsigned - 256 * sum(1 for byte in header[:148] + header[156:] if byte > 127)
            if wanted != signed:
                self._corrupt("the check sum of a header is wrong") if self.position else self._no_tar()
        self.position += BLOCK
        return header

    def _entry(
        self,
        header: bytes,
        kind: bytes,
        size: int,
        records: Mapping[str, bytes],
        sparse: list[tuple[int, int]],
        long_name: bytes | None,
        long_target: bytes | None,
    ) -> Entry | None:
        path = _text(long_name if long_name is not None else self._name(header))
        target = _text(long_target if long_target is not None else _until_nul(header[157:257]))
        mtime = self._number(header, 136, 12) * SECOND
        uid, gid = self._number(header, 108, 8), self._number(header, 116, 8)
        real = size
        xattrs: dict[str, bytes] = {}
        if records:
            path = _text(records.get("GNU.sparse.name", records.get("path", b""))) or path
            target = _text(records.get("linkpath", b"")) or target
            uid, gid = self._decimal(records, "uid", uid), self._decimal(records, "gid", gid)
            size = real = self._decimal(records, "size", size)
            mtime = self._time(records, mtime)
            xattrs = {
                key.removeprefix(XATTR): value
                for key, value in records.items()
                if key.startswith(XATTR) and is_kept(key.removeprefix(XATTR))
            }
        # A file of the oldest format whose name ends in a slash is a directory.
        word = "directory" if kind in b"0\0" and path.endswith("/") else _KINDS.get(kind)
        if kind in _NOT_TREE or (word is None and not kind.isdigit()):
            self._fail(f"has a member of a type that does not belong to a tree, {kind!r}: {shown(path)}")
        if word is None:
            word = "file"
        # Links may have the size of what they link to, but no data.
        self.left = size if word == "file" else 0
        self.padding = -self.left % BLOCK
        if self.layer:
            path, target = path.lstrip("/"), target.lstrip("/") if word == "hardlink" else target
        path = clean_path(path, archive=self.name)
        if not (0 <= uid <= _ID_MAX and 0 <= gid <= _ID_MAX):
            self._corrupt(f"an owner that cannot be, of {shown(path)}")
        content = None
        if word == "file":
            segments: tuple[tuple[int, int], ...] = ((0, size),)
            if kind == b"S":
                real, segments = self._number(header, 483, 12), tuple(self._old_sparse(header))
            elif records and any(key.startswith("GNU.sparse.") for key in records):
                real, segments = self._pax_sparse(records, sparse, size)
            self._check_segments(segments, real, path)
            content = Content(segments, lambda: self._chunks(segments)) if real else None
        elif word == "hardlink":
            real = 0
            target = clean_path(target, archive=self.name, what=f"hard link of {shown(path)}")
        else:
            real = 0
        device = (0, 0)
        if word in {"character", "block"}:
            device = (self._number(header, 329, 8), self._number(header, 337, 8))
        if "\0" in target:
            raise refused(f"{path} -> {target}", archive=self.name, reason="link has a NUL in its target")
        mode = self._number(header, 100, 8) & 0o7777
        return Entry(path, word, mode, uid, gid, mtime, real, target, device, xattrs, content)

    def _name(self, header: bytes) -> bytes:
        name = _until_nul(header[:100])
        # GNU's own format has other things there.
        if header[257:263] == b"ustar\0" and header[345:346] != b"\0":
            return _until_nul(header[345:500]) + b"/" + name
        return name

    def _number(self, header: bytes, start: int, length: int) -> int:
        """Read a number: octal, or where the first bit is set the two's complement in the rest (GNU)."""
        field = header[start : start + length]
        if field[0] & 0x80:
            number = int.from_bytes(field, "big")
            return number - (1 << 8 * length) if field[0] & 0x40 else number - (0x80 << 8 * (length - 1))
        try:
            return int(field.strip(b" \0") or b"0", 8)
        except ValueError:
            self._corrupt("a header has no number where one belongs")

    def _decimal(self, records: Mapping[str, bytes], key: str, default: int) -> int:
        text = records.get(key)
        if text is None:
            return default
        if not text.isdigit() or len(text) > 20:
            self._corrupt(f"{key} is no number")
        return int(text)

    def _time(self, records: Mapping[str, bytes], default: int) -> int:
        """Give a time in nanoseconds, of which a float holds too few digits."""
        text = records.get("mtime")
        if text is None:
            return default
        if found := _TIME.fullmatch(text):
            sign, whole, part = found.groups(b"")
            nanoseconds = int(whole) * SECOND + int(part[:9].ljust(9, b"0"))
            return -nanoseconds if sign else nanoseconds
        try:
            # Python's tarfile has them as its floats are printed, such as 5e-05.
            return round(float(text) * SECOND)
        except (ValueError, OverflowError):
            self._corrupt("mtime is no number")

    def _extended(self, size: int) -> bytes:
        if size > _EXTENDED_MAX:
            self._corrupt(f"{size} bytes of names and attributes for one member")
        self.left, self.padding = size, -size % BLOCK
        data = self._read(size)
        self._skip()
        return data

    def _records(self, data: bytes, sparse: list[tuple[int, int]]) -> dict[str, bytes]:
        """Read the "LENGTH KEY=VALUE\\n" records of an extended header (pax(1))."""
        found: dict[str, bytes] = {}
        start, offset = 0, 0
        while start < len(data):
            space = data.find(b" ", start, start + 12)
            length = int(data[start:space]) if space > start and data[start:space].isdigit() else 0
            record = data[space + 1 : start + length - 1]
            key, equals, value = record.partition(b"=")
            if not equals or data[start + length - 1 : start + length] != b"\n":
                # Some writers fill it up with NULs.
                if not data[start:].strip(b"\0"):
                    break
                self._corrupt("an extended header cannot be read")
            word = _text(key)
            if word in {"GNU.sparse.offset", "GNU.sparse.numbytes"}:
                number = self._decimal({word: value}, word, 0)
                if word == "GNU.sparse.offset":
                    offset = number
                else:
                    sparse.append((offset, number))
            found[word] = value
            start += length
        return found

    def _old_sparse(self, header: bytes) -> Iterator[tuple[int, int]]:
        """Read the map of a sparse file of GNU's own format: four pairs, more in blocks that follow."""
        block, first, pairs, more = header, 386, 4, header[482]
        while True:
            for index in range(pairs):
                start = first + 24 * index
                if block[start] == 0:
                    return
                yield self._number(block, start, 12), self._number(block, start + 12, 12)
            if not more:
                return
            block = self.stream.read(BLOCK)
            if len(block) < BLOCK:
                self._truncated()
            self.position += BLOCK
            first, pairs, more = 0, 21, block[504]

    def _pax_sparse(
        self, records: Mapping[str, bytes], sparse: list[tuple[int, int]], size: int
    ) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Give the real size and the map of a sparse file of the formats 0.0, 0.1 and 1.0."""
        real = self._decimal(records, "GNU.sparse.realsize", self._decimal(records, "GNU.sparse.size", size))
        if records.get("GNU.sparse.major") == b"1":
            return real, self._leading_map()
        if "GNU.sparse.map" in records:
            try:
                numbers = [int(word) for word in records["GNU.sparse.map"].split(b",") if word]
                return real, tuple(zip(numbers[::2], numbers[1::2], strict=True))
            except ValueError:
                self._corrupt("a sparse file's map cannot be read")
        return real, tuple(sparse)

    def _leading_map(self) -> tuple[tuple[int, int], ...]:
        """Read the map that stands before a sparse file's data: decimal lines, filled up to whole blocks."""
        text = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            if self.left < BLOCK or len(text) > _EXTENDED_MAX:
                self._corrupt("a sparse file's map cannot be read")
            *lines, text = (text + self._read(BLOCK)).split(b"\n")
            for line in lines:
                if not line.isdigit() or len(line) > 20:
                    self._corrupt("a sparse file's map cannot be read")
                numbers.append(int(line))
                wanted = 1 + 2 * numbers[0]
                if len(numbers) == wanted:
                    break
            if wanted > _EXTENDED_MAX:
                self._corrupt("a sparse file's map cannot be read")
        return tuple(zip(numbers[1::2], numbers[2::2], strict=True))

    def _check_segments(self, segments: tuple[tuple[int, int], ...], real: int, path: str) -> None:
        end = 0
        for start, length in segments:
            if start < end or length < 0:
                self._corrupt(f"the map of the sparse file {shown(path)} cannot be")
            end = start + length
        if end > real or sum(length for _, length in segments) != self.left:
            self._corrupt(f"the map of the sparse file {shown(path)} does not fit its size")

    def _chunks(self, segments: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, bytes]]:
        for start, length in segments:
            done = 0
            while done < length:
                data = self._read(min(CHUNK, length - done))
                yield start + done, data
                done += len(data)

    def _read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            self._truncated()
        self.left -= count
        self.position += count
        return data

    def _skip(self) -> None:
        """Read on to the next header."""
        while self.left > CHUNK:
            self._read(CHUNK)
        if self.left:
            self._read(self.left)
        if self.padding:
            self.position += self.padding
            if len(self.stream.read(self.padding)) < self.padding and self.trailer:
                self._truncated()
            self.padding = 0

    def _truncated(self) -> NoReturn:
        raise MachctlError(f"{self.name} is truncated: it ends after {self.position} bytes", hint="get it again")

    def _no_tar(self) -> NoReturn:
        self._fail("is no tar archive")

    def _fail(self, what: str) -> NoReturn:
        raise MachctlError(f"{self.name} {what}", hint="see what it is: file FILE")

    def _corrupt(self, what: str) -> NoReturn:
        raise MachctlError(f"{self.name} is corrupt near byte {self.position}: {what}", hint="get it again")


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
