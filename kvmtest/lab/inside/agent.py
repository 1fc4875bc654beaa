"""The agent inside a lab's machine.

Runs up to a breakpoint twice: with all imported that is not kvmtest's, where a booted machine is
saved, and with kvmtest imported and warm, where the machine of this version of kvmtest is saved.
From there on it takes one job, runs kvmtest as the job says, and sends out what that wrote.

It talks to the outside by the parallel port: lines of text, and messages, each a line of JSON
behind the ASCII record separator (RFC 7464); the message "file" is followed by that many raw bytes.

It is run as it stands inside the machine, and imports nothing of kvmtest before that has come.
"""

import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

PORT = "/lab/port"
PACKAGE, JOB, OUTPUT = Path("/package"), Path("/job"), Path("/tmp/output")

RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207  # include/uapi/linux/random.h

PORTS = Path("/dev/port")
COM1_IER = 0x3F9  # the serial port's enables of interrupts (include/uapi/linux/serial_reg.h)


def breakpoint_() -> None:
    """Stop at the emulator's prompt, and go on from there."""
    subprocess.run([PORT, "breakpoint"], check=True)


def tell(data: bytes = b"", **message: object) -> None:
    """Send a message, and data after it; returns when all of it is out."""
    line = b"\x1e" + json.dumps(message).encode() + b"\n"
    subprocess.run([PORT, "send"], input=line + data, check=True)


def reached(stage: str) -> None:
    """Tell how far the machine has come."""
    tell(stage=stage, uptime=float(Path("/proc/uptime").read_text().split()[0]))


def receive(folder: Path) -> None:
    """Unpack the payload drive's files into a folder."""
    data = subprocess.run([PORT, "receive"], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        # Python has filters since 3.11.4; what comes is kvmtest's own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)


def import_others() -> None:
    """Import what takes time to import, and have pytest run once."""
    for name in json.loads(Path("/lab/imports").read_text()):
        importlib.import_module(name)
    import pytest

    test = Path("/tmp/warm/test_nothing.py")
    test.parent.mkdir()
    test.write_text("def test_nothing(): pass\n")
    pytest.main(["-p", "no:cacheprovider", "-p", "no:terminal", str(test.parent)])


def kvmtest(*words: str) -> int:
    """Run the command kvmtest in this process; return its exit status."""
    from kvmtest.cli import main

    try:
        return main(list(words))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 3


def warm_up() -> None:
    """Have kvmtest imported, and what it needs of an unchanging kernel and of its guests read."""
    sys.path.insert(0, str(PACKAGE))
    import kvmtest as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from kvmtest.errors import EnvironmentUnfit
    from kvmtest.guests import image

    for path in image.IMAGES.glob("*.elf"):
        with contextlib.suppress(EnvironmentUnfit):  # Not all are guests.
            image.load(path.stem)
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        kvmtest("run", "-o", "/tmp/warm/output", "--only", "kernel.fix-present")
    # There is memory enough for one run without the collector, which takes its time.
    gc.disable()


def silence() -> None:
    """Switch the serial port's interrupts off; the kernel writes to its console without them.

    A restored machine's port receives NULs that nobody sent, one a millisecond, and each would
    interrupt it: a twelfth of its time, and a VM-exit in nearly every stretch of a guest. A kernel
    without CONFIG_DEVPORT has to bear them.
    """
    with contextlib.suppress(FileNotFoundError):
        ports = os.open(PORTS, os.O_WRONLY)
        try:
            os.pwrite(ports, b"\0", COM1_IER)
        finally:
            os.close(ports)


def wake(job: dict[str, Any]) -> None:
    """Give a restored machine the time of day, and randomness of its own."""
    time.clock_settime(time.CLOCK_REALTIME, job["time"])
    seed = bytes.fromhex(job["entropy"])
    with Path("/dev/urandom").open("wb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def kernel_said(command: list[str]) -> str:
    """Return the last line of the kernel's log where a command loads a module: why it refuses it.

    modprobe knows the errno alone, which stands for a dozen reasons.
    """
    if command[0] != "modprobe":
        return ""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace").stdout
    lines = log.strip().splitlines()
    return f" (the kernel: {lines[-1]})" if lines else ""


def prepare(job: dict[str, Any]) -> bool:
    """Run the job's commands, such as loading other modules; tell whether all succeeded."""
    for command in job["commands"]:
        done = subprocess.run(command, capture_output=True, text=True, cwd=JOB)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            tell(failed=f"{' '.join(command)}: {why}{kernel_said(command)}")
            return False
    return True


def run(job: dict[str, Any]) -> int:
    """Run kvmtest with its output going out as it comes; return its exit status."""
    sender = subprocess.Popen([PORT, "send"], stdin=subprocess.PIPE)
    assert sender.stdin
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(sender.stdin.fileno(), number)
    sender.stdin.close()
    try:
        return kvmtest(*job["command"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
        sender.wait()


def main() -> None:
    """Do it all."""
    import_others()
    reached("booted")
    breakpoint_()
    silence()
    receive(PACKAGE)
    warm_up()
    reached("ready")
    breakpoint_()
    silence()
    receive(JOB)
    job = json.loads((JOB / "job.json").read_text())
    wake(job)
    os.environ.update(job["environment"])
    reached("awake")
    if not prepare(job):
        return
    reached("running")
    status = run(job)
    if OUTPUT.is_dir():
        for path in sorted(OUTPUT.iterdir()):
            data = path.read_bytes()
            tell(data, file=path.name, size=len(data))
    tell(end=status)
    breakpoint_()


if __name__ == "__main__":
    main()
