"""All schedules
=============

Plays all schedules up to a length, and holds each VMCS that they leave against the model.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.preconditions import answer
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.vmcs import VmcsWitness
from kvmtest.host.facts.hotplug import Bound, removable
from kvmtest.host.facts.msr import freeze_bit
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.host.observe.vmcs_dump import VmcsDump
from kvmtest.interleave.model import final_bit
from kvmtest.interleave.schedule import Does, Schedule, has, number_of, schedules, text
from kvmtest.judge import claim, control, measure
from kvmtest.missing import Missing
from kvmtest.smi.source import Periodic
from kvmtest.smi.sources import lab

from .player import Look, Player
from .stage import dumps_of, opened_log, opened_player, used_cpus

__all__ = ["all_enumerated", "alphabet", "enumerated"]

_WITHOUT = frozenset(Does) - {Does.EMULATE, Does.UNPLUG}

# Documentation/admin-guide/sysctl/kernel.rst, printk: the first of four is the console's. Dumps are
# errors, level 3; emergencies are 0.
_CONSOLE_LEVELS, _CRITICAL_ONLY = "/proc/sys/kernel/printk", "1"

# Few enough that their dumps stay in a log of 128 KiB with other lines.
_BATCH = 8
# How many schedules an outcome names.
_NAMED = 5


def alphabet(context: Context) -> frozenset[Does]:
    """Return the steps that this machine can take without emulation and hotplug."""
    source = lab.find(context.machine, "")
    smi = set() if isinstance(source, Periodic) else {Does.SMI}
    return _WITHOUT - smi - (set() if len(used_cpus()) > 1 else {Does.MOVE})


@dataclass
class _Outcome:
    """What the schedules of one length came to."""

    looks: int = 0
    broken: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    losing: list[str] = field(default_factory=list)
    """Those that the model of a KVM that loses updates leaves wrong."""


def all_enumerated(context: Context, must_have: Does | None = None) -> Observations:
    """Play all schedules that this machine can take, or those with the step ``must_have``.

    Those in which a CPU goes offline are played apart, and only where that is permitted.
    """
    wanted = frozenset({must_have} if must_have else ())
    steps = alphabet(context) | wanted
    yield from enumerated(context, steps, wanted)
    if _may_unplug(context.machine):
        hotplug = frozenset({Does.UNPLUG})
        yield from enumerated(context, steps | hotplug, wanted | hotplug)


def _may_unplug(machine: Machine) -> bool:
    if answer(machine, "cpu-hotplug") is not None:
        return False
    *_, cpu = used_cpus()
    return cpu in removable(machine.tree) and not Bound.of(machine.tree).alone_on(cpu)


def enumerated(
    context: Context, steps: Collection[Does], must_have: Collection[Does] = ()
) -> Observations:
    """Play the schedules of up to ``context.schedule_steps`` of the steps.

    Only those that have each step of ``must_have``.
    """
    with Scene(context, "vmcs") as scene, opened_log(context) as log:
        yield from scene.begin()
        if scene.witness(VmcsWitness) is None or isinstance(log, Missing):
            return
        for value in (0, 1):
            yield from scene.set_knob(value)
        # Thousands of dumps would hold up each KVM_RUN on a serial console.
        context.journal.write(_CONSOLE_LEVELS, _CRITICAL_ONLY)
        with opened_player(context, scene, unplugs=Does.UNPLUG in steps) as player:
            for length in range(1, context.schedule_steps + 1):
                listed = [
                    each
                    for each in schedules(steps, length)
                    if all(has(each, does) for does in must_have)
                ]
                outcome = _play(context, log, player, length, listed)
                yield from _readings(outcome, steps, must_have, length, len(listed))
        with scene.guest() as guest:
            yield from scene.end(guest)


def _play(
    context: Context, log: KernelLog, player: Player, length: int, listed: Sequence[Schedule]
) -> _Outcome:
    outcome = _Outcome()
    for at in range(0, len(listed), _BATCH):
        context.on_step(f"schedules of {length} steps: {at} of {len(listed)}")
        before = log.here()
        played = []
        for schedule in listed[at : at + _BATCH]:
            played.append((schedule, player.play(schedule)))
            log.drain()
        wanted = {look.fs_base for _, looks in played for look in looks}
        dumps = dumps_of(log, before, wanted)
        for schedule, looks in played:
            _judge(outcome, schedule, [(look, dumps.get(look.fs_base)) for look in looks])
        log.forget(before)
    return outcome


def _judge(
    outcome: _Outcome, schedule: Schedule, looks: Sequence[tuple[Look, VmcsDump | None]]
) -> None:
    name = text(schedule)
    outcome.looks += len(looks)
    whole = [(look, dump) for look, dump in looks if dump is not None and dump.loads_debugctl]
    if len(whole) != len(looks):
        outcome.broken.append(name)
    if any(dump.cpu not in (None, look.cpu) for look, dump in whole):
        outcome.elsewhere.append(name)
    if any(freeze_bit(dump.debugctl) != final_bit(schedule, look.vcpu) for look, dump in whole):
        outcome.wrong.append(name)
    if any(
        final_bit(schedule, look.vcpu, loses=True) != final_bit(schedule, look.vcpu)
        for look, _ in looks
    ):
        outcome.losing.append(name)


def _readings(
    outcome: _Outcome,
    steps: Collection[Does],
    must_have: Collection[Does],
    length: int,
    played: int,
) -> Observations:
    of = f"of {length} step{'s' * (length > 1)}{' with hotplug' * (Does.UNPLUG in steps)}"
    remedy = "look at the kernel log, and run without other VMs"
    what = f"schedules {of} without a whole dump of each look"
    yield control("vmcs", what, _named(outcome.broken), "none", remedy, looks=outcome.looks)
    what = f"schedules {of} whose last entries were on other CPUs than planned"
    yield control("vmcs", what, _named(outcome.elsewhere), "none", remedy)
    what = f"schedules {of}, of {played}, that leave another bit 14 of DebugCtl than the model's"
    letters = "".join(does.value for does in Does if does in steps)
    yield claim(
        "vmcs", what, len(outcome.wrong), 0, steps=letters, first=_named(outcome.wrong),
        looks=outcome.looks, stand_for=number_of(steps, length, must_have),
    )  # fmt: skip
    if outcome.wrong:
        same = "these" if outcome.wrong == outcome.losing else "others"
        what = f"schedules {of} that a KVM leaves wrong that loses updates while it emulates"
        yield measure("vmcs", what, f"{len(outcome.losing)}, {same}")


def _named(schedules_: Sequence[str]) -> str:
    """Return the first schedules in one text."""
    more = ", …" if len(schedules_) > _NAMED else ""
    return ", ".join(schedules_[:_NAMED]) + more or "none"
