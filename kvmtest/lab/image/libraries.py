"""Libraries of a run
==================

What `kvmtest run` imports besides kvmtest and the standard library, as it is installed here.
"""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit

__all__ = ["files", "names"]

# Libraries that kvmtest requires but does not import while it decides properties.
_LEFT_OUT = {"markdown-it-py", "mdurl", "pluggy", "pycparser", "pytest"}
_FILES_LEFT_OUT = re.compile(r"(?:.*/)?tests?/.*")


def files() -> dict[str, Path]:
    """Return the libraries' files, by their names in site-packages.

    Raises EnvironmentUnfit where a library was not installed as a package, or lists no files.
    """
    return {name: path for library in sorted(names()) for name, path in _files(library)}


def _files(library: str) -> Iterator[tuple[str, Path]]:
    listed = importlib.metadata.files(library)
    if not listed:
        raise EnvironmentUnfit(
            f"the library {library} has no list of its files; install kvmtest and what it "
            "requires into a virtual environment, by python3 -m pip"
        )
    for file in listed:
        path = Path(str(file.locate()))
        inside = ".." not in file.parts and "__pycache__" not in file.parts
        if inside and path.is_file() and not _FILES_LEFT_OUT.fullmatch(str(file)):
            yield str(file), path


def names() -> set[str]:
    """Return the names of all that kvmtest requires for a run, directly or not; raises as above."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wanted: set[str] = set()
    pending = ["kvmtest"]
    while pending:
        name = pending.pop()
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            raise EnvironmentUnfit(
                f"{name} is not installed as a package, so nobody can see what it requires; "
                "install kvmtest by python3 -m pip"
            ) from None
        for text in texts:
            required = Requirement(text)
            name = canonicalize_name(required.name)
            applies = required.marker is None or required.marker.evaluate({"extra": ""})
            if applies and name not in wanted | _LEFT_OUT:
                wanted.add(name)
                pending.append(name)
    return wanted
