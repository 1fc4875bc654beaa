"""Mutants on a kernel
===================

Builds KVM of one kernel with a fault, runs the suite on it, and says which property noticed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from kvmtest.errors import UsageError
from kvmtest.evidence import Evidence
from kvmtest.judge import Role, Verdict, witnesses_against
from kvmtest.lab.emulators.bochs.built import SHOWN
from kvmtest.lab.emulators.emulator import Hardware
from kvmtest.lab.target import VENDORS, LabTarget
from kvmtest.properties import find as find_property
from kvmtest.target import Job, Outcome, TargetFailed

from .builder import ModuleBuilder, PatchRefused
from .matrix import Fate, Row, Verdicts, fate
from .table import MUTANTS, REPAIRS, Mutant, find

__all__ = ["Bench", "Observed", "chosen_mutants", "mutants_of_kernel"]


class Observed(NamedTuple):
    """What one run observed."""

    verdicts: Verdicts
    claims: frozenset[tuple[str, str]]
    """Each property and a witness that spoke about it."""

    against: frozenset[tuple[str, str]]
    """Each property and a witness that spoke against it."""

    cpu_flags: Sequence[str]
    """The features of the CPU that ran it."""

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """Return what the evidence of a run has."""
        cpu = evidence.machine.cpu
        return cls(
            {result.id: result.verdict for result in evidence.results},
            frozenset(
                (result.id, reading.witness)
                for result in evidence.results
                for reading in result.readings
                if reading.role is Role.CLAIM
            ),
            frozenset((r.id, w) for r in evidence.results for w in witnesses_against(r.readings)),
            (cpu and cpu.features) or [],
        )


@dataclass
class Bench:
    """Builds and judges the mutants of one kernel.

    ``keep`` gets each run's outcome with its name: stock, rebuilt, or the mutant's.
    """

    builder: ModuleBuilder
    target: LabTarget
    keep: Callable[[str, Outcome], None]

    def judge(self, mutant: Mutant, stock: Observed) -> Row:
        """Build a mutant, run the suite on it, and return its row; ``stock`` is without it."""
        began = time.monotonic()
        try:
            modules = self.builder.build([mutant.patch])
        except PatchRefused as refused:
            return Row(mutant, Fate.UNDECIDED, str(refused), {})
        built = time.monotonic()
        try:
            seen = self.run(mutant.name, modules, mutant)
        except TargetFailed as failed:
            # One mutant that breaks its machine ends nothing but its own run.
            seconds = time.monotonic() - built
            return Row(mutant, Fate.UNDECIDED, str(failed), {}, built - began, seconds)
        lacking = [flag for flag in mutant.cpu_flags if flag not in seen.cpu_flags]
        if lacking:
            what, why = Fate.UNDECIDED, f"the machine's CPU has no {', '.join(lacking)}"
        else:
            wanted = Verdict.PASS if mutant in REPAIRS else Verdict.FAIL
            what, why = fate(mutant, seen.verdicts, wanted)
        seconds = time.monotonic() - built
        new, unseen = _new(seen, stock), _is_unseen(mutant, seen, stock)
        return Row(mutant, what, why, seen.verdicts, built - began, seconds, new, unseen)

    def run(self, name: str, modules: Path | None, mutant: Mutant | None = None) -> Observed:
        """Run the suite with ``modules`` laid over, in the machine that ``mutant`` needs."""
        target = self.target
        if mutant:
            target = target.with_hardware(self._hardware(mutant))
        parameters = mutant.parameters if mutant else ()
        outcome = target.run(Job(["--strict"], modules, parameters))
        self.keep(name, outcome)
        return Observed.of(outcome.evidence)

    def _hardware(self, mutant: Mutant) -> Hardware:
        """Return a machine in which the mutant's fault can show, as far as there is one."""
        own = self.target.machine.hardware.cpus
        cpus = 2 if "second-cpu" in find_property(mutant.owner).needs else own
        return Hardware(cpus, cpu_features=tuple(f for f in mutant.cpu_flags if f in SHOWN))


def _vendor(mutant: Mutant) -> str:
    """Return the vendor module of the machines that decide the mutant's owner."""
    return "kvm_amd" if "kvm-amd" in find_property(mutant.owner).needs else "kvm_intel"


def chosen_mutants(machine: str, names: Sequence[str]) -> list[Mutant]:
    """Return the mutants called ``names``, or all that the lab's ``machine`` decides.

    Raises UsageError where one is another machine's.
    """
    named = [find(name) for name in names]
    vendor = VENDORS[machine]
    for mutant in named:
        if _vendor(mutant) != vendor:
            machines = [name for name, v in VENDORS.items() if v == _vendor(mutant)]
            raise UsageError(f"{mutant.name} is one for --machine {' or '.join(machines)}")
    return named or [m for m in (*MUTANTS, *REPAIRS) if _vendor(m) == vendor]


def mutants_of_kernel(chosen: Sequence[Mutant], release: str, named: Sequence[str]) -> list[Mutant]:
    """Return the mutants whose line the kernel has; raises UsageError where a named one's is not.

    ``release`` is the kernel's, ``named`` the names that the user gave.
    """
    major, minor = map(int, release.split("-")[0].split(".")[:2])
    for mutant in chosen:
        if mutant.since > (major, minor) and mutant.name in named:
            first = ".".join(map(str, mutant.since))
            raise UsageError(f"{mutant.name} is one for Linux {first} and later, not {release}")
    return [mutant for mutant in chosen if mutant.since <= (major, minor)]


def _new(seen: Observed, stock: Observed) -> tuple[str, ...]:
    """Return the witnesses that speak against a property, and not on the stock kernel."""
    return tuple(sorted({witness for _, witness in seen.against - stock.against}))


def _is_unseen(mutant: Mutant, seen: Observed, stock: Observed) -> bool:
    """Whether a leak that the mutant must show was not seen, although it was looked for."""
    wanted = (mutant.leak, "leak")
    return wanted in stock.claims - seen.against
