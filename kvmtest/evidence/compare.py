"""Comparing two runs
==================

Compares verdict, reason, known defect and readings of each property, and the machine, the kernel
and the lab. The words for a changed verdict are KernelCI's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kvmtest.judge import Role, Verdict

from .coding import encode
from .model import Evidence, Result

__all__ = [
    "Change",
    "Comparison",
    "Difference",
    "PropertyComparison",
    "changed_verdicts",
    "compare",
    "compare_results",
]

# Numbers with their signs, which vary from run to run.
_FIGURE = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


class Change(StrEnum):
    """A property's change between two runs."""

    SAME = "same"
    REGRESSION = "regression"  # PASS became FAIL
    FIXED = "fixed"  # FAIL became PASS
    NEW_FAILURE = "newFailure"  # undecided became FAIL
    STILL_FAILING = "stillFailing"  # FAIL in both
    NEW_PASS = "newPass"  # undecided became PASS
    APPEARED = "appeared"  # in the new run alone
    DISAPPEARED = "disappeared"  # in the old run alone
    OTHER = "other"  # to a verdict that is neither PASS nor FAIL

    @classmethod
    def of(cls, old: Verdict | None, new: Verdict | None) -> "Change":
        """Return the change from one verdict to another; None means no result."""
        if old is None or new is None:
            return cls.APPEARED if old is None else cls.DISAPPEARED
        if new is Verdict.FAIL:
            named = {Verdict.FAIL: cls.STILL_FAILING, Verdict.PASS: cls.REGRESSION}
            return named.get(old, cls.NEW_FAILURE)
        if old is new:
            return cls.SAME
        if new is Verdict.PASS:
            return cls.FIXED if old is Verdict.FAIL else cls.NEW_PASS
        return cls.OTHER


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that differs between two runs; None if one run lacks it."""

    name: str
    old: object
    new: object

    @property
    def is_figure(self) -> bool:
        """Whether numbers alone differ, as they may between two runs of one kernel."""
        texts = (str(self.old), str(self.new))
        return None not in (self.old, self.new) and len({_FIGURE.sub("0", t) for t in texts}) == 1

    def __str__(self) -> str:
        return f"{self.name}: {_word(self.old)} -> {_word(self.new)}"


@dataclass(frozen=True, slots=True)
class PropertyComparison:
    """One property in two runs: its verdicts, and what else differs."""

    id: str
    old: Verdict | None
    new: Verdict | None
    differences: Sequence[Difference]

    @property
    def is_changed(self) -> bool:
        """Whether the verdicts differ."""
        return self.old is not self.new

    @property
    def change(self) -> Change:
        """The change of the verdict."""
        return Change.of(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs.

    ``about`` is what differs of the program, the machine, its host, its kernel and how the runs
    ended. ``properties`` are those of either run, in the new one's order.
    """

    about: Sequence[Difference]
    properties: Sequence[PropertyComparison]

    @property
    def changed(self) -> list[PropertyComparison]:
        """The properties whose verdicts differ."""
        return [each for each in self.properties if each.is_changed]

    def lines(self, *, figures: bool = False) -> Iterator[str]:
        """Give a line for each difference; ``figures`` includes those in numbers alone."""
        yield from (str(each) for each in self.about)
        for each in self.properties:
            if each.is_changed:
                verdicts = f"{_word(each.old)} -> {_word(each.new)}"
                yield f"{each.id}: {each.change}: {verdicts}"
            for difference in each.differences:
                if figures or not difference.is_figure:
                    yield f"{each.id}: {difference}"


def compare(old: Evidence, new: Evidence) -> Comparison:
    """Return the differences between two runs, without times and the journal's changes."""
    about = _differences(_flat(_about(old)), _flat(_about(new)))
    return Comparison(about, compare_results(old.results, new.results))


def compare_results(old: Sequence[Result], new: Sequence[Result]) -> list[PropertyComparison]:
    """Return each property of either run, with the differences of its results."""
    before, after = ({r.id: r for r in results} for results in (old, new))
    return [_compared(name, before.get(name), after.get(name)) for name in {**after, **before}]


def changed_verdicts(
    old: Mapping[str, Verdict], new: Mapping[str, Verdict]
) -> list[PropertyComparison]:
    """Return the properties whose verdicts differ, those of the old run first."""
    pairs = (PropertyComparison(name, old.get(name), new.get(name), ()) for name in {**old, **new})
    return [each for each in pairs if each.is_changed]


def _compared(name: str, old: Result | None, new: Result | None) -> PropertyComparison:
    differences = _differences(_facts(old), _facts(new)) if old and new else []
    before, after = old.verdict if old else None, new.verdict if new else None
    return PropertyComparison(name, before, after, differences)


def _facts(result: Result) -> dict[str, object]:
    """Return the facts of a result that are compared besides its verdict, by name."""
    facts: dict[str, object] = {
        "reason": result.reason,
        "known defect": result.known_defect or None,
    }
    facts |= {f"{a.witness} did not look": str(a.missing) for a in result.absences}
    for reading in result.readings:
        who = f"{reading.witness} {reading.role}"
        if reading.role is Role.MEASURE:
            facts[f"{who}, {_FIGURE.sub('N', reading.what)}"] = reading.observed
        elif reading.role is not Role.SAMPLE:
            facts[f"{who} holds"] = facts.get(f"{who} holds", True) and reading.agrees
    return facts


def _about(run: Evidence) -> dict[str, Any]:
    return {
        "kvmtest": {"version": run.kvmtest.version, "strict": run.strict},
        "machine": encode(run.machine),
        "host": encode(run.host),
        "kernel": encode(run.kernel),
        "kernel log": {"missing": run.kernel_log.missing, "lost": run.kernel_log.lost},
        "exit status": run.exit_status,
        "interrupted": run.kvmtest.interrupted,
        "problems": [*(run.kvmtest.problems or ()), *run.journal.failures],
        "unmet": [each.text for each in run.requirements or () if not each.met],
    }


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """Return facts within facts by their path, such as machine.lab.details.cpus."""
    flat: dict[str, object] = {}
    for name, fact in facts.items():
        inside = isinstance(fact, Mapping)
        flat |= _flat(fact, f"{above}{name}.") if inside else {f"{above}{name}": fact}
    return flat


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[Difference]:
    names = {**old, **new}
    pairs = ((name, old.get(name), new.get(name)) for name in names)
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _word(value: object) -> str:
    return "nothing" if value is None else str(value)
