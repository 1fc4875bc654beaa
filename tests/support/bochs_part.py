"""The lab's parts of the emulator (c_helpers/bochs), built against stand-ins of its headers."""

import os
import shlex
import subprocess
from pathlib import Path
from shutil import which

import pytest

BOCHS = Path(__file__).resolve().parents[2] / "c_helpers" / "bochs"

_HEADERS = Path(__file__).with_name("bochs")
_COMPILER = shlex.split(os.environ.get("CXX", "c++"))
_SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
# Each copy of a shared object has its own variables, those of the headers too.
_FLAGS = ["-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fno-gnu-unique"]

_LANGUAGES = {".c": "c", ".cc": "c++"}

#: For modules whose tests build parts.
needs_compiler = pytest.mark.skipif(which(_COMPILER[0]) is None, reason="needs a C++ compiler")


def shared_object(path: Path, driver: str, *parts: str) -> Path:
    """Compile parts, by the names of their files, with C++ that drives them; return ``path``."""
    return _compile(path, driver, parts, "-shared")


def program(path: Path, driver: str, *parts: str) -> Path:
    """Compile parts with C++ that has a main(); return ``path``."""
    return _compile(path, driver, parts)


def _compile(path: Path, driver: str, parts: tuple[str, ...], *kind: str) -> Path:
    sanitizers = _SANITIZERS if os.environ.get("KVMTEST_SANITIZE") else []
    flags = [*_FLAGS, *kind, *sanitizers, f"-I{_HEADERS}", f"-I{BOCHS}"]
    words = [
        word for part in parts for word in (f"-x{_LANGUAGES[Path(part).suffix]}", str(BOCHS / part))
    ]
    # What sanitizes this process is not for the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(
        [*_COMPILER, *flags, "-o", path, *words, "-xc++", "-"],
        input=driver, text=True, check=True, env=environment,
    )  # fmt: skip
    return path
