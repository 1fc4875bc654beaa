"""Emulators
=========

What the lab asks of an emulator: its command line, how a kernel gets into it, how a machine is
saved and restored, and why it ended. Images, jobs and evidence are the lab's.

A machine has a serial port for the console, and the channels of c_helpers/lab/port.c: a parallel
port, a CD drive on the second ATA channel, and a way to stop at a breakpoint.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from kvmtest.distribution import install
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

#: The files in the folder that a machine runs in: two FIFOs, and the image of the payload drive.
SERIAL, PARALLEL, PAYLOAD = "serial", "parallel", "payload"


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine's parts; ``memory`` in MiB.

    ``cpu_features`` (Linux's names) are shown in CPUID but not implemented by the model, for
    software that behaves differently where it finds them.
    """

    cpus: int = 1
    memory: int = 384
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a machine: it boots, or is restored from the folder ``state``.

    ``boot`` is the folder that :meth:`Emulator.make_boot` filled. With ``save`` the machine is
    saved to that folder at its first breakpoint, and ends there.
    """

    hardware: Hardware
    boot: Path
    state: Path | None = None
    save: Path | None = None

    @property
    def passes(self) -> int:
        """How many breakpoints (inside/agent.py) it passes before the one that ends it."""
        return 0 if self.save or self.state else 2


class Dialogue(Protocol):
    """A dialogue with a running emulator, on its standard input and output."""

    def answer(self, data: bytes) -> bytes:
        """Take the emulator's output, in pieces of any size; return its next input.

        Raises EnvironmentUnfit where the emulator reports a failure.
        """


@dataclass(frozen=True, slots=True)
class Launch:
    """How an emulator is started; without a ``dialogue`` its command line and files say all."""

    command: list[str]
    environment: Mapping[str, str]
    dialogue: Dialogue | None = None


class Emulator(Protocol):
    """An installed emulator with one kind of machine."""

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
        """The digest of all files that its machines are made from."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that its machine loads; the first is KVM's vendor module."""

    @property
    def boots_flat(self) -> bool:
        """Whether it boots a flat kernel (kvmtest.lab.image.flat_kernel)."""

    @property
    def cpus(self) -> int:
        """The default number of CPUs."""

    @property
    def can_save(self) -> bool:
        """Whether machines can be saved."""

    @property
    def kernel_arguments(self) -> str:
        """Arguments on the kernel's command line that this machine alone needs."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """Why a machine does not meet a precondition, by its name: the model lacks something."""

    @property
    def details(self) -> Mapping[str, str | int]:
        """Further facts, for evidence."""

    def check(self, hardware: Hardware) -> None:
        """Raise UsageError or EnvironmentUnfit where it can't make such a machine."""

    def machine_digest(self, hardware: Hardware) -> str:
        """Return the digest of the emulator and of a machine's configuration."""

    def make_boot(self, folder: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Write what a machine boots from to a folder; raises EnvironmentUnfit."""

    def launch(self, start: Start, folder: Path) -> Launch:
        """Write the machine's further files to ``folder``; return how it is started.

        The folder holds ports and payload already. Raises OSError, EnvironmentUnfit.
        """

    def is_saved(self, state: Path) -> bool:
        """Tell whether a machine was saved to that folder."""

    def ended_well(self, status: int) -> bool:
        """Tell whether the emulator ends with this exit status when nothing went wrong."""

    def complaint(self, folder: Path) -> str:
        """Return the emulator's own reason for ending, from the machine's folder, or ""."""


class Installed(NamedTuple):
    """An emulator's program, its version, and its whole answer to the question for it."""

    program: Path
    version: str
    banner: str


def installed(
    name: str,
    role: str,
    programs: Iterable[str],
    files: Iterable[Path],
    packages: Iterable[str],
    version_option: str,
    version_pattern: str,
) -> Installed:
    """Find the first of ``programs`` on PATH; ``files`` must exist.

    Run with ``version_option`` the program must identify itself by ``version_pattern``, whose only
    group is the version. Raises EnvironmentUnfit with the command that installs ``packages``, which
    are named as Debian does.
    """
    remedy = install(*packages)
    found = next(filter(None, map(shutil.which, programs)), None)
    if found is None:
        raise EnvironmentUnfit(f"{role}, {name}, is not installed; {remedy}")
    for file in files:
        if not file.exists():
            raise EnvironmentUnfit(f"{file}, which {name} needs, is missing; {remedy}")
    path = Path(found).resolve()
    done = subprocess.run(
        [path, version_option],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    banner = done.stdout + done.stderr
    version = re.search(version_pattern, banner)
    if version is None:
        raise EnvironmentUnfit(f"{path} does not identify itself as {name}; {remedy}")
    return Installed(path, version[1], banner)


def inherited() -> dict[str, str]:
    """Return the environment variables of this process that an emulator gets."""
    return {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}


def text_of(path: Path) -> str:
    """Return the text of a file, or "" where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
