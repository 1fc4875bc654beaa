"""The SMIs of a leak experiment
=============================

Which of the machine's sources raises SMIs that a count follows, how often, on which CPUs, and how
long a window is for them.
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

#: SMIs that a window is long enough for. In all they are fewer than a hundred.
SMIS_PER_WINDOW = 4
#: A firmware's handlers take up to a millisecond: at such rates a machine still does its work.
RATE_HZ = 50.0
#: An emulated machine's handler is a few instructions, and the machine is slow.
LAB_RATE_HZ = 5000.0
#: A window of one SMI: guests are in it after a part of AMID_S, and out of SMM long before its end.
WINDOW_S = 0.08
#: SMIs in the mean of a window of those that can only be waited for: half of the windows have none
#: and are quiet ones. They are not longer than this: a host's timer takes a guest out of them a
#: thousand times a second at most, and the guest has room for fewer than four thousand gaps.
WAITED_SMIS, LONGEST_S = 0.7, 2.0
#: SMIs that a source proves itself by.
PROOFS = 3
#: CPUs that guests run on at most.
MOST_CPUS = 4
#: Says, in the raw part, that the kernel reported trouble: no other source is tried then.
_TROUBLED = "troubled"
_NAME_ANOTHER = "see what kvmtest smi probe says, and name a source that works by --smi-source"


@dataclass(frozen=True, slots=True)
class Smis:
    """What raises SMIs, what counts them on ``cpus``, and how long a window is.

    ``trigger_s`` is how long a trigger takes. ``fire`` raises SMIs once, in its turn, where they
    can be asked for: then each window has those of one trigger. It is called on ``firing_cpu``, if
    there is one that no guest needs.
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
        """Give them ready to be raised one by one, where they can be asked for."""
        if not isinstance(self.source, Triggered):
            yield self
            return
        with self.source.opened() as fire:
            turns = fire if isinstance(fire, Turns) else Turns([fire], [1 / self.rate_hz])
            yield replace(self, fire=turns)

    def proved(self, context: Context) -> "Generator[Reading, None, Smis | None]":
        """Show that the count follows the source.

        Give them on the CPUs that SMIs come on, at a rate that the machine bears.
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
        # Of a few triggers the longest is chance: one may have had to wait for a CPU.
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

    Where a guest shares its CPU with what fires it is in host mode when the SMI comes. The first of
    them is the one that drivers raise their SMIs on.
    """
    others = [cpu for cpu in allowed if cpu not in taking]
    if others:
        return others[0], taking
    return (taking[0], taking[1:]) if len(taking) > 1 else (None, taking)


def proved_smis(
    context: Context, stack: ExitStack
) -> Generator[Reading | Absence, None, Smis | None]:
    """Try the machine's sources, the gentlest first, until one is fast enough; give what proved.

    What the sources need ends with the stack. Those that proved themselves once in a run are tried
    before others later.
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
    """Try sources until one is fast enough; yield what proves itself, or why nothing does."""
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
        # Others that did not prove themselves stand in the way of no verdict.
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
    """Return one control of several, which tells what became of each source."""
    broken = [reading for reading in failed if not reading.agrees]
    observed = "; ".join(f"{reading.what}: {reading.observed}" for reading in broken)
    return control("leak", "an SMI source proves itself", observed, "yes", _NAME_ANOTHER)


def _collected(
    proving: Generator[Reading, None, Smis | None],
) -> tuple[list[Reading], Smis | None]:
    """Return what a generator yields, and what it returns."""
    readings = []
    while True:
        try:
            readings.append(next(proving))
        except StopIteration as end:
            return readings, end.value
