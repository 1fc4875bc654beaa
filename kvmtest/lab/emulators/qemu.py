"""QEMU
====

The emulator of the lab's AMD machines: what is installed, the command that boots or restores one,
and the dialogue on QEMU's monitor (docs/interop/qmp-spec.txt). Written for Debian's QEMU 7.2, with
CPUs that it emulates itself (TCG).
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvmtest.distribution import path_of
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.lab.digest import of_parts

from .emulator import (
    PARALLEL,
    PAYLOAD,
    SERIAL,
    Hardware,
    Launch,
    Start,
    inherited,
    installed,
    text_of,
)

__all__ = ["CPU_MODEL", "PACKAGES", "PC", "Q35", "Board", "Monitor", "Qemu", "arguments"]

#: The Debian packages to install.
PACKAGES = ("qemu-system-x86", "seabios", "busybox-static")

_PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Board:
    """A board with its firmware.

    ``firmware`` are the files that it needs, ``package`` the Debian package that has them;
    ``variables`` is the one that a machine writes to, in a copy. ``ide`` is the bus of the second
    ATA channel, ``modules`` are further modules that the machine loads. Whether it ``boots_flat``
    kernels depends on the firmware.
    """

    name: str
    firmware: tuple[Path, ...]
    package: str
    arguments: tuple[str, ...]
    ide: str
    variables: Path | None = None
    modules: tuple[str, ...] = ()
    boots_flat: bool = True

    @property
    def loads(self) -> tuple[str, ...]:
        """All modules that the machine loads."""
        return "kvm_amd", "msr", *self.modules


#: SMIs go to CPU 0 alone. Simple and fast: the lab's AMD machine.
PC = Board(
    "pc, SeaBIOS",
    (path_of("bios-256k.bin"),),
    "seabios",
    ("-machine", "pc,smm=on"),
    "ide.1",
)

_OVMF, _OVMF_VARIABLES = path_of("OVMF_CODE"), path_of("OVMF_VARS")

#: SMIs go to all CPUs, and UEFI variables are kept in SMM. Its own disks are on AHCI.
Q35 = Board(
    "q35, OVMF with SMM",
    (_OVMF, _OVMF_VARIABLES),
    "ovmf",
    (
        "-machine", "q35,smm=on",
        "-global", "driver=cfi.pflash01,property=secure,value=on",
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_OVMF}",
        "-device", "piix3-ide,id=old",
    ),
    "old.1",
    variables=_OVMF_VARIABLES,
    modules=("efivarfs",),
    boots_flat=False,
)  # fmt: skip

CPU_MODEL = "EPYC"
# SVM as TCG has it; without AVX, as programs inside would choose code that is slow to emulate.
_CPU = f"{CPU_MODEL},+svm,+npt,-avx,-avx2,-fma,-f16c"

_KERNEL, _INITRAMFS, _COMMAND_LINE = "vmlinuz", "initramfs", "command-line"
_STATE, _VARIABLES = "state", "uefi-variables"


@dataclass(frozen=True)
class Qemu:
    """The installed emulator with a board. ``digest`` is that of its program and firmware."""

    program: Path
    version: str
    digest: str = field(repr=False)
    board: Board = PC

    name = "QEMU"
    model = CPU_MODEL
    cpus = 2
    can_save = True
    kernel_arguments = ""

    @classmethod
    def find(cls, board: Board = PC) -> "Qemu":
        """Find the emulator and a board's firmware.

        Raises EnvironmentUnfit with the packages to install.
        """
        path, version, banner = installed(
            "QEMU",
            "the emulator of the lab's AMD machine",
            (_PROGRAM,),
            board.firmware,
            (*PACKAGES, board.package),
            "--version",
            r"QEMU emulator version (\S+)",
        )
        files = (path, *board.firmware)
        digests = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        return cls(path, version, of_parts(banner, *digests), board)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that its machine loads."""
        return self.board.loads

    @property
    def boots_flat(self) -> bool:
        """Whether its firmware boots a kernel without an EFI stub."""
        return self.board.boots_flat

    @property
    def lacks(self) -> Mapping[str, str]:
        """Nothing: a machine shows by itself what it lacks."""
        return {}

    @property
    def details(self) -> Mapping[str, str | int]:
        """Further facts, for evidence."""
        return {"acceleration": "none (TCG), one thread for all CPUs", "board": self.board.name}

    def check(self, hardware: Hardware) -> None:
        """Raise UsageError for CPU features, none of which can be shown."""
        for feature in hardware.cpu_features:
            raise UsageError(
                f"--show-cpu-feature {feature}: the AMD machine can show none; use --machine intel"
            )

    def machine_digest(self, hardware: Hardware) -> str:
        """Return the digest of the emulator and of a machine's configuration."""
        return of_parts(self.digest, *arguments(hardware, Path("x"), self.board))

    def make_boot(self, folder: Path, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Write kernel, first root file system and command line to a folder.

        QEMU hands them to its BIOS; reading them from an emulated CD takes twenty seconds.
        """
        (folder / _KERNEL).write_bytes(kernel)
        (folder / _INITRAMFS).write_bytes(initramfs)
        (folder / _COMMAND_LINE).write_text(command_line)

    def launch(self, start: Start, folder: Path) -> Launch:
        """Return how a machine is started whose ports and drive are in ``folder``."""
        command = [str(self.program), *arguments(start.hardware, folder, self.board)]
        if self.board.variables:
            shutil.copyfile(self.board.variables, folder / _VARIABLES)
        if start.state:
            command += ["-incoming", "defer"]
        else:
            line = (start.boot / _COMMAND_LINE).read_text()
            command += ["-kernel", str(start.boot / _KERNEL)]
            command += ["-initrd", str(start.boot / _INITRAMFS), "-append", line]
        return Launch(command, inherited(), Monitor(start))

    def is_saved(self, state: Path) -> bool:
        """Tell whether a machine was saved to that folder."""
        return (state / _STATE).is_file()

    def ended_well(self, status: int) -> bool:
        """Tell whether the status is 0."""
        return status == 0

    def complaint(self, folder: Path) -> str:
        """Return the last line of its errors that is no warning."""
        lines = text_of(folder / "stderr").splitlines()
        return ([line for line in lines if line.strip() and "warning:" not in line] or [""])[-1]


def arguments(hardware: Hardware, folder: Path, board: Board = PC) -> list[str]:
    """Return the arguments that make a machine: no display, no network, no disk.

    One thread emulates all CPUs: several lose SMIs that come at the same time.
    """
    payload = _option("if=none", "id=payload", "format=raw", "readonly=on", "media=cdrom",
                      f"file={folder / PAYLOAD}")  # fmt: skip
    flash = _option("if=pflash", "format=raw", "unit=1", f"file={folder / _VARIABLES}")
    variables = ["-drive", flash] if board.variables else []
    return [
        "-no-user-config", "-nodefaults", "-display", "none", "-vga", "none", "-no-reboot",
        "-accel", "tcg,thread=single",
        *board.arguments,
        *variables,
        "-cpu", _CPU,
        "-smp", str(hardware.cpus),
        "-m", str(hardware.memory),
        "-chardev", _option("file", "id=serial", f"path={folder / SERIAL}"),
        "-device", "isa-serial,chardev=serial",
        "-chardev", _option("file", "id=parallel", f"path={folder / PARALLEL}"),
        "-device", "isa-parallel,chardev=parallel",
        "-drive", payload,
        "-device", f"ide-cd,bus={board.ide},unit=0,drive=payload",
        # A write to its port stops the machine at once: the breakpoint of c_helpers/lab/port.c.
        "-device", "pvpanic", "-action", "panic=pause",
        "-chardev", "stdio,id=monitor", "-mon", "chardev=monitor,mode=control",
    ]  # fmt: skip


def _option(*parts: str) -> str:
    """Return an option of several parts, in which a comma is doubled."""
    return ",".join(part.replace(",", ",,") for part in parts)


class Monitor:
    """Restores a machine, passes its breakpoints, and saves or ends it at the last.

    A machine is saved by migration to a file, from which any number can be restored at once.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._passes = start.passes
        self._is_restoring = start.state is not None
        self._pending = b""

    def answer(self, data: bytes) -> bytes:
        """Take QEMU's output on its monitor; return the commands that answer it.

        Raises EnvironmentUnfit where QEMU reports an error.
        """
        *lines, self._pending = (self._pending + data).split(b"\n")
        commands = [each for line in lines if line.strip() for each in self._commands(line)]
        return b"".join(json.dumps(command).encode() + b"\n" for command in commands)

    def _commands(self, line: bytes) -> Iterator[dict[str, Any]]:
        message = _message(line)
        if "QMP" in message:
            yield _command("qmp_capabilities")
            told = {"capability": "events", "state": True}
            yield _command("migrate-set-capabilities", capabilities=[told])
            if self._start.state:
                yield _command("migrate-incoming", uri=f"exec:cat < {_quoted(self._start.state)}")
        elif "error" in message:
            raise EnvironmentUnfit(f"QEMU: {_part(message, 'error', 'desc')}")
        elif message.get("event") == "STOP":
            yield self._at_breakpoint()
        elif message.get("event") == "MIGRATION":
            status = _part(message, "data", "status")
            if status == "failed":
                what = "restored" if self._is_restoring else "saved"
                raise EnvironmentUnfit(f"QEMU: the machine can't be {what}; use --cold")
            if status == "completed" and self._is_restoring:
                self._is_restoring = False
                yield _command("cont")

    def _at_breakpoint(self) -> dict[str, Any]:
        if self._passes:
            self._passes -= 1
            return _command("cont")
        if self._start.save:
            # The shell that writes the file ends QEMU: the machine is saved when the file is
            # whole, not when QEMU has sent it.
            path = _quoted(self._start.save)
            made = f"cat > {path}.part && mv {path}.part {path}"
            return _command("migrate", uri=f"exec:{made}; kill $PPID")
        return _command("quit")


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise EnvironmentUnfit(
            f"QEMU says {line[:80]!r} on its monitor, not a QMP message; report its version"
        )
    return message


def _part(message: Mapping[str, Any], object_name: str, name: str) -> Any:
    """Return a member of an object in a message, or None where either is not there."""
    part = message.get(object_name)
    return part.get(name) if isinstance(part, dict) else None


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder / _STATE))


def _command(name: str, **arguments: object) -> dict[str, Any]:
    return {"execute": name, "arguments": arguments}
