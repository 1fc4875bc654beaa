"""Watch two TDs as the leak experiment does, and print their windows; run on a TDX host."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kvmtest.checks.leaks.smis import Smis
from kvmtest.checks.leaks.watchers import Watcher, Watchers
from kvmtest.guests import td_guest
from kvmtest.host.facts.msr import IA32_TSC
from kvmtest.judge.samples import Arm
from kvmtest.kvm import MsrRefused, System
from kvmtest.smi import Periodic
from kvmtest.workers import Supervisor

RATE_HZ = 400.0
WINDOWS = 3


class NoCount:
    """A count of SMIs that never come."""

    name = "nothing"

    def __init__(self, cpus: tuple[int, ...]) -> None:
        self.cpus = cpus

    def read(self, cpu: int) -> int:
        return 0

    def read_all(self) -> dict[int, int]:
        return dict.fromkeys(self.cpus, 0)

    def increase(self, before: int, after: int) -> int:
        return after - before

    def close(self) -> None:
        pass


class Polls:
    """Counts a TD's polls alone."""

    def read(self) -> dict[str, int]:
        return {"nothing": 0}

    def known(self, polls: int, gaps: int) -> dict[str, int]:
        return {"nothing": polls}


@contextmanager
def silent(_: float, __: bool) -> Iterator[None]:
    yield None


def main() -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0))[:2])
    source = Periodic("none", "raises none", "nothing", 10_000, silent)
    with System() as system, ExitStack() as stack:
        tds = [stack.enter_context(td_guest(system)) for _ in cpus]
        opened = stack.enter_context(ExitStack())
        smis = Smis(source, NoCount(cpus), RATE_HZ, cpus)
        watchers = Watchers(smis, stack.enter_context(Supervisor()), opened)
        refused = 0
        for td, cpu in zip(tds, cpus, strict=True):
            td.boot()
            try:
                td.vcpu.get_msr(IA32_TSC)
            except MsrRefused:
                refused += 1
            watchers.add(td, cpu, lambda vcpu, td=td: Watcher(td, Polls(), vcpu))
        watchers.calibrate()
        taken = [each for _ in range(WINDOWS) for each in watchers.take_windows(Arm.QUIET)]
    windows = [
        {
            "vcpu": window.vcpu,
            "ticks": window.ended - window.began,
            "gaps": [[gap.began - window.began, gap.ended - window.began] for gap in gaps],
            "seen": window.gaps,
            "exits": window.exits,
            "polls": window.known["nothing"],
        }
        for window, gaps in taken
    ]
    json.dump({"tds": len(tds), "refused": refused, "windows": windows}, sys.stdout)


if __name__ == "__main__":
    main()
