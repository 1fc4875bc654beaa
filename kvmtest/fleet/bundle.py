"""Bundles
=======

kvmtest and the libraries of a run, as one archive for a host's Python: the host unpacks it, and
needs neither a network, nor pip, nor a compiler. Where the host's Python is like the one that runs
here, the libraries are those that are installed here; otherwise pip fetches them for the host's.
"""

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache as once
from importlib.metadata import version
from pathlib import Path

import kvmtest
from kvmtest.cache import Cache
from kvmtest.child import mortal
from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.digest import of_files, of_parts
from kvmtest.lab.image import libraries

__all__ = ["ASK", "LIBRARIES", "Bundle", "HostPython", "bundle"]

#: The folder in a bundle for sys.path.
LIBRARIES = "lib"

_ARCHIVE = "bundle.tar.gz"
_MACHINE = "x86_64"
# The oldest Python that kvmtest runs on.
_OLDEST = (3, 11)
# The oldest glibc that a manylinux tag names (PEP 600).
_OLDEST_GLIBC = 5
_PIP_S = 600.0

# Versions of symbols that a shared object wants of glibc.
_WANTED = re.compile(rb"GLIBC_2\.(\d+)")

#: The program by which a host's Python tells of itself.
ASK = """
import json, platform, sys, sysconfig
suffix = sysconfig.get_config_var("EXT_SUFFIX")
libc = list(platform.libc_ver())
print(json.dumps([sys.executable, list(sys.version_info[:2]), suffix, libc, platform.machine()]))
"""


@dataclass(frozen=True, slots=True)
class HostPython:
    """A host's Python: its program there, and what its native modules must be built for."""

    program: str
    version: tuple[int, int]
    suffix: str
    """How the names of native modules end that it alone loads."""

    glibc: int
    """The host has glibc 2.N."""

    @classmethod
    def of(cls, answer: str, host: str) -> "HostPython":
        """Return what a Python answered to ASK on ``host``.

        Raises EnvironmentUnfit where kvmtest does not run there, or the answer is none.
        """
        try:
            program, (major, minor), suffix, (libc, number), machine = json.loads(answer)
            glibc = int(str(number).split(".")[1]) if libc == "glibc" else 0
            found = cls(str(program), (int(major), int(minor)), str(suffix), glibc)
        except (ValueError, TypeError, IndexError, RecursionError):
            raise EnvironmentUnfit(
                f"{host}: its Python says nothing of itself; repair it"
            ) from None
        if found.version < _OLDEST:
            was = ".".join(map(str, found.version))
            raise EnvironmentUnfit(
                f"{host}: its Python is {was}; install Python 3.11 or later there"
            )
        if machine != _MACHINE:
            raise EnvironmentUnfit(f"{host}: its machine is {machine}; kvmtest runs on {_MACHINE}")
        if not found.glibc:
            raise EnvironmentUnfit(f"{host}: it has no glibc; kvmtest is built for glibc alone")
        return found


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive, and its SHA-256 digest in hexadecimal, by which hosts keep it."""

    path: Path
    digest: str


def bundle(python: HostPython, cache: Cache) -> Bundle:
    """Return the bundle for a host's Python, made once and kept in the cache.

    Raises EnvironmentUnfit where it can't be made, or the host's glibc is older than what was
    compiled here wants.
    """
    own = _kvmtest()
    alike = python.suffix == sysconfig.get_config_var("EXT_SUFFIX")
    kind = f"glibc 2.{python.glibc}" if not alike else json.dumps(_versions())
    parts = (kind, ".".join(map(str, python.version)), of_files(own))

    def make(folder: Path) -> None:
        files = _installed() if alike else _fetched(python, folder / LIBRARIES)
        files |= own
        _check(files, python)
        _pack(files, folder / _ARCHIVE)

    archive = cache.entry("fleet-bundle", of_parts(*parts), make) / _ARCHIVE
    with archive.open("rb") as file:
        return Bundle(archive, hashlib.file_digest(file, "sha256").hexdigest())


@once
def _kvmtest() -> Mapping[str, bytes]:
    """Return the files of the running kvmtest, by their names in site-packages."""
    root = Path(kvmtest.__file__).parent
    return {f"kvmtest/{path.relative_to(root)}": path.read_bytes() for path in _below(root)}


def _below(folder: Path) -> Iterator[Path]:
    """Give the files below a folder, also where a symbolic link leads to a folder."""
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from _below(path)
        elif path.is_file():
            yield path


def _versions() -> list[str]:
    return sorted(f"{name}=={version(name)}" for name in libraries.names())


def _installed() -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in libraries.files().items()}


def _fetched(python: HostPython, folder: Path) -> dict[str, bytes]:
    """Return the libraries' files for another Python than this; ``folder`` is gone afterwards.

    They are no older than those that are installed here.
    """
    wanted = [text.replace("==", ">=") for text in _versions()]
    number = ".".join(map(str, python.version))
    glibcs = range(python.glibc, _OLDEST_GLIBC - 1, -1)
    platforms = [f"manylinux_2_{glibc}_{_MACHINE}" for glibc in glibcs]
    # What PEP 600 replaced, for glibc 2.17, 2.12 and 2.5.
    platforms += [f"manylinux{old}_{_MACHINE}" for old in ("2014", "2010", "1")]
    command = [
        sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
        "--no-deps", "--no-compile", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={number}", *(f"--platform={each}" for each in platforms),
        f"--target={folder}", *wanted,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            mortal(command), capture_output=True, text=True, timeout=_PIP_S, check=False
        )
        if done.returncode:
            raise EnvironmentUnfit(_why(done.stderr, number))
        return {str(path.relative_to(folder)): path.read_bytes() for path in _below(folder)}
    except subprocess.TimeoutExpired:
        raise EnvironmentUnfit(_why(f"no end in {_PIP_S:.0f} s", number)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _why(errors: str, number: str) -> str:
    if "No module named pip" in errors:
        return f"libraries for a host's Python {number} need pip; {install('python3-pip')}"
    lines = [line for line in errors.splitlines() if not line.startswith("WARNING")]
    return (
        f"can't fetch libraries for a host's Python {number}: {(lines or ['pip failed'])[-1]}; "
        "give pip a way to PyPI, or its option find-links a folder with their wheels"
    )


def _check(files: Mapping[str, bytes], python: HostPython) -> None:
    """Raise EnvironmentUnfit where a host's glibc is older than a native module wants."""
    for name, data in files.items():
        if re.search(r"\.so(\.|$)", Path(name).name):
            wanted = max(map(int, _WANTED.findall(data)), default=0)
            if wanted > python.glibc:
                raise EnvironmentUnfit(
                    f"{name} was built for glibc 2.{wanted}, and the host has 2.{python.glibc}; "
                    "install kvmtest here from a wheel for older ones, as make wheel makes it"
                )


def _pack(files: Mapping[str, bytes], path: Path) -> None:
    """Write files to an archive, which is alike for like files."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(f"{LIBRARIES}/{name}")
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
