"""A real QEMU whose guest counts in memory that the test sees, and at times writes to a port."""

import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.stand_in import need_kvm, need_root

QEMU = "qemu-system-x86_64"
COUNTER = 0x1000
PER_OUT = 4096
MEMORY = 2 << 20
#: Upper bound on what takes milliseconds on an idle machine.
PATIENCE_S = 30.0


class CountingQemu:
    """The QEMU, and what its guest has done."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._outs = folder / "outs"
        with (folder / "memory").open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), MEMORY, prot=mmap.PROT_READ)

    @property
    def count(self) -> int:
        return int.from_bytes(self._memory[COUNTER : COUNTER + 4], "little")

    @property
    def outs(self) -> int:
        return self._outs.stat().st_size

    def await_counting(self, by: int = 1) -> None:
        """Wait until the guest has counted further."""
        wanted, until = self.count + by, time.monotonic() + PATIENCE_S
        while self.count < wanted:
            assert self.process.poll() is None, "QEMU has ended"
            assert time.monotonic() < until, f"the guest stands still at {self.count}"
            os.sched_yield()

    def threads(self) -> dict[int, dict[str, str]]:
        """Return the status of each thread, by proc(5)."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            found[int(task.name)] = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return found

    def end(self) -> None:
        """End QEMU and its guest, as by a user."""
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0

    def check_outs(self) -> None:
        """Check, of an ended guest, that no write to the port was lost or made twice."""
        # The last one may not have been made.
        assert self.outs in (self.count // PER_OUT, self.count // PER_OUT - 1)


@contextmanager
def counting_qemu(folder: Path) -> Iterator[CountingQemu]:
    """Start QEMU with -accel kvm, and end it if the test has not."""
    need_root()
    need_kvm()
    for program in (QEMU, "as", "ld"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    source = Path(__file__).with_name("counting_guest.S")
    subprocess.run(["as", "--32", source, "-o", "guest.o"], cwd=folder, check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext", "0", "-e", "0", "--oformat", "binary"]
    subprocess.run([*link, "guest.o", "-o", "bios"], cwd=folder, check=True)
    machine = "pc,memory-backend=memory,smm=off,usb=off,graphics=off"
    memory = f"memory-backend-file,id=memory,size={MEMORY},mem-path=memory,share=on"
    command = [
        QEMU, "-accel", "kvm", "-machine", machine, "-m", "2M", "-object", memory, "-bios", "bios",
        "-display", "none", "-nodefaults", "-monitor", "none", "-serial", "none",
        "-chardev", "file,id=outs,path=outs", "-device", "isa-debugcon,iobase=0xe9,chardev=outs",
    ]  # fmt: skip
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
    try:
        until = time.monotonic() + PATIENCE_S
        while not (folder / "outs").exists() or not (folder / "outs").stat().st_size:
            assert process.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < until, "the guest does not start"
            os.sched_yield()
        yield CountingQemu(process, folder)
    finally:
        process.kill()
        process.wait()
