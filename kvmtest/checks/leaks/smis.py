"""The SMIs of a leak experiment
=============================

Finds the machine's source whose SMIs a count follows, their rate, their CPUs, and the length of a
window.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median

from kvmtest.checks.context import Context
from kvmtest.errors import KvmtestError
from kvmtest.judge import Absence, Reading, control
from kvmtest.missing import Missing
from kvmtest.smi import (
    FAST_HZ,
    ONLY_AFTER,
    SAFE_SHARE,
    Periodic,
    Proved,
    Ready,
    SmiCount,
    Source,
    Triggered,
    Turns,
    best,
    candidates,
    counts,
    prove,
    ready,
)

from .plan import Windows

__all__ = ["PROOFS", "SMIS_PER_WINDOW", "Smis", "proved_smis"]

#: SMIs in a window. An experiment has fewer than a hundred of them.
SMIS_PER_WINDOW = 4
#: A firmware's handlers take up to a millisecond: at such rates a machine still does its work.
RATE_HZ = 50.0
#: An emulated machine's handler is a few instructions, and the machine is slow.
LAB_RATE_HZ = 5000.0
#: Length of a window of one SMI: guests enter it early, and leave SMM long before its end.
WINDOW_S = 0.08
#: Mean SMIs in a window if SMIs come by themselves: half of the windows have none, and are quiet.
#: The longest window keeps gaps within the guest's room for four thousand: a host's timer makes at
#: most a thousand gaps a second.
WAITED_SMIS, LONGEST_S = 0.7, 2.0
#: SMIs that a source proves itself by.
PROOFS = 3
#: CPUs that guests run on at most.
MOST_CPUS = 4
#: The raw value that marks trouble in the kernel log: no other source is tried after it.
_TROUBLED = "troubled"
_NAME_ANOTHER = "see what kvmtest smi probe says, and name a source that works by --smi-source"


@dataclass(frozen=True, slots=True)
class Smis:
    """The source of SMIs, their count on ``cpus``, and the length of a window.

    ``trigger_s`` is a trigger's duration in seconds. ``fire`` triggers SMIs once, if the source can
    be triggered: each window then has the SMIs of one trigger. It runs on ``firing_cpu``, if no
    guest needs that CPU.
    """

    source: Ready
    count: SmiCount
    rate_hz: float
    cpus: tuple[int, ...]
    trigger_s: float = 0.0
    firing_cpu: int | None = None
    fire: Turns | None = None

    @property
    def window_s(self) -> float:
        """The length of a window in seconds."""
        if isinstance(self.source, Triggered):
            return WINDOW_S + self.trigger_s
        if self._is_waited:
            return min(WAITED_SMIS / self.rate_hz, LONGEST_S)
        return SMIS_PER_WINDOW / self.rate_hz

    @property
    def windows(self) -> Windows:
        """How SMIs get into windows."""
        by_ones = isinstance(self.source, Triggered)
        return Windows(self.window_s, self.rate_hz, by_ones, self._is_waited)

    @property
    def _is_waited(self) -> bool:
        return isinstance(self.source, Periodic) and self.source.patience_s is not None

    @contextmanager
    def opened(self) -> "Iterator[Smis]":
        """Yield the SMIs, ready to be triggered if the source can be triggered."""
        if not isinstance(self.source, Triggered):
            yield self
            return
        with self.source.opened() as fire:
            turns = fire if isinstance(fire, Turns) else Turns([fire], [1 / self.rate_hz])
            yield replace(self, fire=turns)

    def proved(self, context: Context) -> "Generator[Reading, None, Smis | None]":
        """Show that the count follows the source: a control.

        Return the SMIs, limited to the CPUs that take them and to a rate that the machine bears.
        """
        run = context.kernel_log
        log = run if isinstance(run, Missing) else run.log
        proof = prove(self.source, self.count, log, triggers=PROOFS, rate_hz=self.rate_hz)
        what = f"{proof.count} follows the SMI source {proof.source}"
        remedy = _NAME_ANOTHER
        observed = proof.refusal or "yes"
        raw = {_TROUBLED: True} if proof.troubled else {}
        yield control("leak", what, observed, "yes", remedy, sent=proof.sent, **raw)
        if proof.refusal:
            return None
        taking = [cpu for cpu in self.cpus if proof.counted[cpu]]
        if not taking:
            what, remedy = "SMIs come on a CPU of this process", "run it without taskset"
            yield control("leak", what, False, True, remedy)
            return None
        # The median, because a trigger may have waited for a CPU.
        took_s = median(proof.latencies_s) if proof.latencies_s else 0.0
        safe_hz = SAFE_SHARE / took_s if took_s else proof.safe_hz or self.rate_hz
        rate = min(self.rate_hz, safe_hz)
        is_triggered = isinstance(self.source, Triggered)
        firing_cpu, cpus = _apart(self.cpus, taking) if is_triggered else (None, taking)
        return replace(
            self,
            cpus=tuple(cpus[:MOST_CPUS]),
            rate_hz=rate,
            trigger_s=took_s,
            firing_cpu=firing_cpu,
        )


def _apart(allowed: Sequence[int], taking: Sequence[int]) -> tuple[int | None, Sequence[int]]:
    """Return the CPU to fire on, and the CPUs for guests.

    A guest that shares its CPU with the firing thread is in host mode when the SMI comes. Drivers
    raise SMIs on the first CPU.
    """
    others = [cpu for cpu in allowed if cpu not in taking]
    if others:
        return others[0], taking
    return (taking[0], taking[1:]) if len(taking) > 1 else (None, taking)


def proved_smis(
    context: Context, stack: ExitStack
) -> Generator[Reading | Absence, None, Smis | None]:
    """Try the machine's sources, the gentlest first, until one is fast enough; return its SMIs.

    The stack closes what the sources need. Sources that proved themselves earlier in the run are
    tried first.
    """
    machine = context.machine
    found = candidates(machine, machine.smi_source)
    if isinstance(found, Missing):
        yield Absence("leak", found)
        return None
    count = counts(machine)
    if isinstance(count, Missing):
        yield Absence("leak", Missing(f"SMIs can't be counted: {count.what}", count.remedy))
        return None
    stack.callback(count.close)
    names = context.found.setdefault(__name__, [])
    known = [source for source in found if source.name in names]
    for sources in (known, found) if known else (found,):
        smis = yield from _first_proved(context, stack, sources, count)
        if smis:
            names[:] = smis.source.name.split(" and ")
            return smis
    return None


def _first_proved(
    context: Context, stack: ExitStack, sources: Sequence[Source], count: SmiCount
) -> Generator[Reading | Absence, None, Smis | None]:
    """Try sources until one is fast enough; yield the proofs, or why there are none."""
    cpus = tuple(sorted(os.sched_getaffinity(0) & set(count.cpus)))
    proved: list[Smis] = []
    failed: list[Reading] = []
    for source in sources:
        first = ONLY_AFTER.get(source.name)
        if len(sources) > 1 and first and first not in (each.source.name for each in proved):
            continue
        context.on_step(f"does it raise SMIs: {source.describes}")
        rate = min(LAB_RATE_HZ if source.name == "lab" else RATE_HZ, source.fastest_hz)
        try:
            opened = stack.enter_context(ready(source, context.journal))
        except KvmtestError as error:
            what = f"the SMI source {source.name} can be used"
            failed.append(control("leak", what, str(error), "yes", _NAME_ANOTHER))
            continue
        readings, smis = _collected(Smis(opened, count, rate, cpus).proved(context))
        if smis is None:
            failed += readings
            if any(reading.raw.get(_TROUBLED) for reading in readings):
                break
            continue
        # A failed source must not hinder a verdict, so that it is kept as raw values alone.
        tried = {f"not {reading.what}": reading.observed for reading in failed}
        for reading in readings:
            yield replace(reading, raw={**reading.raw, **tried})
        proved.append(smis)
        if smis.rate_hz >= FAST_HZ:
            break
    if not proved:
        yield from failed if len(failed) < 2 else [_none_proved(failed)]
        return None
    chosen = best([Proved(each.source, each.rate_hz, each.trigger_s) for each in proved])
    parts = [each for each in proved if each.source.name in chosen.source.name.split(" and ")]
    on_all = set.intersection(*(set(each.cpus) for each in parts))
    taking = tuple(cpu for cpu in parts[0].cpus if cpu in on_all) or parts[0].cpus
    return replace(
        parts[0],
        source=chosen.source,
        rate_hz=chosen.rate_hz,
        cpus=taking,
        trigger_s=chosen.trigger_s,
    )


def _none_proved(failed: Sequence[Reading]) -> Reading:
    """Return one control for several sources, with the outcome of each."""
    broken = [reading for reading in failed if not reading.agrees]
    observed = "; ".join(f"{reading.what}: {reading.observed}" for reading in broken)
    return control("leak", "an SMI source proves itself", observed, "yes", _NAME_ANOTHER)


def _collected(
    proving: Generator[Reading, None, Smis | None],
) -> tuple[list[Reading], Smis | None]:
    """Run a proof to its end; return its readings and its result."""
    readings = []
    while True:
        try:
            readings.append(next(proving))
        except StopIteration as end:
            return readings, end.value
