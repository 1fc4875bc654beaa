"""Building Bochs
==============

The lab's emulator is built from its source: the source with bochs.patch, and the lab's parts in the
folder of its instrumentation. A build is kept in the cache, by the digest of all that it is made
from.
"""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.digest import of_files, of_parts

__all__ = ["PARTS", "Build", "BuildFailed", "Builder"]

#: The lab's parts of the emulator, and the patch that calls them (c_helpers/bochs).
PARTS = Path(__file__).with_name("parts")

_PATCH = "bochs.patch"
_INSTRUMENTATION = "instrument/kvmtest"

# No debugger: its checks after each instruction cost half of the speed.
_OPTIONS = (
    "--enable-smp", "--enable-cpu-level=6", "--enable-x86-64", "--enable-vmx=2", "--enable-svm",
    "--enable-avx", "--enable-evex", "--enable-pci", "--enable-all-optimizations",
    "--enable-handlers-chaining", "--enable-trace-linking", "--enable-fast-function-calls",
    "--enable-repeat-speedups", "--enable-configurable-msrs", "--enable-x86-debugger",
    "--disable-large-ramfile", "--disable-debugger", "--disable-readline", "--with-nogui",
    "--without-x", "--disable-plugins", "--disable-docbook", "--disable-xpm", "--enable-usb=no",
    "--disable-sb16", "--disable-es1370", "--disable-voodoo", "--disable-gameport",
    "--disable-stats", "--disable-show-ips", f"--enable-instrumentation={_INSTRUMENTATION}",
)  # fmt: skip
# -O3, -march=native, LTO and a profile were tried: they bring nothing that can be measured.
_FLAGS = "-O2 -fno-strict-aliasing -fno-pie"
_LINKER_FLAGS = "-no-pie"
# Instructions that no machine of the lab executes (noxsave on the kernel's command line).
_UNUSED, _UNUSED_FLAGS = "cpu/avx", "-O0"
# GCC takes what it has compiled of a header where the same folder has it as NAME.gch: most files
# of the CPU begin with these two, after this definition.
_HEADERS, _DEFINED = ("bochs.h", "cpu.h"), "-DNEED_CPU_REG_SHORTCUTS=1"

#: What the build leaves, by the names in its folder, from the places in the source.
_PRODUCTS = {
    "bochs": "bochs",
    "bios.bin": "bios/bios.bin-1.13.0",
    "vgabios.bin": "bios/vgabios-cirrus.bin-1.13.0",
    "COPYING": "COPYING",
}

_TOOLS = {"make": "make", "patch": "patch"}

OnStep = Callable[[str], None]


class BuildFailed(EnvironmentUnfit):
    """The emulator can't be built here; the message is one line, and says why."""


class Cancelled(Exception):
    """Someone who waited for the build no longer does."""


@dataclass(frozen=True, slots=True)
class Build:
    """A built emulator: the folder that it is in, and the digest of what it was made from."""

    folder: Path
    digest: str

    @property
    def program(self) -> Path:
        """The emulator."""
        return self.folder / "bochs"

    @property
    def bios(self) -> Path:
        """The machine's BIOS: SeaBIOS, from the emulator's source."""
        return self.folder / "bios.bin"

    @property
    def vga_bios(self) -> Path:
        """The display's BIOS: SeaBIOS's too."""
        return self.folder / "vgabios.bin"


