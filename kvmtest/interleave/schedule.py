"""Schedules
=========

A schedule says in which order a knob is toggled and two vCPUs run, step by step. This module has
the steps, their text, and all schedules of a length.

The text of a step is a letter and the vCPU's number: "T e0 T r0" toggles, has KVM emulate vCPU 0,
toggles back, and runs vCPU 0.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

__all__ = [
    "ALIKE",
    "RUNS",
    "VCPUS",
    "Does",
    "Schedule",
    "Step",
    "are_fit",
    "every",
    "has",
    "number_of",
    "schedules",
    "text",
    "vcpus_of",
]


class Does(Enum):
    """What a step does, by its letter. Toggles, SMIs and hotplug concern the whole machine."""

    TOGGLE = "T"
    RUN = "r"
    STAY = "i"
    LEAVE = "o"
    EMULATE = "e"
    KICK = "k"
    MOVE = "m"
    SMI = "S"
    UNPLUG = "h"

    @property
    def words(self) -> str:
        """The step in words."""
        return _WORDS[self]


_WORDS = {
    Does.TOGGLE: "the knob is toggled",
    Does.RUN: "the vCPU enters the guest and exits",
    Does.STAY: "the vCPU enters the guest and stays in it",
    Does.LEAVE: "a signal takes the vCPU out of the guest",
    Does.EMULATE: "KVM emulates the vCPU's instruction, without an entry",
    Does.KICK: "KVM_RUN begins with a signal pending, and returns without an entry",
    Does.MOVE: "the vCPU's affinity changes to another CPU",
    Does.SMI: "an SMI arrives while a vCPU is in the guest",
    Does.UNPLUG: "the CPU that new vCPUs begin on goes offline, and comes online again",
}

#: The steps that are a KVM_RUN of their own.
RUNS = frozenset({Does.RUN, Does.STAY, Does.EMULATE, Does.KICK})
_OF_MACHINE = frozenset({Does.TOGGLE, Does.SMI, Does.UNPLUG})
#: What may change what KVM sees at a KVM_RUN.
_NEWS = frozenset({Does.TOGGLE, Does.UNPLUG})
VCPUS = (0, 1)

#: Why a schedule that is not enumerated is like one that is, in the order of Partial.may_come.
ALIKE = (
    "The vCPUs are alike: vCPU 0 is the one that acts first.",
    "Between two toggles, steps of different vCPUs may change places, as KVM keeps what it knows "
    "of the host's DEBUGCTL for each vCPU: those of vCPU 0 come first.",
    "A vCPU's second KVM_RUN between two toggles sees no new value of the host.",
    "Two toggles in a row are enough: three are as one. So is a CPU that goes offline twice in a "
    "row; in the other rules it counts as a toggle.",
    "A move of a vCPU outside the guest counts at its next KVM_RUN: it comes just before.",
    "An SMI changes nothing while no vCPU is in the guest, and a second is as the first.",
)


class Step(NamedTuple):
    """One step; ``vcpu`` is None where it concerns the whole machine."""

    does: Does
    vcpu: int | None = None

    def __str__(self) -> str:
        return self.does.value + ("" if self.vcpu is None else str(self.vcpu))


Schedule = tuple[Step, ...]


def text(schedule: Schedule) -> str:
    """Return a schedule's text."""
    return " ".join(map(str, schedule))


def vcpus_of(schedule: Schedule) -> tuple[int, ...]:
    """Return the vCPUs that act in a schedule; vCPU 0 if none does."""
    return tuple(sorted({v for _, v in schedule if v is not None})) or VCPUS[:1]


def has(schedule: Schedule, does: Does) -> bool:
    """Tell whether a step of a schedule does that."""
    return any(step.does is does for step in schedule)


