"""Debian's archive
================

Finds kernels in Debian's archive and downloads them, on any distribution: neither apt nor root is
needed, as the archive's signatures and digests are checked here.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.download import Place, download
from kvmtest.kernels.offers import (
    BuildKit,
    Offer,
    Package,
    build_kit,
    default_offer,
    find_offer,
    offers,
)
from kvmtest.kernels.suite import Suite, SuitePackages

__all__ = ["DEFAULT_SERIES", "SUITES", "Archive", "host_codename", "source_places"]

DEFAULT_SERIES = "6.12"
"""The long-term series whose newest kernel is taken where the user names none."""

MIRROR = "http://deb.debian.org"
SUITES = {
    "bullseye": "debian",
    "bullseye-security": "debian-security",
    "bookworm": "debian",
    "bookworm-backports": "debian",
    "bookworm-security": "debian-security",
    "trixie": "debian",
    "trixie-backports": "debian",
    "trixie-security": "debian-security",
    "sid": "debian",
}
"""The suites that have kernels, each with its folder on the mirror."""

_DAY = 24 * 3600.0

OnStep = Callable[[str], None]


class Archive:
    """The suites of SUITES; what their lists say of kernels is kept in ``cache``.

    ``on_step`` gets a line before each step that takes seconds. What was kept for more than
    ``max_age`` seconds is fetched again; where that fails, it serves on.
    """

    def __init__(self, cache: Cache, on_step: OnStep, *, max_age: float = _DAY) -> None:
        self._cache = cache
        self._root = cache.root / "archive"
        self._on_step = on_step
        self._max_age = max_age
        self._packages: list[Package] | None = None

    def offers(self) -> list[Offer]:
        """Return the kernels on offer, oldest first. Raises EnvironmentUnfit."""
        return offers(self.packages())

    def find(self, typed: str | None = None) -> Offer:
        """Return the kernel that ``typed`` means, such as 6.1.170-3; None means the default.

        The default is the newest of DEFAULT_SERIES in this machine's Debian release, whose headers
        build here. Raises UsageError where it is not offered, EnvironmentUnfit.
        """
        on_offer, codename = self.offers(), host_codename()
        if typed is None:
            return default_offer(DEFAULT_SERIES, on_offer, codename)
        return find_offer(typed, on_offer, codename)

    def build_kit(self, offer: Offer) -> BuildKit:
        """Return the packages that build modules for ``offer``. Raises UsageError."""
        return build_kit(offer, self.packages())

    def packages(self) -> list[Package]:
        """Return all packages of kernels. Raises EnvironmentUnfit where there are no lists."""
        if self._packages is None:
            with self._cache.lock("archive", "lists"):
                lists = self._lists()
            self._packages = [package for each in lists.values() for package in each.packages]
        if not self._packages:
            raise EnvironmentUnfit(
                f"Debian's archive offers no kernels in {', '.join(SUITES)}; give a kernel's .deb"
            )
        return self._packages

    def download(self, packages: Iterable[Package], folder: Path) -> list[Path]:
        """Download ``packages`` into the empty ``folder``; return the files in the same order.

        Raises EnvironmentUnfit.
        """
        wanted = list(packages)
        megabytes = sum(package.size for package in wanted) / 1e6
        self._on_step(
            f"downloading {', '.join(f'{p.name} {p.version}' for p in wanted)} "
            f"from Debian's archive ({megabytes:.0f} MB)"
        )
        return [_downloaded(package, folder) for package in wanted]

    def _lists(self) -> dict[str, SuitePackages]:
        """Return the lists by suite; say which are not as they should be."""
        lists = {suite: kept for suite in SUITES if (kept := self._kept(suite))}
        stale = [suite for suite in SUITES if suite not in lists or self._is_old(suite)]
        if not stale:
            return lists
        self._on_step("fetching the package lists of Debian's archive")
        failed = {}
        # Decompressing takes most of the time, and lets other threads run.
        with ThreadPoolExecutor(4) as pool:
            fetched = pool.map(self._fetched, stale, [lists.get(suite) for suite in stale])
            for suite, found in zip(stale, fetched, strict=True):
                if isinstance(found, SuitePackages):
                    lists[suite] = found
                else:
                    failed[suite] = found
        self._tell(lists, failed)
        return lists

    def _fetched(self, suite: str, kept: SuitePackages | None) -> SuitePackages | EnvironmentUnfit:
        """Fetch a suite's list and keep it; return the list, or why there is none."""
        try:
            found = _suite(suite).packages(datetime.now(UTC), kept)
        except EnvironmentUnfit as error:
            return error
        new = self._file(suite).with_suffix(".new")
        new.write_text(found.to_json())
        new.rename(self._file(suite))
        return found

    def _tell(
        self, lists: Mapping[str, SuitePackages], failed: Mapping[str, EnvironmentUnfit]
    ) -> None:
        """Say which suites have no new list; raise EnvironmentUnfit where none has any."""
        for error in list(failed.values())[: not lists]:
            raise EnvironmentUnfit(
                f"Debian's archive can't be used: {error}; check the network, or give a kernel's "
                ".deb"
            )
        for suites, rest in (
            ([suite for suite in failed if suite in lists], "going on with the old lists"),
            ([suite for suite in failed if suite not in lists], "going on without them"),
        ):
            if suites:
                names = ", ".join(suites)
                self._on_step(f"no new list of {names} ({failed[suites[0]]}); {rest}")
        for suite, packages in lists.items():
            until = packages.valid_until
            if suite not in failed and until and until < datetime.now(UTC):
                self._on_step(
                    f"the archive's list of {suite} was meant to serve until {until:%Y-%m-%d}: the "
                    "mirror is out of date, or this machine's clock is wrong"
                )

    def _kept(self, suite: str) -> SuitePackages | None:
        """Return what was fetched last, unless that is damaged."""
        try:
            return SuitePackages.from_json(self._file(suite).read_text())
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def _is_old(self, suite: str) -> bool:
        age = time.time() - self._file(suite).stat().st_mtime
        return not 0 <= age < self._max_age

    def _file(self, suite: str) -> Path:
        return self._root / f"{suite}.json"


def source_places(suites: Iterable[str], sha256: str) -> Iterator[Place]:
    """Give the places of a source package's file that the signed indices of ``suites`` name.

    Each index is fetched when its place is asked for. Raises EnvironmentUnfit.
    """
    for suite in suites:
        place = _suite(suite).source_file(datetime.now(UTC), sha256)
        if place:
            yield place


def host_codename() -> str:
    """Return the codename of the Debian release that runs here, or "" (os-release(5))."""
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""


def _suite(name: str) -> Suite:
    return Suite(f"{MIRROR}/{SUITES[name]}", name)


def _downloaded(package: Package, folder: Path) -> Path:
    path = folder / unquote(package.urls[0].rpartition("/")[2])
    download([Place(url, package.sha256, package.size) for url in package.urls], path)
    return path
