"""Proving a source
================

A source is proved when a count of SMIs follows its triggers. The proof stops at once where the
machine reacts badly: a trigger takes too long, the count does not move, the kernel reports trouble.
"""

import time
from dataclasses import dataclass, field

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.host.observe.kernel_log import KernelLog, Position, troubles
from kvmtest.missing import Missing

from .counts import SmiCount
from .source import Periodic, Ready, Triggered, check_rate, stamped

__all__ = ["SAFE_SHARE", "Proof", "prove"]

#: The largest share of a CPU's time to spend in SMM: beyond it clocks drift and watchdogs fire.
SAFE_SHARE = 0.05

# The largest share of the SMIs counted around triggers that may have come by themselves.
_BY_THEMSELVES = 0.1

# So many SMIs that came by themselves say how often they come.
_FEWEST = 3

# How often to look whether awaited SMIs came.
_LOOK_S = 0.05


@dataclass(slots=True)
class Proof:
    """What a count showed of a source; ``refusal`` says why it is no proof, None where it is one.

    ``sent`` is how many triggers were fired, or how many SMIs the source reports; None where the
    source only waits. ``counted`` has the SMIs counted on each CPU meanwhile, ``quiet`` those
    counted between triggers. ``latencies_s`` has each trigger's duration. ``safe_hz`` is the
    highest rate that the source takes and at which SMIs use at most SAFE_SHARE of the time; for a
    source that only waits, the rate at which SMIs came. ``troubled``: the kernel reported trouble,
    so nothing more should be tried. ``unwatched`` says why the kernel log was not watched.
    """

    source: str
    count: str
    sent: int | None = None
    counted: dict[int, int] = field(default_factory=dict)
    quiet: dict[int, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    safe_hz: float | None = None
    refusal: str | None = None
    troubled: bool = False
    unwatched: Missing | None = None


def prove(
    source: Ready,
    count: SmiCount,
    log: KernelLog | Missing,
    *,
    triggers: int = 10,
    rate_hz: float = 2.0,
) -> Proof:
    """Have ``source`` raise SMIs ``triggers`` times at ``rate_hz``, and compare with ``count``.

    A periodic source runs for the time that so many triggers would take. One that only waits runs
    until so many SMIs came, or its patience ends. Raises UsageError for a rate that the source does
    not take.
    """
    check_rate(source, rate_hz)
    proof = Proof(source.name, count.name, unwatched=log if isinstance(log, Missing) else None)
    watch = _Watch(log)
    try:
        if isinstance(source, Triggered):
            proof.refusal = _fire(source, count, watch, triggers, rate_hz, proof)
        else:
            proof.refusal = _wait(source, count, triggers, rate_hz, proof) or watch.complaint()
    except KvmtestError as error:
        proof.refusal = str(error)
    proof.troubled = watch.complains
    return proof


def _fire(
    source: Triggered,
    count: SmiCount,
    watch: "_Watch",
    triggers: int,
    rate_hz: float,
    proof: Proof,
) -> str | None:
    """Fire one by one, with a look at the machine after each; return what went wrong."""
    ticks_per_s = tsc_hz()
    around_s = between_s = 0.0
    proof.sent = 0
    with source.opened() as fire:
        before, begun = count.read_all(), time.monotonic()
        for number in range(1, triggers + 1):
            trigger = stamped(fire)
            after, ended = count.read_all(), time.monotonic()
            proof.sent += 1
            latency_s = (trigger.after - trigger.before) / ticks_per_s
            proof.latencies_s.append(latency_s)
            proof.safe_hz = min(source.fastest_hz, SAFE_SHARE / max(proof.latencies_s))
            around_s += ended - begun
            rises = _add(count, proof.counted, before, after)
            if latency_s > source.longest_s:
                return (
                    f"trigger {number} took {latency_s * 1e3:.1f} ms, more than "
                    f"{source.longest_s * 1e3:g} ms"
                )
            if not rises:
                return f"trigger {number} raised no SMI that {count.name} counts"
            if complaint := watch.complaint():
                return f"after trigger {number} {complaint}"
            time.sleep(1 / rate_hz)
            before, begun = count.read_all(), time.monotonic()
            between_s += begun - ended
            _add(count, proof.quiet, after, before)
    by_themselves = max(proof.quiet.values()) * around_s / between_s
    if by_themselves > _BY_THEMSELVES * max(proof.counted.values()):
        return (
            f"SMIs come by themselves too often to tell: {max(proof.quiet.values())} on one CPU "
            f"in the {between_s:.1f} s between triggers"
        )
    return watch.complaint()


def _wait(
    source: Periodic, count: SmiCount, triggers: int, rate_hz: float, proof: Proof
) -> str | None:
    """Wait for SMIs that come by themselves; return what went wrong."""
    before, begun = count.read_all(), time.monotonic()
    waits = source.patience_s is not None
    with source.raising(rate_hz, outside_guests=True) as raising:
        if source.patience_s is None:
            time.sleep(triggers / rate_hz)
        else:
            _await(count, before, triggers, source.patience_s)
    waited_s = time.monotonic() - begun if waits else triggers / rate_hz
    _add(count, proof.counted, before, count.read_all())
    proof.sent, most = raising.raised, max(proof.counted.values())
    if waits and most:
        proof.safe_hz = most / waited_s
    elif proof.sent is not None:
        proof.safe_hz = source.fastest_hz
    if not most:
        return f"no SMI that {count.name} counts came in {waited_s:.3g} s"
    if waits and most < min(triggers, _FEWEST):
        return (
            f"only {most} SMIs that {count.name} counts came in {waited_s:.3g} s, which is too "
            "seldom"
        )
    if proof.sent not in (None, most):
        return f"it raised {proof.sent} SMIs, but {count.name} counts {most}"
    return None


def _await(count: SmiCount, before: dict[int, int], smis: int, patience_s: float) -> None:
    """Wait until one CPU has counted so many SMIs, or for so long."""
    ends = time.monotonic() + patience_s
    while _add(count, {}, before, count.read_all()) < smis and time.monotonic() < ends:
        time.sleep(min(_LOOK_S, max(ends - time.monotonic(), 0)))


def _add(
    count: SmiCount, sums: dict[int, int], before: dict[int, int], after: dict[int, int]
) -> int:
    """Add what was counted between two reads to ``sums``; return the most that one CPU counted."""
    rises = {cpu: count.increase(before[cpu], after[cpu]) for cpu in before}
    for cpu, rise in rises.items():
        sums[cpu] = sums.get(cpu, 0) + rise
    return max(rises.values())


class _Watch:
    """Looks whether the kernel reports trouble."""

    def __init__(self, log: KernelLog | Missing) -> None:
        self.complains = False
        self._log = log
        self._begin = Position(0, 0) if isinstance(log, Missing) else log.here()

    def complaint(self) -> str | None:
        """Return what the kernel reported since the beginning, or None."""
        if isinstance(self._log, Missing):
            return None
        found = troubles(self._log.since(self._begin).records)
        self.complains = bool(found)
        return f"the kernel reported: {found[0].headline}" if found else None
