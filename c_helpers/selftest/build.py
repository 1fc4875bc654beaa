"""The self-test's ROM
===================

Builds what the emulator's self-test runs in its machines (kvmtest/lab/emulators/bochs/selftest.py):
an image of 64 KiB that a CPU resets into, freestanding, without any firmware.
"""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROM = HERE.parents[1] / "kvmtest" / "lab" / "emulators" / "bochs" / "selftest.rom"

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# Handlers use the stack of what they interrupt, and no other registers than their own.
FREESTANDING = ["-std=gnu11", "-O2", "-ffreestanding", "-m64", "-mgeneral-regs-only",
                "-mno-red-zone", "-fno-pic", "-fno-pie", "-fno-stack-protector",
                "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
                "-fno-tree-loop-distribute-patterns"]  # fmt: skip
LINK = ["--oformat", "binary", "--no-warn-rwx-segments", "--fatal-warnings", "-z", "noexecstack"]


def build(target: Path = ROM) -> None:
    """Make the ROM."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    linker = shlex.split(os.environ.get("LD", "ld"))
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for source in sorted((*HERE.glob("*.c"), *HERE.glob("*.S"))):
            made = f"{folder}/{source.name}.o"
            flags = [*WARNINGS, *(FREESTANDING if source.suffix == ".c" else [])]
            subprocess.run([*compiler, *flags, "-c", str(source), "-o", made], check=True)
            objects.append(made)
        script = f"{folder}/rom.ld"
        command = [*compiler, "-E", "-P", "-xc", str(HERE / "rom.ld"), "-o", script]
        subprocess.run(command, check=True)
        subprocess.run([*linker, *LINK, "-T", script, *objects, "-o", str(target)], check=True)


if __name__ == "__main__":
    build()
