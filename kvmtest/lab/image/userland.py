"""The machine's userland
======================

The programs of this host that go into a lab's machine: a static busybox, a Python with its standard
library, the libraries that kvmtest needs, and the shared objects that these are linked to. kvmtest
itself comes to the machine with each run.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.elf import ElfError, reading
from kvmtest.lab.digest import of_files

from . import bytecode, libraries
from .cpio import Entry, File, Link
from .interpreter import Interpreter

__all__ = ["SITE", "digest", "entries", "sources"]

#: The folder of libraries inside the machine, for sys.path.
SITE = "/site"
_PYTHON = "/bin/python3"

# Parts of the standard library that nothing here imports, and that are large or linked to much.
_STDLIB_LEFT_OUT = re.compile(
    r"(?:tests?|idlelib|tkinter|turtledemo|ensurepip|lib2to3|distutils|pydoc_data|venv"
    r"|site-packages|dist-packages|config-.*|__pycache__|_test.*|xxlimited.*"
    r"|(?:_ssl|_hashlib|_tkinter|_sqlite3|_curses|_curses_panel|_dbm|_gdbm|nis|readline)\..*)"
)

Sources = Mapping[str, Path]


def sources() -> dict[str, Path]:
    """Return the files that go inside, by their absolute names there.

    Raises EnvironmentUnfit, with the package to install, where one is missing.
    """
    found = {"/bin/busybox": _busybox()}
    interpreter = Interpreter.of_machine()
    found[_PYTHON] = interpreter.program
    for path in _files(interpreter.stdlib):
        found[str(path)] = path
    for name, path in libraries.files().items():
        found[f"{SITE}/{name}"] = path
    objects = [path for path in found.values() if ".so" in path.name or path == interpreter.program]
    for path in _linked(objects):
        found[str(path)] = path
    return found


def digest(files: Sources) -> str:
    """Return a digest of names and contents."""
    return of_files({name: path.read_bytes() for name, path in files.items()})


def entries(files: Sources) -> dict[str, Entry]:
    """Return the files as an archive's entries, with bytecode beside every Python source."""
    made: dict[str, Entry] = {}
    for name, path in files.items():
        data = path.read_bytes()
        if name == _PYTHON:
            # Python finds its standard library by where it is installed.
            made[name.lstrip("/")] = Link(str(path))
            name = str(path)
        made[name.lstrip("/")] = File(data, os.access(path, os.X_OK))
        if name.endswith(".py"):
            cached = importlib.util.cache_from_source(name)
            if (compiled := bytecode.of_file(path, data)) is not None:
                made[cached.lstrip("/")] = File(compiled)
    return made


def _busybox() -> Path:
    path = shutil.which(
        "busybox", path=f"{os.environ.get('PATH', os.defpath)}:/bin:/usr/bin:/sbin:/usr/sbin"
    )
    if path is None or _is_dynamic(Path(path)):
        raise EnvironmentUnfit(
            f"there is no static busybox for the lab's machine; {install('busybox-static')}"
        )
    return Path(path)


def _is_dynamic(path: Path) -> bool:
    try:
        with reading(path.read_bytes()) as file:
            return any(s["p_type"] == "PT_INTERP" for s in file.iter_segments())
    except ElfError:
        return True  # A script, say, which needs another program.


def _files(folder: Path) -> Iterator[Path]:
    """Yield the standard library's files below a folder."""
    for entry in sorted(folder.iterdir()):
        if _STDLIB_LEFT_OUT.fullmatch(entry.name):
            continue
        if entry.is_dir():
            yield from _files(entry)
        elif entry.suffix != ".a":
            yield entry


def _linked(objects: Collection[Path]) -> set[Path]:
    """Return the shared objects that others are linked to, the loader among them."""
    ldd = shutil.which("ldd")
    if ldd is None:
        raise EnvironmentUnfit(f"ldd is missing; {install('libc-bin')}")
    command = [ldd, *map(str, objects)]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    # A library in a wheel may need its neighbours, which are loaded before it.
    there = {path.name for path in objects}
    missing = re.findall(r"^\s*(\S+) => not found", listing, re.M)
    if lacking := [name for name in missing if name not in there]:
        raise EnvironmentUnfit(f"{lacking[0]}: this Python needs it; install it for the lab too")
    return {Path(name) for name in re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listing, re.M)}
