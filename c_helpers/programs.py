"""The lab's programs
==================

Builds what is no part of the native module: the static program inside the lab's machines, and the
library that is preloaded into their emulator.
"""

import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAB = HERE.parent / "kvmtest" / "lab"
# No -g: the same source gives the same bytes, wherever it is built.
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]


def build(target: Path = LAB) -> None:
    """Make ``target``/inside/port and ``target``/emulators/bochs-extension.so."""
    compiler = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS]
    for folder in ("inside", "emulators"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    port, extension = target / "inside" / "port", target / "emulators" / "bochs-extension.so"
    parts = [str(path) for path in sorted((HERE / "bochs").glob("*.c"))]
    for arguments in (
        ["-static", "-s", "-o", str(port), str(HERE / "lab" / "port.c")],
        ["-fPIC", "-shared", "-o", str(extension), *parts, "-ldl"],
    ):
        subprocess.run([*compiler, *arguments], check=True)


if __name__ == "__main__":
    build()
