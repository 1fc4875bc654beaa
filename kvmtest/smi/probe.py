"""Probing sources
===============

Which SMI sources work on a machine: each proved by a count, the gentlest first.
"""

from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

from kvmtest import __version__
from kvmtest.errors import KvmtestError, UsageError
from kvmtest.evidence.coding import encode
from kvmtest.host.as_json import machine_facts, plain
from kvmtest.host.changes.journal import Journal
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.missing import Missing

from .catalogue import ONLY_AFTER, OPT_IN, all_sources, choose, split
from .counts import SmiCount, counts
from .proof import Proof, prove
from .source import Source, ready

__all__ = ["Probed", "holds", "probe"]


@dataclass(frozen=True, slots=True)
class Probed:
    """What counts SMIs on a machine, and for each source its proof, or why there is none."""

    count: SmiCount | Missing
    found: Mapping[str, Source | Missing]
    proofs: Mapping[str, Proof | Missing]

    @property
    def is_any_proved(self) -> bool:
        """Whether a source works."""
        return any(map(holds, self.proofs.values()))

    def to_dict(self, machine: Machine) -> dict[str, Any]:
        """Return this as JSON has it, with the facts of the machine."""
        return {
            "kvmtest": __version__,
            "machine": encode(machine_facts(machine)),
            "count": plain(self.count) if isinstance(self.count, Missing) else self.count.name,
            "sources": {
                name: plain(self.proofs[name])
                if isinstance(source, Missing)
                else {
                    "describes": source.describes,
                    "changes": source.changes,
                    "proved": holds(self.proofs[name]),
                    **plain(self.proofs[name]),
                }
                for name, source in self.found.items()
            },
        }


def holds(proof: Proof | Missing) -> bool:
    """Return whether a source is proved."""
    return isinstance(proof, Proof) and proof.refusal is None


def probe(
    machine: Machine,
    wanted: str | None,
    *,
    triggers: int,
    rate_hz: float,
    say: Callable[[str], None],
) -> Probed:
    """Prove the source that is wanted, or all that may be tried unasked.

    ``say`` is told which source is tried. Raises UsageError for a rate that a source does not take,
    and LockHeld where another run would see the SMIs.
    """
    count = counts(machine)
    found = {split(wanted)[0]: choose(machine, wanted)} if wanted else all_sources(machine)
    proofs: dict[str, Proof | Missing] = {}
    with nullcontext() if isinstance(count, Missing) else closing(count):
        for name, source in found.items():
            if isinstance(source, Missing):
                proofs[name] = source
            elif isinstance(count, Missing):
                proofs[name] = count
            elif not wanted and (untried := _untried(name, proofs)):
                proofs[name] = untried
            else:
                say(f"{source.name}: {source.describes}")
                fastest = rate_hz if wanted else min(rate_hz, source.fastest_hz)
                proofs[name] = _prove(machine, source, count, triggers, fastest)
    return Probed(count, found, proofs)


def _untried(name: str, proofs: Mapping[str, Proof | Missing]) -> Missing | None:
    """Return why a source that nobody asked for is not tried after these, or None."""
    untried, remedy = "it looks usable, and was not tried", f"use --source {name}"
    if name in OPT_IN:
        return Missing(untried, remedy)
    for tried, proof in proofs.items():
        if isinstance(proof, Proof) and proof.troubled:
            return Missing(f"{untried}, as the kernel reported trouble after {tried}")
    first = ONLY_AFTER.get(name)
    if first is not None and not holds(proofs[first]):
        return Missing(f"{untried}, as {first} is not proved", remedy)
    return None


def _prove(
    machine: Machine, source: Source, count: SmiCount, triggers: int, rate_hz: float
) -> Proof:
    """Prove one source, while no other run can see its SMIs."""
    with Journal.open(machine.tree) as journal:
        log = KernelLog.open(machine.tree)
        with nullcontext() if isinstance(log, Missing) else log:
            try:
                with ready(source, journal) as each:
                    return prove(each, count, log, triggers=triggers, rate_hz=rate_hz)
            except UsageError:
                raise
            except KvmtestError as error:
                return Proof(source.name, count.name, refusal=str(error))
