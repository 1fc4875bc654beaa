"""A stand-in of the emulator's source, and of a compiler: built with the real make and patch.

Its configure takes the options of Bochs's; its Makefile makes a program of text: the sources that
were compiled, and how it was configured.
"""

import hashlib
import io
import os
import select
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Self

import pytest

from kvmtest.cache import Cache
from kvmtest.lab.emulators.bochs import build, selftest
from kvmtest.lab.emulators.bochs import source as places
from kvmtest.lab.emulators.bochs.build import Builder
from kvmtest.lab.emulators.bochs.selftest import SelfTest, judge

#: For modules whose tests build it.
needs_tools = pytest.mark.skipif(
    which("make") is None or which("patch") is None, reason="needs make and patch"
)

_RECORDED = Path(__file__).parents[1] / "recorded" / "selftest-1.txt"
_CONFIGURE = r"""#!/bin/sh
{ printf '%s\n' "$@"; env; } > configured
for word; do case $word in CXX=*) compiler=${word#CXX=}; esac; done
sed "s|@CXX@|$compiler|" Makefile.in > Makefile
"""
_MAKEFILE = """\
objects = cpu/cpu.o main.o memory.o instrument/kvmtest/counted.o
bochs: $(objects)
	cat $(objects) configured > $@
.SUFFIXES: .cc
.cc.o:
	@CXX@ -c $< -o $@
"""
PATCH = """\
--- a/cpu/cpu.cc
+++ b/cpu/cpu.cc
@@ -1 +1,2 @@
 the loop
+calls a part
"""
# Says when it compiles what is to hang, through a FIFO that it and its children hold open.
_COMPILER = r"""#!/bin/sh
here=$(dirname "$0")
if test "$1" = --version; then cat "$here/version"; exit; fi
echo "$2" >> "$here/compiled"
if grep -q '#hang' "$2"; then
	exec 9> "$here/hangs"
	echo hangs >&9
	sleep 1000
fi
! grep -q '#error' "$2" || { echo "$2:1:2: error: #error said so" >&2; exit 1; }
cp "$2" "$4"
"""


def _passed() -> SelfTest:
    first, border, second = _RECORDED.read_text().partition("before-saving 1\n")
    return judge(1, [first + border, second])


@dataclass
class Source:
    """The files of the source below its one folder, and what it is built with in ``root``."""

    root: Path
    files: dict[str, str]
    steps: list[str] = field(default_factory=list)

    @classmethod
    def install(cls, root: Path, patch: pytest.MonkeyPatch) -> Self:
        """Have it be what the lab builds, with parts and a patch that fit it."""
        made = cls(root, {
            "configure": _CONFIGURE,
            "Makefile.in": _MAKEFILE,
            "cpu/cpu.cc": "the loop\n",
            "main.cc": "main\n",
            "memory.cc": "memory\n",
            "instrument/stubs/readme": "",
            "bios/bios.bin-1.13.0": "BIOS",
            "bios/vgabios-cirrus.bin-1.13.0": "VGA BIOS",
            "COPYING": "LGPL",
        })  # fmt: skip
        for name, text in (("parts/bochs.patch", PATCH), ("parts/counted.cc", "counters\n")):
            made.write(name, text)
        for name in ("CC", "CXX"):
            made.write(f"{name}/compiler", _COMPILER).chmod(0o755)
            made.write(f"{name}/version", f"{name} 1\nfurther lines\n")
            patch.setenv(name, str(root / name / "compiler"))
        patch.setattr(build, "PARTS", root / "parts")
        # What is built of it is no emulator.
        patch.setattr(selftest, "run", lambda _: _passed())
        return made

    def write(self, name: str, text: str) -> Path:
        """Write a file below the root."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def archive(self, *more: tarfile.TarInfo) -> Path:
        """Return the source as an archive, with further members."""
        path = self.root / "source.tar"
        with tarfile.open(path, "w") as archive:
            for name, text in self.files.items():
                member = tarfile.TarInfo(f"bochs-3.0/{name}")
                member.size, member.mode = len(text), 0o755
                archive.addfile(member, io.BytesIO(text.encode()))
            for member in more:
                archive.addfile(member)
        return path

    def name_it(self, patch: pytest.MonkeyPatch) -> None:
        """Have the user's environment name the archive, and its digest be a known one."""
        path = self.archive()
        patch.setenv(places.VARIABLE, str(path))
        patch.setattr(places, "_NAMES", {hashlib.sha256(path.read_bytes()).hexdigest(): path.name})

    @property
    def cache(self) -> Cache:
        """A cache below the root."""
        return Cache(self.root / "cache")

    def builder(self) -> Builder:
        """Return a builder whose steps go to ``steps``."""
        return Builder(self.cache, self.steps.append)

    def compiled(self) -> list[str]:
        """Return the sources that were compiled so far."""
        path = self.root / "CXX/compiled"
        return path.read_text().splitlines() if path.exists() else []

    def kept(self) -> list[str]:
        """Return what the cache has of emulators, finished or not."""
        folder = self.cache.root / "emulator"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class Hanging:
    """Has the compilation of a source hang, and tells when it does and when all of it has ended."""

    def __init__(self, source: Source, name: str) -> None:
        source.files[name] += "#hang\n"
        path = source.root / "CXX/hangs"
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def has_begun(self) -> bool:
        """Wait until it hangs."""
        return self._read() == b"hangs\n"

    def has_ended(self) -> bool:
        """Wait until no process has it open."""
        return self._read() == b""

    def _read(self) -> bytes:
        readable, _, _ = select.select([self._fd], [], [], 60)
        return os.read(self._fd, 100) if readable else b"still hanging"