@dataclass(frozen=True, slots=True)
class Partial:
    """A schedule's beginning, and what of it matters to the next step.

    ``inside`` is the vCPU in the guest: one at a time, while the other is stopped. ``ran`` and
    ``moved`` are vCPUs since the last news. ``turn`` is the vCPU that acted last since then.
    """

    steps: Schedule = ()
    inside: int | None = None
    ran: frozenset[int] = frozenset()
    moved: frozenset[int] = frozenset()
    turn: int = 0

    def can_come(self, step: Step) -> bool:
        """Tell whether a step can follow at all."""
        if step.does in _NEWS:
            return True
        if step.does is Does.SMI:
            return self.inside is not None
        if step.does is Does.LEAVE:
            return self.inside == step.vcpu
        return step.does is Does.MOVE or self.inside is None

    def may_come(self, step: Step) -> bool:
        """Tell whether a schedule with this step next is none of those that are left out."""
        does, vcpu = step
        waiting = self.moved - {self.inside}
        if does in _NEWS:
            enough = (step, step) if does is Does.TOGGLE else (step,)
            return not waiting and self.steps[-len(enough) :] != enough
        if vcpu is None:
            return self.steps[-1] != step
        acted = {v for _, v in self.steps if v is not None}
        if vcpu > len(acted) or vcpu < self.turn or waiting - {vcpu}:
            return False
        return vcpu not in (self.moved if does is Does.MOVE else self.ran if does in RUNS else ())

    def then(self, step: Step) -> "Partial":
        """Return the beginning that is one step longer."""
        does, vcpu = step
        longer = replace(self, steps=(*self.steps, step))
        if does in _NEWS:
            return replace(longer, ran=frozenset(), moved=frozenset(), turn=0)
        if vcpu is None:
            return longer
        of = {vcpu}
        return replace(
            longer,
            turn=vcpu,
            inside=vcpu if does is Does.STAY else None if does is Does.LEAVE else self.inside,
            ran=self.ran | of if does in RUNS else self.ran,
            moved=self.moved | of if does is Does.MOVE else self.moved - of,
        )


def schedules(alphabet: Collection[Does], length: int) -> Iterator[Schedule]:
    """Yield the schedules of ``length`` steps, without those that are like one of them.

    ``ALIKE`` says what is like another.
    """
    return (begun.steps for begun in _grown(_steps(alphabet), length, are_alike_left_out=True))


def every(alphabet: Collection[Does], length: int) -> Iterator[Schedule]:
    """Yield all schedules of ``length`` steps that can be."""
    return (begun.steps for begun in _grown(_steps(alphabet), length, are_alike_left_out=False))


def number_of(
    alphabet: Collection[Does], length: int, must_have: Collection[Does] = frozenset()
) -> int:
    """Return how many schedules of ``length`` steps there are in all, alike or not.

    Only those that have each step of ``must_have``.
    """
    if must_have:
        first, *others = must_have
        without = set(alphabet) - {first}
        return number_of(alphabet, length, others) - number_of(without, length, others)
    counts: dict[int | None, int] = {None: 1}
    for _ in range(length):
        longer: dict[int | None, int] = {}
        for inside, count in counts.items():
            begun = Partial(inside=inside)
            for step in _steps(alphabet):
                if begun.can_come(step):
                    after = begun.then(step).inside
                    longer[after] = longer.get(after, 0) + count
        counts = longer
    return sum(counts.values())


def are_fit(schedule: Schedule) -> bool:
    """Tell whether each step can follow the ones before."""
    begun = Partial()
    for step in schedule:
        if not begun.can_come(step):
            return False
        begun = begun.then(step)
    return True


def _steps(alphabet: Collection[Does]) -> list[Step]:
    ordered = [does for does in Does if does in alphabet]
    machine = [Step(does) for does in ordered if does in _OF_MACHINE]
    return machine + [Step(d, v) for v in VCPUS for d in ordered if d not in _OF_MACHINE]


def _grown(steps: list[Step], length: int, *, are_alike_left_out: bool) -> Iterator[Partial]:
    if not length:
        yield Partial()
        return
    for begun in _grown(steps, length - 1, are_alike_left_out=are_alike_left_out):
        for step in steps:
            if begun.can_come(step) and (not are_alike_left_out or begun.may_come(step)):
                yield begun.then(step)
