"""Speed of kvmtest's own work
===========================

The CPU time of a start of the command, of the leak judge and of the lab channel's reader, without
KVM. Prints each beside its goal, and exits with 1 if one is missed. The least of several turns
counts, as other load can only add to it.
"""

import gc
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from support.simulated_machine import Machine

from kvmtest.judge.leak import conclude
from kvmtest.lab.channel import Channel

#: The most seconds of a start; on a slow machine, the most starts of a bare interpreter.
START_S, STARTS = 0.5, 20
COMMANDS = (["doctor"], ["doctor", "--json"], ["list"])
#: The most time of a judgement, as a multiple of simulating its samples: the table of the judge's
#: errors needs a hundred thousand (docs/leak-judge.md).
JUDGING = 4
#: Eight times as many lines would take 64 times as long if each line copied the rest.
LINES, MORE_LINES, LONGER = 1 << 16, 1 << 19, 24


def started(words: list[str]) -> float:
    """Return the CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this thread's work, without the garbage collector's."""
    gc.disable()
    try:
        began = time.thread_time()
        work()
        return time.thread_time() - began
    finally:
        gc.enable()


def flood(lines: int) -> None:
    """Read a channel with as many empty lines."""
    assert sum(1 for _ in Channel().feed(b"\n" * lines)) == lines


def reaches(name: str, seconds: float, goal: float) -> bool:
    """Print what something took beside its goal; tell whether it reaches it."""
    reached = seconds <= goal
    mark = "ok    " if reached else "MISSED"
    print(f"{mark} {name}: {seconds * 1e3:.1f} ms of CPU time (goal <= {goal * 1e3:.1f} ms)")
    return reached


def least(turns: int, measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """Take several turns, and return the least of each figure."""
    taken = [measure() for _ in range(turns)]
    return {name: min(turn[name] for turn in taken) for name in taken[0]}


def starts() -> dict[str, float]:
    """Return what a bare interpreter takes, and each command."""
    figures = {"": started([sys.executable, "-c", "pass"])}
    for words in COMMANDS:
        figures[" ".join(words)] = started([sys.executable, "-m", "kvmtest", *words])
    return figures


def judgement() -> dict[str, float]:
    """Return what it takes to simulate an experiment, and to judge it."""
    machine = Machine(handler=1e5, kind="gaussian", noise=500, blocks=20)
    samples = machine.samples(random.Random(1))
    simulating = timed(lambda: machine.samples(random.Random(1)))
    return {"simulate": simulating, "judge": timed(lambda: conclude(samples))}


def floods() -> dict[str, float]:
    """Return what a flood of lines takes, and a longer one."""
    return {"short": timed(lambda: flood(LINES)), "long": timed(lambda: flood(MORE_LINES))}


def main() -> int:
    """Measure all, and return the exit status."""
    os.environ.pop("PYTHONPATH", None)
    begun, judged, read = least(5, starts), least(30, judgement), least(3, floods)
    goal = max(START_S, STARTS * begun.pop(""))
    reached = [
        *(reaches(f"kvmtest {words}", seconds, goal) for words, seconds in begun.items()),
        reaches("judging 20 blocks of windows", judged["judge"], JUDGING * judged["simulate"]),
        reaches(f"{MORE_LINES} lines of a lab's machine", read["long"], LONGER * read["short"]),
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
