# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives from elsewhere, and the check sums that say whether they are what was meant."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from machines.errors import InvalidValue, MachctlError, NotFound
from machines.host.archive.entries import CHUNK
from machines.host.interfaces import Progress
from machines.host.loop import looped

if TYPE_CHECKING:
    import threading

_SECONDS_WITHOUT_DATA = 60
_HEX = {"sha256": 64, "sha512": 128}
_SCHEMES = ("http://", "https://", "file://")


async def fetch(url: str, target: Path, *, progress: Progress) -> str:
    """Download ``url`` into the file ``target`` and give its sha256 in hex; on failure there is no file.

    The proxies are those of the environment. Raises InvalidValue for what is no http, https or file URL, NotFound
    where the server has no such file, MachctlError saying what failed.
    """
    import asyncio
    import threading

    if not url.startswith(_SCHEMES):
        raise InvalidValue(f"{url!r} cannot be fetched", hint=f"use one of {', '.join(_SCHEMES)}")
    await looped()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    cancelled = threading.Event()

    def finish(digest: str, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(digest)
        else:
            done.set_exception(error)

    def work() -> None:
        digest, failure = "", None

        def report(stage: str, done: int, total: int | None) -> None:
            loop.call_soon_threadsafe(progress, stage, done, total)

        try:
            with target.open("wb") as file:
                digest = _download(url, file, report, cancelled)
        except MachctlError as error:
            failure = error
        except (OSError, ValueError) as error:
            failure = MachctlError(f"{url} cannot be fetched: {error}")
        if not cancelled.is_set():
            loop.call_soon_threadsafe(finish, digest, failure)

    # No thread of the loop's pool: a server that says nothing must not keep the process from ending.
    threading.Thread(target=work, daemon=True).start()
    try:
        return await done
    except BaseException:
        cancelled.set()
        target.unlink(missing_ok=True)
        raise


def _download(url: str, file: BinaryIO, progress: Progress, cancelled: threading.Event) -> str:
    import hashlib
    import http.client
    import urllib.error
    import urllib.request

    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "machctl"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_WITHOUT_DATA) as answer:
            length = answer.headers.get("Content-Length") or ""
            total = int(length) if length.isdigit() else None
            done = 0
            progress("fetching", 0, total)
            while not cancelled.is_set() and (data := answer.read(CHUNK)):
                file.write(data)
                digest.update(data)
                done += len(data)
                progress("fetching", done, total)
    except urllib.error.HTTPError as error:
        error.close()
        kind = NotFound if error.code in {404, 410} else MachctlError
        raise kind(f"{url} cannot be fetched: the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _unreachable(url, error.reason) from error
    except (http.client.HTTPException, OSError) as error:
        raise _unreachable(url, error) from error
    if total is not None and done < total and not cancelled.is_set():
        raise MachctlError(f"{url} cannot be fetched: the connection ended after {done} of {total} bytes")
    return digest.hexdigest()


def _unreachable(url: str, reason: object) -> MachctlError:
    import socket
    import ssl

    host = url.split("/")[2].rpartition("@")[2]
    if isinstance(reason, socket.gaierror):
        return MachctlError(
            f"{url} cannot be fetched: the name {host} cannot be resolved", hint="see resolvectl status"
        )
    if isinstance(reason, ssl.SSLError):
        said = getattr(reason, "verify_message", "") or getattr(reason, "reason", "") or reason
        return MachctlError(
            f"{url} cannot be fetched: TLS failed: {said}",
            hint="install ca-certificates, or see whether the clock is right",
        )
    if isinstance(reason, ConnectionRefusedError):
        return MachctlError(f"{url} cannot be fetched: {host} refused the connection")
    if isinstance(reason, TimeoutError):
        return MachctlError(f"{url} cannot be fetched: {host} does not answer")
    if isinstance(reason, FileNotFoundError) or "No such file" in str(reason):
        return NotFound(f"{url} cannot be fetched: there is no such file")
    if isinstance(reason, OSError) and reason.strerror:
        return MachctlError(f"{url} cannot be fetched: {reason.strerror}")
    return MachctlError(f"{url} cannot be fetched: {reason}")


def sha256_of(path: str | Path, *, progress: Progress | None = None) -> str:
    """Give the sha256 of a file in hex. Raises OSError."""
    return digest_of(path, "sha256", progress=progress)


def digest_of(path: str | Path, kind: str = "sha256", *, progress: Progress | None = None) -> str:
    """Give the digest of a file in hex; ``kind`` is sha256 or sha512. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        return digest_of_chunks(chunks_of(file), kind, progress=progress, total=total)


def digest_of_chunks(
    chunks: Iterator[bytes], algorithm: str, *, progress: Progress | None = None, total: int | None = None
) -> str:
    """Give the digest of all ``chunks`` in hex."""
    import hashlib

    digest = hashlib.new(algorithm)
    done = 0
    for data in chunks:
        digest.update(data)
        done += len(data)
        if progress is not None:
            progress("verifying", done, total)
    return digest.hexdigest()


def chunks_of(file: io.FileIO | BinaryIO) -> Iterator[bytes]:
    """Give what is left of a file in pieces."""
    while data := file.read(CHUNK):
        yield data


def parse_checksum(text: str) -> str:
    """Read ``sha256:HEX``, ``sha512:HEX`` or the HEX of a sha256 alone, and give ``ALGORITHM:hex``.

    Raises InvalidValue for anything else.
    """
    algorithm, colon, digits = text.strip().rpartition(":")
    algorithm = algorithm.lower() if colon else "sha256"
    if algorithm in _HEX and re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[algorithm]}}}", digits):
        return f"{algorithm}:{digits.lower()}"
    raise InvalidValue(f"{text!r} is no check sum", hint="write sha256: and the 64 digits that sha256sum(1) prints")


def check_sum(what: str, have: str, wanted: str) -> None:
    """Raise MachctlError where two check sums differ; ``have`` may be bare hex, ``wanted`` says of what kind."""
    wanted = parse_checksum(wanted)
    have = have if ":" in have else f"{wanted.partition(':')[0]}:{have}"
    if have != wanted:
        raise MachctlError(
            f"{what} is not what was wanted: its check sum is {have}, not {wanted}",
            hint="get it again, and compare the check sum with that of its maker",
        )
