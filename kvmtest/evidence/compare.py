"""Comparing two runs
==================

Compares verdict, reason, known defect and readings of each property, and the machine, the kernel
and the lab; says whether the machines are alike, so that a changed verdict is the kernel's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmtest.judge import Role, Verdict

from .change import DECIDED, Change
from .coding import encode
from .model import Evidence, Result

__all__ = [
    "ChangedVerdict",
    "Comparison",
    "Difference",
    "PropertyComparison",
    "changed_verdicts",
    "compare",
    "compare_results",
]

# Numbers with their signs, which vary from run to run.
_FIGURE = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that differs between two runs; None if one run lacks it."""

    name: str
    old: object
    new: object

    @property
    def is_known(self) -> bool:
        """Whether both runs have the fact."""
        return self.old is not None and self.new is not None

    @property
    def is_figure(self) -> bool:
        """Whether numbers alone differ, as they may between two runs of one kernel."""
        texts = (str(self.old), str(self.new))
        return self.is_known and len({_FIGURE.sub("0", t) for t in texts}) == 1

    def __str__(self) -> str:
        old, new = self.old, self.new
        if isinstance(old, list) and isinstance(new, list):
            gone = [f"without {each}" for each in old if each not in new]
            come = [f"with {each}" for each in new if each not in old]
            return f"{self.name}: {_some([*gone, *come]) or 'in another order'}"
        return f"{self.name}: {_word(old)} -> {_word(new)}"


#: The most members of a list that are told.
_TOLD = 8


class ChangedVerdict(NamedTuple):
    """A property with one verdict in the old run and another in the new; None without a result."""

    id: str
    old: Verdict | None
    new: Verdict | None


@dataclass(frozen=True, slots=True)
class PropertyComparison:
    """One property in two runs: its results, and what differs besides the verdict."""

    id: str
    before: Result | None
    after: Result | None
    differences: Sequence[Difference]

    @property
    def old(self) -> Verdict | None:
        """The verdict in the old run."""
        return self.before.verdict if self.before else None

    @property
    def new(self) -> Verdict | None:
        """The verdict in the new run."""
        return self.after.verdict if self.after else None

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

    old: Evidence
    new: Evidence
    about: Sequence[Difference]
    properties: Sequence[PropertyComparison]

    @property
    def changed(self) -> list[PropertyComparison]:
        """The properties whose verdicts differ."""
        return [each for each in self.properties if each.is_changed]

    @property
    def unlike(self) -> list[Difference]:
        """What differs of the machines; then no changed verdict says anything of the kernels.

        What one run did not record is not counted.
        """
        kind = [each for each in self.about if each.name == _KIND]
        names = _LAB if self.new.machine.kind == "lab" else _HOST
        return kind or [each for each in self.about if _is_unlike(each, names)]

    @property
    def besides(self) -> list[Difference]:
        """What else differs and is not the kernel's, though the machines are alike."""
        known = (each for each in self.about if each.is_known)
        return [each for each in known if each.name.startswith(_BESIDES)]

    @property
    def gap(self) -> str:
        """Why the absence of regressions says nothing; "" if it does."""
        if self.new.kvmtest.interrupted:
            return "the new run was interrupted, so verdicts are missing"
        if not any(each.old in DECIDED and each.new for each in self.properties):
            return "no property that the old run decided has a result in the new run"
        return ""

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


_KIND = "machine.kind"
_LACKS = "machine.lab.lacks."
#: What identifies a host.
_HOST = (
    "machine.hostname",
    "machine.virtualisation",
    "machine.cpu.vendor",
    "machine.cpu.family",
    "machine.cpu.model",
    "machine.cpu.stepping",
    "machine.cpu.online",
)
#: What identifies an emulated machine, wherever it was emulated.
_LAB = (
    "machine.lab.emulator",
    "machine.lab.version",
    "machine.lab.model",
    "machine.lab.details.board",
    "machine.lab.details.cpus",
    "machine.lab.details.shown_cpu_features",
    "machine.lab.details.kvm_parameters",
    "machine.lab.details.pmu",
)
#: What may change a verdict besides machine and kernel: no name of the two tables above.
_BESIDES = (
    "kvmtest.",
    "machine.cpu.microcode",
    "machine.lab.details.command_line",
    "machine.lab.details.emulator_digest",
    "host.kvm_module.",
    "problems",
)


def _is_unlike(difference: Difference, names: Sequence[str]) -> bool:
    if difference.name.startswith(_LACKS):
        return not difference.is_known  # Reasons may be worded anew.
    return difference.name in names and difference.is_known


def compare(old: Evidence, new: Evidence) -> Comparison:
    """Return the differences between two runs, without times and the journal's changes."""
    about = _differences(_flat(_about(old)), _flat(_about(new)))
    return Comparison(old, new, about, compare_results(old.results, new.results))


def compare_results(old: Sequence[Result], new: Sequence[Result]) -> list[PropertyComparison]:
    """Return each property of either run, with the differences of its results."""
    before, after = ({r.id: r for r in results} for results in (old, new))
    return [_compared(name, before.get(name), after.get(name)) for name in {**after, **before}]


def changed_verdicts(
    old: Mapping[str, Verdict], new: Mapping[str, Verdict]
) -> list[ChangedVerdict]:
    """Return the properties whose verdicts differ, those of the old run first."""
    pairs = (ChangedVerdict(name, old.get(name), new.get(name)) for name in {**old, **new})
    return [each for each in pairs if each.old is not each.new]


def _compared(name: str, old: Result | None, new: Result | None) -> PropertyComparison:
    differences = _differences(_facts(old), _facts(new)) if old and new else []
    return PropertyComparison(name, old, new, differences)


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


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _TOLD
    return f"{', '.join(texts[:_TOLD])}{f' and {more} more' if more > 0 else ''}"


def _word(value: object) -> str:
    return "nothing" if value is None else str(value)
