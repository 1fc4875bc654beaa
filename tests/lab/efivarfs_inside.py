"""Runs inside a lab's machine that was booted by UEFI: what efivarfs does with what is asked of it.

The kernel passes the free space on to the firmware at most five times in 2 s; a write that the
firmware refuses it passes on as often as it is made, and the file that it needs is gone afterwards.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, "/package")

from kvmtest.host.changes.journal import Journal
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi import SmiCount, Triggered, choose, counts, ready

EFIVARS = Path("/sys/firmware/efi/efivars")
TIMES, LIMIT, LIMIT_S = 20, 5, 2.0
KILLED = "killed"


def fired(machine: Machine, journal: Journal, name: str, count: SmiCount) -> dict[int, int]:
    """Fire TIMES times in a hurry; return the SMIs counted on each CPU."""
    source = choose(machine, name)
    if isinstance(source, Missing):
        sys.exit(f"{name}: {source}")
    with ready(source, journal) as each:
        if not isinstance(each, Triggered):
            sys.exit(f"{name} is not triggered")
        with each.opened() as fire:
            before = count.read_all()
            for _ in range(TIMES):
                fire()
            after = count.read_all()
    return {cpu: count.increase(before[cpu], after[cpu]) for cpu in after}


def main() -> None:
    """Do it; ends with a line that says what is wrong."""
    machine = Machine(Tree(Path("/")))
    count = counts(machine)
    if isinstance(count, Missing):
        sys.exit(f"nothing to count SMIs with: {count}")
    names = sorted(path.name for path in EFIVARS.iterdir())
    with Journal.open(machine.tree) as journal:
        time.sleep(LIMIT_S)
        for name, smis in (("efivarfs-statfs", LIMIT), ("efivar-refused", TIMES)):
            counted = fired(machine, journal, name, count)
            if counted != dict.fromkeys(counted, smis):
                sys.exit(f"{name}: {TIMES} times raised {counted} SMIs, not {smis}")
    expect(names, "after a run")
    killed = subprocess.run([sys.executable, __file__, KILLED], capture_output=True, text=True)
    if killed.returncode != -signal.SIGKILL or "kvmtest-" not in killed.stdout:
        sys.exit(f"a run that is killed: {killed.returncode} {killed.stdout} {killed.stderr}")
    # Whoever opens the next waits for the guardian of the one before, or does its work.
    Journal.open(machine.tree).close()
    expect(names, "after a run that was killed")


def expect(names: list[str], when: str) -> None:
    """Look whether efivarfs has these names; ends with a line that says which not."""
    left = sorted(path.name for path in EFIVARS.iterdir())
    if left != names:
        sys.exit(f"{when} efivarfs has {set(left) ^ set(names)} that it had not, or lost them")


def be_killed() -> None:
    """Have a file in efivarfs, tell all names there, and die."""
    machine = Machine(Tree(Path("/")))
    source, journal = choose(machine, "efivar-refused"), Journal.open(machine.tree)
    if isinstance(source, Missing):
        sys.exit(str(source))
    with ready(source, journal) as each:
        if isinstance(each, Triggered):
            with each.opened() as fire:
                fire()
        print(*(path.name for path in EFIVARS.iterdir()), flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGKILL)


be_killed() if KILLED in sys.argv else main()
