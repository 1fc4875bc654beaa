"""CPU affinity
============

Which CPUs the calling thread, and the vCPUs that it runs, may run on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.missing import Missing

__all__ = ["move_to", "only_on", "own_cpus_kept", "two_cpus"]


def two_cpus() -> tuple[int, int] | Missing:
    """Return two CPUs that this process may run on."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return Missing("this process may run on one CPU only", "start it without taskset")
    return cpus[0], cpus[1]


def move_to(cpu: int) -> None:
    """Move this thread, and the vCPUs that it runs, to that CPU."""
    os.sched_setaffinity(0, {cpu})


@contextmanager
def own_cpus_kept() -> Iterator[None]:
    """Restore the calling thread's CPU affinity when the block ends."""
    cpus = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


@contextmanager
def only_on(cpu: int) -> Iterator[None]:
    """Keep the calling thread on one CPU while the block runs."""
    with own_cpus_kept():
        move_to(cpu)
        yield
