"""Runs inside the lab's Intel machine: the reproducers' programs, which lie beside this script.

What each printed goes to the files that the machine sends, with its exit status as the name's end.
The settings of the host are the old ones after each, and after one that is killed amid its work.
"""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

OUTPUT = Path("/tmp/output")
SETTINGS = (
    Path("/sys/devices/cpu/freeze_on_smi"),
    Path("/sys/module/kvm_intel/parameters/dump_invalid_vmcs"),
)
KILLED = "vmx.entry.toggled"
# One page: what a pipe holds at least.
CAPACITY = 4096


def settings() -> list[str]:
    return [path.read_text() for path in SETTINGS]


def check(what: str, observed: object, expected: object) -> None:
    """End the script where something is not as it should be."""
    if observed != expected:
        sys.exit(f"{what}: {observed}, not {expected}")


def run(program: Path) -> None:
    program.chmod(0o755)
    done = subprocess.run([f"./{program}"], capture_output=True, text=True, timeout=120)
    (OUTPUT / f"{program.stem}.{done.returncode}").write_text(done.stdout + done.stderr)


def run_until_killed(program: Path, number: signal.Signals) -> None:
    """End a program that has changed the settings and waits for a reader of what it prints."""
    ours, its = os.pipe()
    check("the pipe", fcntl.fcntl(its, fcntl.F_SETPIPE_SZ, CAPACITY), CAPACITY)
    # Room for the two lines before the first change, not for a line more.
    os.write(its, b"x" * (CAPACITY - len("KTAP version 1\n1..3\n")))
    running = subprocess.Popen([f"./{program}"], stdout=its)
    os.close(its)
    while settings() != ["0\n", "Y\n"]:
        check("the program, before it is killed", running.poll(), None)
    running.send_signal(number)
    check("the status of a killed program", running.wait(), -number)
    # The end of the pipe comes when the last process that may write to it has ended.
    with os.fdopen(ours, "rb") as pipe:
        pipe.read()


OUTPUT.mkdir(exist_ok=True)
before = settings()
check("the settings at first", before, ["1\n", "N\n"])
for path in sorted(Path().glob("*.program")):
    run(path)
    check(f"the settings after {path.stem}", settings(), before)
for each in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
    run_until_killed(Path(f"{KILLED}.program"), each)
    check(f"the settings after {each.name}", settings(), before)
