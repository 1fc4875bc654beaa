"""Release files of Debian's archive
=================================

What the signed index of a suite (InRelease) says: when it was made, and which lists the suite has,
with their digests (https://wiki.debian.org/DebianRepository/Format). Text in, values out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from kvmtest.errors import EnvironmentUnfit

__all__ = ["ListFile", "Release", "parse_release"]

_FIELD = re.compile(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_FILE = re.compile(r"^ ([0-9a-f]{64}) +(\d{1,12}) ([\w+.~/-]+)$", re.MULTILINE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ListFile:
    """One file with a list, compressed or not."""

    path: str
    """Below the suite's folder, such as main/binary-amd64/Packages.xz."""

    sha256: str
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Release:
    """A suite's index."""

    date: datetime
    valid_until: datetime | None
    """When the archive means to have made a newer one; stable releases have none."""

    by_hash: bool
    """Whether files are also offered under their digests, so that no update comes between."""

    files: Mapping[str, ListFile]
    """By path."""

    def list_files(self, path: str) -> list[ListFile]:
        """Return the forms that the list ``path`` has, the smallest first."""
        names = (f"{path}{suffix}" for suffix in (".xz", ".gz", ""))
        return [self.files[name] for name in names if name in self.files]


def parse_release(text: str, suite: str) -> Release:
    """Return what a Release file says. Raises EnvironmentUnfit where it is none of ``suite``."""
    fields = dict(_FIELD.findall(text))
    names = {fields.get("Suite"), fields.get("Codename")}
    if suite not in names:
        said = " or ".join(sorted(filter(None, names))) or "nothing"
        raise EnvironmentUnfit(f"it is the index of {said}, not of {suite}; try another network")
    return Release(
        _time(fields.get("Date", ""), "Date"),
        _time(fields["Valid-Until"], "Valid-Until") if "Valid-Until" in fields else None,
        fields.get("Acquire-By-Hash") == "yes",
        {
            path: ListFile(path, digest, int(size))
            for digest, size, path in _FILE.findall("\n" + fields.get("SHA256", ""))
        },
    )


def _time(text: str, field: str) -> datetime:
    try:
        time = parsedate_to_datetime(text)
        # "UTC" makes a naive time of UTC (email.utils.parsedate_to_datetime).
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise EnvironmentUnfit(f"its {field} is no time: {text or 'empty'}") from None
