"""Distributions
=============

What this machine's distribution calls the packages that kvmtest needs, and where it keeps their
files (distributions.txt). A distribution is told by os-release(5), and its relatives by ID_LIKE.
"""

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

__all__ = ["family_of", "install", "path_of", "paths_of"]

_TABLE = Path(__file__).with_name("distributions.txt")
_NONE = "-"


def install(*packages: str, family: str | None = None) -> str:
    """Return the command that installs packages, given by Debian's names, in ``family``.

    That is this machine's where none is given. For a family that the table does not have, the
    packages are named as Debian has them.
    """
    family = _own_family() if family is None else family
    if family not in _families():
        return f"install {' '.join(packages)} (Debian's names)"
    names = (_table()[package][family] for package in packages)
    wanted = dict.fromkeys(name for name in names if name != _NONE)
    return " ".join([_table()["install"][family], *wanted])


def path_of(name: str) -> Path:
    """Return where this machine has a file of the table.

    Where it has none, return where its family keeps the file, or Debian does.
    """
    candidates = paths_of(name)
    own = _own_family()
    usual = Path(_table()[name][own]) if own in _families() else candidates[0]
    return next((path for path in candidates if path.exists()), usual)


def paths_of(name: str) -> list[Path]:
    """Return where families keep a file of the table, Debian first."""
    return [Path(path) for path in dict.fromkeys(_table()[name].values())]


def family_of(os_release: Mapping[str, str]) -> str:
    """Return the family of a distribution by the fields of its os-release, or ""."""
    ids = [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]
    known = {each: family for family, row in _table()["ids"].items() for each in row.split()}
    return next((known[each] for each in ids if each in known), "")


@cache
def _own_family() -> str:
    try:
        return family_of(platform.freedesktop_os_release())
    except OSError:
        return ""


def _families() -> Iterable[str]:
    return _table()["family"]


@cache
def _table() -> dict[str, dict[str, str]]:
    """Return the cells by row and family."""
    lines = (line for line in _TABLE.read_text().splitlines() if line and line[0] != "#")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    families = rows[0][1:]
    return {name: dict(zip(families, cells, strict=True)) for name, *cells in rows}
