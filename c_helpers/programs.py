"""The lab's programs
==================

Builds what is no part of the native module: the static program inside the lab's machines.
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
    """Make ``target``/inside/port."""
    port = target / "inside" / "port"
    port.parent.mkdir(parents=True, exist_ok=True)
    compiler = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS]
    arguments = ["-static", "-s", "-o", str(port), str(HERE / "lab" / "port.c")]
    subprocess.run([*compiler, *arguments], check=True)


if __name__ == "__main__":
    build()
