"""Watch two TDs as the leak experiment does, and print their windows; run on a TDX host."""

import json
import os
import sys
from contextlib import ExitStack

from kvmtest.checks.leaks.watchers import Watcher, Watchers
from kvmtest.guests import td_guest
from kvmtest.host.facts.msr import IA32_TSC
from kvmtest.judge.samples import Arm
from kvmtest.kvm import MsrRefused, System
from kvmtest.workers import Supervisor
from support.silent_smis import silent_smis

RATE_HZ = 400.0
WINDOWS = 3


class Polls:
    """Counts a TD's polls alone."""

    def read(self) -> dict[str, int]:
        return {"nothing": 0}

    def known(self, polls: int, gaps: int) -> dict[str, int]:
        return {"nothing": polls}


def main() -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0))[:2])
    with System() as system, ExitStack() as stack:
        tds = [stack.enter_context(td_guest(system)) for _ in cpus]
        opened = stack.enter_context(ExitStack())
        smis = silent_smis(cpus, RATE_HZ)
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
