"""The guests' images
==================

Assembles and links the guests, and what the lab boots a kernel by, into ELF images with symbols.
"""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "kvmtest" / "guests" / "images"
# What every 64-bit guest has, whatever its transport.
LONG = ["commands", "exceptions", "vmx"]
# The sources of each image, the one that starts first, by the linker script that places them.
IMAGES_BY_SCRIPT = {
    "image.ld": {
        "long": ["long", *LONG],
        "long_registers": ["long_registers", *LONG],
        "real": ["real"],
        "td": ["long_registers", "td", *LONG],
    },
    "flat_kernel.ld": {"flat_kernel": ["flat_kernel"]},
    "boot_cd.ld": {"boot_cd": ["boot_cd"]},
}
# What the preprocessor is told beside that.
DEFINED = {"td": ["-DGUEST_TD"]}


def run(*command: str) -> None:
    """Run one tool of the build."""
    subprocess.run(command, check=True)


def build(target: Path = IMAGES) -> None:
    """Make ``target``/NAME.elf of every image."""
    compiler = [*shlex.split(os.environ.get("CC", "cc")), f"-I{HERE}"]
    linker = [*shlex.split(os.environ.get("LD", "ld")), "--no-warn-rwx-segments",
              "--fatal-warnings", "-z", "noexecstack"]  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:

        def assemble(source: str, defined: list[str]) -> str:
            made, flags = f"{folder}/{source}.o", ["-c", "-Wall", "-Wextra", "-Werror", *defined]
            run(*compiler, *flags, str(HERE / f"{source}.S"), "-o", made)
            return made

        for script, images in IMAGES_BY_SCRIPT.items():
            ready = f"{folder}/{script}"
            run(*compiler, "-E", "-P", "-xc", str(HERE / script), "-o", ready)
            for name, sources in images.items():
                objects = [assemble(source, DEFINED.get(name, [])) for source in sources]
                run(*linker, "-T", ready, *objects, "-o", str(target / f"{name}.elf"))


if __name__ == "__main__":
    build()
