"""The emulator's source
=====================

Fetches the source archive of the Bochs that the lab builds. The digests are fixed; the places that
keep it are a list, because archives lose old versions.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import files
from kvmtest.kernels.archive import MIRROR, source_places
from kvmtest.kernels.download import DownloadError, Place, download
from kvmtest.named_file import MIB

__all__ = ["VARIABLE", "VERSION", "SourceMissing", "source"]

VERSION = "3.0"
VARIABLE = "KVMTEST_BOCHS_SOURCE"
"""The environment's variable that names a file with the source."""

_MOST = 32 * MIB
# Repacked by Debian, and as upstream released it.
_DEBIAN = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b"
_UPSTREAM = "cb6f542b51f35a2cc9206b2a980db5602b7cd1b7cf2e4ed4f116acd5507781aa"
_NAMES = {_DEBIAN: "bochs_3.0+dfsg.orig.tar.xz", _UPSTREAM: "bochs-3.0.tar.gz"}
_POOL = Place(f"{MIRROR}/debian/pool/main/b/bochs/{quote(_NAMES[_DEBIAN])}", _DEBIAN, _MOST)
#: Whose signed indices are asked where the file has been moved to.
_SUITES = ("trixie", "sid")
_OTHERS = (
    # snapshot.debian.org names a file by its SHA-1 digest, and keeps it.
    Place(
        "https://snapshot.debian.org/file/ddf79e36d37983df903e137da8a6f18089d04612", _DEBIAN, _MOST
    ),
    Place(
        f"https://downloads.sourceforge.net/project/bochs/bochs/3.0/{_NAMES[_UPSTREAM]}",
        _UPSTREAM,
        _MOST,
    ),
)
_KIND = "bochs-source"

OnStep = Callable[[str], None]


class SourceMissing(EnvironmentUnfit):
    """There is no source; the message says what was tried and what to do."""


def source(cache: Cache, on_step: OnStep, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the source archive (.tar.xz or .tar.gz) in ``cache``; its digest is a known one.

    It comes from the file that VARIABLE names, from an earlier call, or from the first place that
    has it. ``on_step`` gets a line before a download. Raises SourceMissing, and EnvironmentUnfit
    where the cache can't be written.
    """
    if named := environment.get(VARIABLE):
        return _given(Path(named), cache)
    return _fetched(cache, on_step)


def _given(path: Path, cache: Cache) -> Path:
    """Return the user's file, as the cache keeps it from now on."""
    try:
        content = files.read(path, _MOST)
    except EnvironmentUnfit as error:
        raise SourceMissing(f"{VARIABLE}: {error}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest not in _NAMES:
        raise SourceMissing(
            f"{VARIABLE}: {path} is not the source of Bochs {VERSION} (its SHA-256 is {digest}); "
            f"name {' or '.join(_NAMES.values())}"
        )
    name = _NAMES[digest]

    def make(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return cache.entry(_KIND, digest, make) / name


def _fetched(cache: Cache, on_step: OnStep) -> Path:
    refusals: list[str] = []
    known = (_POOL, *_OTHERS)
    kept = [place for place in known if (cache.root / _KIND / place.sha256).is_dir()]
    for place in chain(kept, _places(on_step, refusals)):
        try:
            return _from(place, cache, on_step)
        except DownloadError as error:
            refusals.append(str(error))
    raise SourceMissing(
        f"the source of Bochs {VERSION} can't be fetched ({'; '.join(refusals)}); check the "
        f"network, or name the file: {VARIABLE}=FILE"
    )


def _places(on_step: OnStep, refusals: list[str]) -> Iterator[Place]:
    """Give the places one by one; what can't be asked is added to ``refusals``."""
    yield _POOL
    on_step("asking Debian's index of sources for the source of Bochs")
    try:
        yield from (place for place in source_places(_SUITES, _DEBIAN) if place.url != _POOL.url)
    except EnvironmentUnfit as error:
        refusals.append(str(error))
    yield from _OTHERS


def _from(place: Place, cache: Cache, on_step: OnStep) -> Path:
    name = _NAMES[place.sha256]

    def make(folder: Path) -> None:
        on_step(f"downloading the source of Bochs {VERSION}: {place.url}")
        download([place], folder / name)

    return cache.entry(_KIND, place.sha256, make) / name
