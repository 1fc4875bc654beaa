"""The stage of schedules
======================

What a check plays schedules with: a player that toggles the host's knob, and the kernel log, where
the dumps of the last entries are.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from kvmtest.checks.affinity import only_on
from kvmtest.checks.context import Context
from kvmtest.checks.scene import Scene
from kvmtest.errors import KvmtestError
from kvmtest.host.changes.hotplug import bring_online, keep_bound, take_offline
from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.hotplug import Bound
from kvmtest.host.observe.kernel_log import KernelLog, Position
from kvmtest.host.observe.vmcs_dump import VmcsDump, parse_dumps
from kvmtest.missing import Missing
from kvmtest.smi.source import Periodic
from kvmtest.smi.sources import lab

from .player import Player

__all__ = ["dumps_of", "opened_log", "opened_player", "used_cpus"]

# A dump is in the log when KVM_RUN returns; a record that another CPU has begun can hold it up.
_PATIENCE_S = 2.0
_SMI_HZ = 10_000


@contextmanager
def opened_log(context: Context) -> Iterator[KernelLog | Missing]:
    """Yield the run's kernel log, or another where the run has none."""
    run = context.kernel_log
    if not isinstance(run, Missing):
        yield run.log
        return
    opened = KernelLog.open(context.machine.tree)
    with nullcontext(opened) if isinstance(opened, Missing) else opened as log:
        yield log


def used_cpus() -> tuple[int, ...]:
    """Return the CPUs of a player's thread and of its vCPUs."""
    return tuple(sorted(os.sched_getaffinity(0))[:2])


@contextmanager
def opened_player(context: Context, scene: Scene, *, unplugs: bool = False) -> Iterator[Player]:
    """Yield a player whose vCPUs begin on another CPU than this thread's, where there is one.

    ``unplugs``: it will take a CPU offline.
    """
    cpus = used_cpus()
    if unplugs:
        keep_bound(context.journal, Bound.of(context.machine.tree))
    # Its journal entry was written by the scene.
    knob = os.open(context.machine.tree.path(scene.knob.paths[0]), os.O_WRONLY | os.O_CLOEXEC)
    try:
        with (
            only_on(cpus[0]),
            Player(
                cpus[::-1],
                lambda value: _write(knob, value),
                lambda: _raise_smi(context),
                lambda cpu: _unplug(context.journal, cpu),
            ) as player,
        ):
            yield player
    finally:
        os.close(knob)


def _write(knob: int, value: int) -> None:
    os.pwrite(knob, b"%d" % value, 0)


def _raise_smi(context: Context) -> None:
    """Have an SMI arrive in guest mode."""
    source = lab.find(context.machine, "")
    if not isinstance(source, Periodic):
        raise KvmtestError("this machine has no source of SMIs")
    deadline = time.monotonic() + _PATIENCE_S
    with source.switched(_SMI_HZ, False) as raised:
        while raised and not raised():
            if time.monotonic() > deadline:
                raise KvmtestError("no SMI came while a vCPU was in the guest; try again")


def _unplug(journal: Journal, cpu: int) -> None:
    """Take a CPU offline and bring it online."""
    take_offline(journal, cpu)
    bring_online(journal, cpu)


def dumps_of(log: KernelLog, since: Position, wanted: set[int]) -> dict[int, VmcsDump]:
    """Return the dumps by FS base, as soon as all are there; fewer if they do not come."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        slice_ = log.since(since)
        dumps = parse_dumps(slice_.records)
        found = {} if isinstance(dumps, Missing) else {dump.fs_base: dump for dump in dumps}
        left = deadline - time.monotonic()
        if wanted <= found.keys() or left <= 0 or not log.await_more(left):
            return found
