"""Emulators
=========

What the lab asks of an emulator. Images, jobs, saved machines and evidence are the lab's; of the
emulator's are its command line, how a kernel gets into it, how a machine of its is saved and
restored, and why it ended. Each is found in the same way.

Inside, its machine has a serial port for the console, and the channels of c_helpers/lab/port.c: a
parallel port, a CD drive on the second ATA channel, and a way to stop at a breakpoint.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from kvmtest.errors import EnvironmentUnfit

__all__ = [
    "PARALLEL",
    "PAYLOAD",
    "SERIAL",
    "Dialogue",
    "Emulator",
    "Hardware",
    "Installed",
    "Launch",
    "Start",
    "inherited",
    "installed",
    "text_of",
]

#: What is in the folder that a machine runs in: two FIFOs, and the image of the payload drive.
SERIAL, PARALLEL, PAYLOAD = "serial", "parallel", "payload"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine is made of; ``memory`` in MiB.

    ``cpu_features`` are shown in CPUID although the model has them not, by the names that Linux has
    for them: for software that asks for them and does something else then.
    """

    cpus: int = 1
    memory: int = 384
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """How a machine comes to life: booted, or restored from the folder ``state``.

    ``boot`` is the folder that :meth:`Emulator.make_boot` filled. Where ``save`` is given the
    machine ends at its first breakpoint, saved to that folder.
    """

    hardware: Hardware
    boot: Path
    state: Path | None = None
    save: Path | None = None

    @property
    def passes(self) -> int:
        """How many breakpoints it goes on from before it is done at the next (inside/agent.py)."""
        return 0 if self.save or self.state else 2


class Dialogue(Protocol):
    """What is said to a running emulator, on its standard input and output."""

    def answer(self, said: bytes) -> bytes:
        """Take what it said, in pieces of any size; return what it is told.

        Raises EnvironmentUnfit where it says that something failed.
        """


@dataclass(frozen=True, slots=True)
class Launch:
    """How an emulator is started; without a ``dialogue`` it has been told all beforehand."""

    command: list[str]
    environment: Mapping[str, str]
    dialogue: Dialogue | None = None


class Emulator(Protocol):
    """An installed emulator, and the kind of machine that it is used for."""

    @property
    def name(self) -> str:
        """Its name, for evidence."""

    @property
    def version(self) -> str:
        """Its version, for evidence."""

    @property
    def model(self) -> str:
        """The model of the emulated CPU, for evidence."""

    @property
    def digest(self) -> str:
        """The digest of all files that its machines are made of."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that are loaded in it; the first is KVM's vendor module."""

    @property
    def boots_flat(self) -> bool:
        """Whether it boots a kernel that is not compressed, behind a stub of the lab's."""

    @property
    def cpus(self) -> int:
        """How many CPUs a machine has where nobody asks for a number."""

    @property
    def can_save(self) -> bool:
        """Whether machines can be saved."""

    @property
    def kernel_arguments(self) -> str:
        """What belongs on a kernel's command line in this machine alone."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """What it does not model, by the precondition that a machine therefore does not meet."""

    @property
    def details(self) -> Mapping[str, str | int]:
        """Further facts, for evidence."""

    def check(self, hardware: Hardware) -> None:
        """Raise UsageError or EnvironmentUnfit where it has no such machine."""

    def machine_digest(self, hardware: Hardware) -> str:
        """Return the digest of the emulator and of a machine's configuration."""

    def make_boot(self, folder: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Write what a machine boots from to a folder; raises EnvironmentUnfit."""

    def launch(self, start: Start, folder: Path) -> Launch:
        """Write to ``folder`` what a machine needs besides what is there; return how it is started.

        Raises OSError, EnvironmentUnfit.
        """

    def is_saved(self, state: Path) -> bool:
        """Tell whether a machine was saved to that folder."""

    def ended_well(self, status: int) -> bool:
        """Tell whether an emulator that was not in trouble ends with this exit status."""

    def complaint(self, folder: Path) -> str:
        """Return why it ended, as it said in a machine's folder, or nothing."""


class Installed(NamedTuple):
    """An emulator's program, its version, and all that it says of itself."""

    program: Path
    version: str
    banner: str


def installed(
    name: str,
    role: str,
    programs: Iterable[str],
    files: Iterable[Path],
    packages: Iterable[str],
    ask: str,
    says: str,
) -> Installed:
    """Find the first of ``programs``, which must have ``files`` and be what it is taken for.

    Asked by the option ``ask`` it ``says`` its version, in the pattern's only group. Raises
    EnvironmentUnfit with what to install.
    """
    install = f"apt-get install --no-install-recommends {' '.join(dict.fromkeys(packages))}"
    found = next(filter(None, map(shutil.which, programs)), None)
    if found is None:
        raise EnvironmentUnfit(f"{role}, {name}, is not installed; {install}")
    for file in files:
        if not file.exists():
            raise EnvironmentUnfit(f"{file}, which {name} needs, is missing; {install}")
    path = Path(found).resolve()
    done = subprocess.run(
        [path, ask],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    banner = done.stdout + done.stderr
    version = re.search(says, banner)
    if version is None:
        raise EnvironmentUnfit(f"{path} does not say that it is {name}; {install}")
    return Installed(path, version[1], banner)


def inherited() -> dict[str, str]:
    """Return what an emulator gets of this process's environment."""
    return {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}


def text_of(path: Path) -> str:
    """Return what an emulator wrote to a file, or nothing where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
