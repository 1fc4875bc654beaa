"""Downloads
=========

Fetches files over HTTP, through the proxies that the environment names (http_proxy, https_proxy,
no_proxy), or from ``file:`` URLs. A file is used only if it has the digest that was known before.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from kvmtest.errors import EnvironmentUnfit

__all__ = ["DownloadError", "Place", "download", "fetched", "read"]

_CHUNK = 1 << 16
# How often a transfer that broke off is begun again.
_REPEATS = 1
# A place that says nothing for so long is given up,
_SILENCE_S = 20.0
# and, after the first half minute, one that sends less on average.
_PATIENCE_S = 30.0
_SLOWEST = 10_000  # bytes a second


class DownloadError(EnvironmentUnfit):
    """No place has the file; the message says why, place by place."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is, and what it must be to be taken from there."""

    url: str
    sha256: str
    most: int
    """Bytes at most; a larger file is refused before it has come whole."""


def download(places: Sequence[Place], path: Path) -> Place:
    """Write the file to ``path`` from the first place that has it; return that place.

    ``path`` is written only when the digest was found right. Raises DownloadError, and OSError
    where ``path`` can't be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            place = _from_first(places, file)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return place


def fetched(places: Sequence[Place]) -> bytes:
    """Return the file from the first place that has it. Raises DownloadError."""
    file = BytesIO()
    _from_first(places, file)
    return file.getvalue()


def read(url: str, most: int) -> bytes:
    """Return a file of at most ``most`` bytes whose digest is not known. Raises DownloadError."""
    file = BytesIO()
    try:
        _fetch(url, file, most)
    except _Refused as error:
        raise DownloadError(str(error)) from None
    return file.getvalue()


def _from_first(places: Sequence[Place], file: BinaryIO) -> Place:
    refusals = []
    for place in places:
        try:
            digest = _fetch(place.url, file, place.most)
        except _Refused as error:
            refusals.append(str(error))
            continue
        if digest == place.sha256:
            return place
        refusals.append(f"{place.url} has another file, of SHA-256 {digest}")
    raise DownloadError("; ".join(refusals))


class _Refused(Exception):
    """A URL, and why nothing came from there."""

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"{url}: {why}")


class _BrokenOff(_Refused):
    """The transfer began and did not end; the next one may."""


def _fetch(url: str, file: BinaryIO, most: int) -> str:
    """Write the contents of ``url`` alone to ``file``; return their SHA-256 digest.

    Raises _Refused.
    """
    for _ in range(_REPEATS):
        try:
            return _fetch_once(url, file, most)
        except _BrokenOff:
            pass
    return _fetch_once(url, file, most)


def _fetch_once(url: str, file: BinaryIO, most: int) -> str:
    request = urllib.request.Request(url, headers={"User-Agent": "kvmtest"})
    try:
        # Not urlopen: it asks the environment for proxies only once.
        answer = urllib.request.build_opener().open(request, timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        with error:
            raise _Refused(url, f"{error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _Refused(url, _words(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Refused(url, _words(error)) from None
    with answer:
        announced = answer.headers["Content-Length"] or ""
        wanted = int(announced) if announced.isascii() and announced.isdecimal() else None
        if wanted is not None and wanted > most:
            raise _Refused(url, f"{wanted} bytes, more than the {most} expected")
        return _copy(url, answer, file, most, wanted)


def _copy(
    url: str, answer: http.client.HTTPResponse, file: BinaryIO, most: int, wanted: int | None
) -> str:
    file.seek(0)
    file.truncate()
    start = time.monotonic()
    digest, received = hashlib.sha256(), 0
    while True:
        try:
            # Not read: it would wait until the chunk is full, however slowly that comes.
            chunk = answer.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOff(url, f"broken off after {received} bytes ({_words(error)})") from None
        if not chunk:
            break
        received += len(chunk)
        if received > most:
            raise _Refused(url, f"more than the {most} bytes expected")
        if received < _SLOWEST * (time.monotonic() - start - _PATIENCE_S):
            raise _Refused(url, f"too slow: {received} bytes in {time.monotonic() - start:.0f} s")
        digest.update(chunk)
        file.write(chunk)
    if wanted is not None and received < wanted:
        raise _BrokenOff(url, f"broken off after {received} of {wanted} bytes")
    return digest.hexdigest()


def _words(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
