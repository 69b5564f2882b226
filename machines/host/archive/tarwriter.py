# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries as a tar archive in pax format: numeric owners, and records only for what a plain header cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

from machines.errors import MachctlError
from machines.host.archive.entries import CHUNK, SECOND, Content, Counts, Entry, shown
from machines.host.interfaces import Progress

BLOCK = 512
XATTR = "SCHILY.xattr."

_TYPES = {
    "file": b"0", "hardlink": b"1", "symlink": b"2", "character": b"3", "block": b"4", "directory": b"5", "fifo": b"6",
}  # fmt: skip
_OCTAL_7, _OCTAL_11 = 8**7, 8**11
# As GNU tar has it; some readers want whole records.
_RECORD = 20 * BLOCK
_REPORT_ENTRIES, _REPORT_BYTES = 500, 8 * CHUNK
_BUFFER = CHUNK
_ZEROS = bytes(BLOCK)


def write_tar(
    entries: Iterable[Entry],
    stream: BinaryIO,
    *,
    progress: Progress | None = None,
    stage: str = "packing",
    total: int | None = None,
) -> Counts:
    """Write ``entries`` as a tar archive, holes as holes, and give what was written; sockets are left out."""
    count = size = 0
    reported = (0, 0)
    parts: list[bytes] = []
    waiting = written = 0

    def put(data: bytes) -> None:
        nonlocal waiting, written
        parts.append(data)
        waiting += len(data)
        written += len(data)
        if waiting >= _BUFFER:
            flush()

    def flush() -> None:
        nonlocal waiting
        stream.write(b"".join(parts))
        parts.clear()
        waiting = 0

    for entry in entries:
        kind = _TYPES.get(entry.kind)
        if kind is None:
            continue
        segments = entry.content.segments if entry.content is not None else ()
        length = sum(piece[1] for piece in segments)
        lead = b""
        if entry.kind == "file" and length != entry.size:
            lead = _map(segments, entry.size)
        put(_headers(entry, kind, stored=len(lead) + length, sparse=bool(lead)))
        if lead:
            put(lead)
        if entry.content is not None:
            for data in _exactly(entry.content, entry.path):
                put(data)
                size += len(data)
                if progress is not None and size - reported[1] >= _REPORT_BYTES:
                    reported = (count, size)
                    progress(stage, size, total)
            if length % BLOCK:
                put(_ZEROS[: -length % BLOCK])
        count += 1
        if progress is not None and count - reported[0] >= _REPORT_ENTRIES:
            reported = (count, size)
            progress(stage, size, total)
    put(_ZEROS * 2)
    put(bytes(-written % _RECORD))
    flush()
    if progress is not None:
        progress(stage, size, total)
    return Counts(count, size)


def _exactly(content: Content, path: str) -> Iterable[bytes]:
    """Give the data of a file as long as its header says, with zeros for what has gone from it meanwhile."""
    pieces = content.chunks()
    offset, data = next(pieces, (0, b""))
    for start, length in content.segments:
        done = 0
        while done < length:
            if not data or offset != start + done:
                missing = min(CHUNK, length - done)
                yield bytes(missing)
                done += missing
                continue
            if len(data) > length - done:
                raise MachctlError(f"{shown(path)} has data where it should have a hole")
            yield data
            done += len(data)
            offset, data = next(pieces, (0, b""))


def _map(segments: Sequence[tuple[int, int]], size: int) -> bytes:
    """Give the map of a sparse file as GNU's format 1.0 has it before the data."""
    if not segments or sum(segments[-1]) != size:
        # GNU tar takes the end of the last piece for that of the file.
        segments = (*segments, (size, 0))
    numbers = [len(segments), *(number for piece in segments for number in piece)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text + bytes(-len(text) % BLOCK)


def _headers(entry: Entry, kind: bytes, *, stored: int, sparse: bool) -> bytes:
    path = _bytes(entry.path or ".")
    if entry.kind == "directory":
        path += b"/"
    target = _bytes(entry.target)
    records: dict[str, bytes] = {}
    if sparse:
        records |= {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": path}
        records["GNU.sparse.realsize"] = str(entry.size).encode()
        path = b"GNUSparseFile.0/" + path[-80:]
    elif len(path) > 100 or not path.isascii():
        records["path"] = path
    if len(target) > 100 or not target.isascii():
        records["linkpath"] = target
    uid, gid, size, (seconds, rest) = entry.uid, entry.gid, stored, divmod(entry.mtime, SECOND)
    if uid >= _OCTAL_7:
        records["uid"], uid = str(uid).encode(), 0
    if gid >= _OCTAL_7:
        records["gid"], gid = str(gid).encode(), 0
    if size >= _OCTAL_11:
        records["size"], size = str(size).encode(), 0
    if rest or not 0 <= seconds < _OCTAL_11:
        whole, part = divmod(abs(entry.mtime), SECOND)
        records["mtime"] = f"{'-' * (entry.mtime < 0)}{whole}.{part:09}".rstrip("0").rstrip(".").encode()
        seconds = min(max(seconds, 0), _OCTAL_11 - 1)
    records |= {XATTR + key: value for key, value in entry.xattrs.items()}
    head = b""
    if records:
        data = _records(records)
        name = b"PaxHeaders/" + path.rstrip(b"/")[-80:]
        head = _header(name, b"x", 0o644, 0, 0, len(data), 0) + data + bytes(-len(data) % BLOCK)
    header = _header(path, kind, entry.mode, uid, gid, size, seconds, target=target, device=entry.device)
    return head + header


def _records(records: Mapping[str, bytes]) -> bytes:
    """Give records as pax(1) has them; each begins with its own length, digits included."""
    found = []
    for key, value in records.items():
        body = b" " + _bytes(key) + b"=" + value + b"\n"
        length = len(body)
        while length != len(body) + len(str(length)):
            length = len(body) + len(str(length))
        found.append(str(length).encode() + body)
    return b"".join(found)


def _header(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    *,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """Give a ustar header; names that do not fit are in records before it."""
    front = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name[:100].ljust(100, b"\0"), mode, uid, gid, size, mtime)
    numbers = b"%07o\0%07o\0" % device
    back = b"%b%bustar\x0000%b%b%b" % (kind, target[:100].ljust(100, b"\0"), bytes(64), numbers, bytes(167))
    checksum = sum(front) + sum(back) + 8 * 32
    return b"%b%06o\0 %b" % (front, checksum, back)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
