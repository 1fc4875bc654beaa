"""The guests' images
==================

Assembles and links each guest source, and the stub of flat kernels, into an ELF image that keeps
its symbols.
"""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "kvmtest" / "guests" / "images"
# Each source and the linker script that places it.
IMAGES_BY_SCRIPT = {"image.ld": ["long", "real"], "flat_kernel.ld": ["flat_kernel"]}


def run(*command: str) -> None:
    """Run one tool of the build."""
    subprocess.run(command, check=True)


def build(target: Path = IMAGES) -> None:
    """Make ``target``/NAME.elf of every source."""
    compiler = [*shlex.split(os.environ.get("CC", "cc")), f"-I{HERE}"]
    linker = shlex.split(os.environ.get("LD", "ld"))
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for script, names in IMAGES_BY_SCRIPT.items():
            ready, object_file = f"{folder}/{script}", f"{folder}/guest.o"
            run(*compiler, "-E", "-P", "-xc", str(HERE / script), "-o", ready)
            for name in names:
                source, image = str(HERE / f"{name}.S"), str(target / f"{name}.elf")
                run(*compiler, "-c", "-Wall", "-Wextra", "-Werror", source, "-o", object_file)
                run(*linker, "--no-warn-rwx-segments", "--fatal-warnings", "-z", "noexecstack",
                    "-T", ready, object_file, "-o", image)  # fmt: skip


if __name__ == "__main__":
    build()
