"""The agent inside a lab's machine.

It stops at two breakpoints: the machine is saved at the first with everything imported but kvmtest,
and at the second with kvmtest imported and warm. Then it takes one job, runs kvmtest as the job
says, and sends out the files that kvmtest wrote.

It writes to the parallel port: lines of text, and messages, each a line of JSON behind the ASCII
record separator (RFC 7464); the message "file" is followed by that many raw bytes.

This file runs alone inside the machine, and imports nothing of kvmtest before kvmtest has come.
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
    """Stop the machine; return when the emulator goes on."""
    subprocess.run([PORT, "breakpoint"], check=True)


def end() -> None:
    """End the machine."""
    subprocess.run([PORT, "end"], check=True)


def send(data: bytes = b"", **message: object) -> None:
    """Send a message, and data after it; return when all of it is out."""
    line = b"\x1e" + json.dumps(message).encode() + b"\n"
    subprocess.run([PORT, "send"], input=line + data, check=True)


def report_stage(stage: str) -> None:
    """Send the stage that the machine has reached."""
    send(stage=stage, uptime=float(Path("/proc/uptime").read_text().split()[0]))


def receive(folder: Path) -> None:
    """Unpack the payload drive's files into a folder."""
    data = subprocess.run([PORT, "receive"], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        # Python has filters since 3.11.4; the files are kvmtest's own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)


def import_others() -> None:
    """Import what takes time to import."""
    for name in json.loads(Path("/lab/imports").read_text()):
        importlib.import_module(name)


def kvmtest(*words: str) -> int:
    """Run the command kvmtest in this process; return its exit status."""
    from kvmtest.cli import main

    try:
        return main(list(words))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 3


def warm_up() -> None:
    """Import kvmtest, and read what it needs of the kernel's types and of its guests."""
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
    # The memory suffices for one run without the collector, which costs time.
    gc.disable()


def silence_serial_port() -> None:
    """Switch the serial port's interrupts off; the kernel writes to its console without them.

    A restored machine's port receives a NUL each millisecond that nobody sent. Its interrupts would
    take a twelfth of the machine's time, and exit nearly every window of a guest. A kernel without
    CONFIG_DEVPORT keeps them.
    """
    with contextlib.suppress(FileNotFoundError):
        ports = os.open(PORTS, os.O_WRONLY)
        try:
            os.pwrite(ports, b"\0", COM1_IER)
        finally:
            os.close(ports)


def set_clock_and_entropy(job: dict[str, Any]) -> None:
    """Give a restored machine the time of day, and entropy of its own."""
    time.clock_settime(time.CLOCK_REALTIME, job["time"])
    seed = bytes.fromhex(job["entropy"])
    with Path("/dev/urandom").open("wb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def kernel_reason(command: list[str]) -> str:
    """Return the last line of the kernel's log where ``command`` is modprobe, which failed.

    modprobe knows only the errno, which has a dozen reasons.
    """
    if command[0] != "modprobe":
        return ""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace").stdout
    lines = log.strip().splitlines()
    return f" (the kernel: {lines[-1]})" if lines else ""


def run_commands(job: dict[str, Any]) -> bool:
    """Run the job's commands, which load other modules, say; tell whether all succeeded."""
    for command in job["commands"]:
        done = subprocess.run(command, capture_output=True, text=True, cwd=JOB)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            send(failed=f"{' '.join(command)}: {why}{kernel_reason(command)}")
            return False
    return True


def run(job: dict[str, Any]) -> int:
    """Run kvmtest, sending its output as it comes; return its exit status."""
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
    """Take the machine from boot through one job to its end."""
    import_others()
    report_stage("booted")
    breakpoint_()
    silence_serial_port()
    receive(PACKAGE)
    warm_up()
    report_stage("ready")
    breakpoint_()
    silence_serial_port()
    receive(JOB)
    job = json.loads((JOB / "job.json").read_text())
    set_clock_and_entropy(job)
    os.environ.update(job["environment"])
    report_stage("awake")
    if not run_commands(job):
        return
    report_stage("running")
    status = run(job)
    if OUTPUT.is_dir():
        for path in sorted(OUTPUT.iterdir()):
            data = path.read_bytes()
            send(data, file=path.name, size=len(data))
    send(end=status)
    end()


if __name__ == "__main__":
    main()