@dataclass
class Builder:
    """Builds the emulator; ``on_step`` gets a line before what takes time.

    Another thread may cancel it: then all that it has started ends.
    """

    cache: Cache
    on_step: OnStep
    _process: "subprocess.Popen[str] | None" = field(default=None, init=False)
    _is_cancelled: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def build(self, source: Path) -> Build:
        """Build the source archive; raises BuildFailed, and Cancelled."""
        compilers = {name: _compiler(name) for name in ("CC", "CXX")}
        for tool, package in _TOOLS.items():
            if shutil.which(tool) is None:
                raise BuildFailed(f"{tool} is missing; {install(package)}")
        digest = of_parts(
            hashlib.sha256(source.read_bytes()).hexdigest(),
            of_files({part.name: part.read_bytes() for part in _parts()}),
            *_OPTIONS, _FLAGS, _LINKER_FLAGS, _UNUSED_FLAGS, *compilers.values(),
        )  # fmt: skip

        def make(folder: Path) -> None:
            with _tree(source, folder) as tree:
                self._make(tree)
                for name, place in _PRODUCTS.items():
                    shutil.copy2(tree / place, folder / name)

        return Build(self.cache.entry("emulator", digest, make), digest)

    def cancel(self) -> None:
        """End the build, from another thread."""
        with self._lock:
            self._is_cancelled = True
            if self._process:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _make(self, tree: Path) -> None:
        self.on_step("building the emulator, once")
        # No fuzz: a call in the wrong place would miscount.
        patch = ["patch", "-p1", "--force", "--fuzz=0", "--input", str(PARTS / _PATCH)]
        self._run(tree, patch)
        flags = [f"CFLAGS={_FLAGS}", f"CXXFLAGS={_FLAGS}", f"LDFLAGS={_LINKER_FLAGS}"]
        commands = [f"{name}={_command(name)}" for name in ("CC", "CXX")]
        self._run(tree, ["./configure", *_OPTIONS, *flags, *commands])
        _change(tree / _UNUSED / "Makefile", "-O2", _UNUSED_FLAGS)
        planned = self._run(tree, ["make", "--just-print", "bochs"])
        self._precompile(tree / "cpu", planned)
        done = _Quarters(len(_COMPILED.findall(planned)), self.on_step)
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        # With several jobs the first make may end before it links.
        for _ in range(2):
            self._run(tree, ["make", jobs, "bochs"], done.line)

    def _precompile(self, folder: Path, planned: str) -> None:
        """Compile the headers of the CPU once, with the words of the compilation of cpu.cc."""
        words = next((w for w in map(str.split, planned.splitlines()) if w[-1:] == ["cpu.o"]), None)
        if words is None:
            return
        # It is taken by files of other folders too, for which a relative name says another place.
        arguments = [
            f"-I{(folder / word[2:]).resolve()}" if word.startswith("-I") else word
            for word in words[:-3]
            if word != "-c"
        ]
        # Where it can't be taken, the header itself is looked for in the same folder.
        (folder / _HEADERS[0]).write_text(f'#include "../{_HEADERS[0]}"\n')
        header = folder / "headers.h"
        header.write_text("".join(f'#include "{name}"\n' for name in _HEADERS))
        made = f"{_HEADERS[0]}.gch"
        self._run(folder, [*arguments, _DEFINED, "-x", "c++-header", header.name, "-o", made])

    def _run(
        self, tree: Path, command: list[str], on_line: Callable[[str], None] | None = None
    ) -> str:
        """Run a step in the tree; return what it printed. Raises BuildFailed, Cancelled."""
        with self._lock:
            if self._is_cancelled:
                raise Cancelled
            self._process = process = subprocess.Popen(
                command, cwd=tree, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
                env=_environment(),
            )  # fmt: skip
        printed = []
        with process:
            assert process.stdout
            for line in process.stdout:
                printed.append(line)
                if on_line:
                    on_line(line)
            # Before it is waited for: afterwards its number may be another process's.
            with self._lock:
                self._process = None
        if self._is_cancelled:
            raise Cancelled
        if process.returncode:
            raise BuildFailed(
                f"the emulator can't be built: {command[0]} failed: {_reason(printed)}"
            )
        return "".join(printed)


# The compilation of one file in what make prints.
_COMPILED = re.compile(r" -c .* -o \S+\.o$", re.M)


@dataclass
class _Quarters:
    """Says how far a compilation of ``total`` files is, at each quarter."""

    total: int
    on_step: OnStep
    _done: int = 0

    def line(self, line: str) -> None:
        """Take a line that make printed."""
        if not _COMPILED.search(line.rstrip()):
            return
        self._done += 1
        # What is planned may be none of what is done, with a make that prints otherwise.
        if self.total and 4 * self._done // self.total > 4 * (self._done - 1) // self.total:
            self.on_step(f"building the emulator: {self._done} of {self.total} files")


def _environment() -> dict[str, str]:
    """Return the environment of a build: the user's own flags, or make's, would make another."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _change(file: Path, old: str, new: str) -> None:
    if file.is_file():
        file.write_text(file.read_text().replace(old, new))


def _command(name: str) -> str:
    return os.environ.get(name) or {"CC": "cc", "CXX": "c++"}[name]


def _compiler(name: str) -> str:
    """Return what a compiler says of itself; raises BuildFailed where there is none."""
    command = [*shlex.split(_command(name)), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        language, package = {"CC": ("C", "gcc"), "CXX": ("C++", "g++")}[name]
        raise BuildFailed(
            f"there is no {language} compiler ({_command(name)}); {install(package)}"
        ) from None
    return done.stdout.partition("\n")[0]


def _parts() -> list[Path]:
    return sorted(path for path in PARTS.iterdir() if path.is_file())


@contextlib.contextmanager
def _tree(source: Path, folder: Path) -> Iterator[Path]:
    """Unpack the source below ``folder``, with the lab's parts; remove it at the end."""
    unpacked = folder / "source"
    try:
        with tarfile.open(source) as archive:
            # Python has filters since 3.11.4.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(unpacked)
        (tree,) = unpacked.iterdir()
        own = tree / _INSTRUMENTATION
        own.mkdir()
        for part in _parts():
            shutil.copy(part, own)
        yield tree
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise BuildFailed(f"{source} is no archive of the emulator's source: {error}") from None
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


# Of compilers, configure, patch and make.
_ERROR = re.compile(r"\berror\b|hunks? FAILED|can't find file|\*\*\*", re.I)


def _reason(printed: list[str]) -> str:
    """Return the line that says why: the first that names an error, else the last."""
    lines = [line.strip() for line in printed if line.strip()]
    return next(filter(_ERROR.search, lines), lines[-1] if lines else "it printed nothing")
