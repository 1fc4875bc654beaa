"""Suites of Debian's archive
==========================

Fetches one suite's lists, without apt. The suite's signed index gives each list's digest; a list
without one there is not used.
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from urllib.parse import quote

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.compression import decompress
from kvmtest.kernels.download import DownloadError, Place, fetched, read
from kvmtest.kernels.offers import Package, parse_packages
from kvmtest.kernels.release import ListFile, Release, parse_release
from kvmtest.kernels.signatures import signed_text
from kvmtest.named_file import MIB

__all__ = ["Suite", "SuitePackages"]

_PACKAGES, _SOURCES = "main/binary-amd64/Packages", "main/source/Sources"
# The largest are sid's: an index of 0.2 MB, a list of 65.
_INDEX_MOST = 4 * MIB
_LIST_MOST = 512 * MIB


@dataclass(frozen=True, slots=True)
class SuitePackages:
    """The packages of kernels in one suite."""

    date: datetime
    """Of the index that they were found by."""

    valid_until: datetime | None
    digest: str
    """SHA-256 of the list that they are from."""

    packages: tuple[Package, ...]

    def to_json(self) -> str:
        """Return what ``from_json`` reads."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> "SuitePackages":
        """Return what ``to_json`` wrote; raises ValueError, TypeError or LookupError."""
        values = json.loads(text)
        until = values["valid_until"]
        return cls(
            datetime.fromisoformat(values["date"]),
            datetime.fromisoformat(until) if until else None,
            values["digest"],
            tuple(
                Package(**each | {name: tuple(each[name]) for name in ("suites", "urls")})
                for each in values["packages"]
            ),
        )


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite such as bookworm-security."""

    url: str
    """Of the folder on the mirror that has the suite's dists and pool."""

    name: str

    def packages(self, now: datetime, kept: SuitePackages | None) -> SuitePackages:
        """Fetch the packages of kernels; ``kept`` is what was fetched before.

        The list is fetched only where it has changed since. Raises EnvironmentUnfit, also where the
        index is older than that of ``kept``.
        """
        release = self.release(now)
        if kept and release.date < kept.date:
            raise EnvironmentUnfit(
                f"{self._dists} is as of {_day(release.date)}, before the {_day(kept.date)} that "
                "came last; try again later"
            )
        digest = self._form(release, _PACKAGES).sha256
        if kept and kept.digest == digest:
            packages = kept.packages
        else:
            text = self.read_list(release, _PACKAGES)
            packages = tuple(parse_packages(text, self.name, self.url))
        return SuitePackages(release.date, release.valid_until, digest, packages)

    def release(self, now: datetime) -> Release:
        """Fetch the suite's index. Raises EnvironmentUnfit where the archive did not sign it."""
        url = f"{self._dists}/InRelease"
        try:
            return parse_release(signed_text(read(url, _INDEX_MOST), now), self.name)
        except DownloadError:
            raise
        except EnvironmentUnfit as error:
            raise EnvironmentUnfit(f"{url}: {error}") from None

    def read_list(self, release: Release, path: str) -> bytes:
        """Fetch the list ``path``, such as main/binary-amd64/Packages. Raises EnvironmentUnfit."""
        form = self._form(release, path)
        paths = [form.path]
        if release.by_hash:
            folder = form.path.rpartition("/")[0]
            paths.insert(0, f"{folder}/by-hash/SHA256/{form.sha256}")
        content = fetched([Place(f"{self._dists}/{p}", form.sha256, form.size) for p in paths])
        return content if form.path == path else decompress(content, _LIST_MOST)

    def source_file(self, now: datetime, sha256: str) -> Place | None:
        """Return where the suite's index of sources says that a file is, or None.

        Raises EnvironmentUnfit.
        """
        stanzas = self.read_list(self.release(now), _SOURCES).split(b"\n\n")
        file = re.compile(rf"^ {sha256} (\d{{1,12}}) (\S+)$".encode(), re.MULTILINE)
        for stanza in stanzas:
            found = file.search(stanza)
            folder = found and re.search(rb"^Directory: (\S+)$", stanza, re.MULTILINE)
            if found and folder:
                path = quote(f"{folder[1].decode()}/{found[2].decode()}")
                return Place(f"{self.url}/{path}", sha256, int(found[1]))
        return None

    def _form(self, release: Release, path: str) -> ListFile:
        forms = release.list_files(path)
        if not forms:
            raise EnvironmentUnfit(f"the index of {self.name} at {self.url} names no {path}")
        return forms[0]

    @property
    def _dists(self) -> str:
        return f"{self.url}/dists/{self.name}"


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"
