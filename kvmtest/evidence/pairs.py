"""Pairs of runs
=============

The runs of two places, compared by their names: what regressed, what can't be compared, which
expected changes are missing, and the exit status of ``kvmtest compare``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .change import Change
from .compare import Comparison, PropertyComparison
from .expectations import Expectation

__all__ = ["Pairs"]

PASSED, REGRESSED, NOT_COMPARABLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Pairs:
    """Comparisons by the runs' name, "" for that of two single runs.

    ``unread`` has the reason for each pair one of whose runs is of a format that this version does
    not read. ``only_old`` and ``only_new`` are runs without a counterpart. ``expected`` are
    the changes that must be seen. ``anyway``: runs of unlike machines are compared, too.
    """

    comparisons: Mapping[str, Comparison]
    unread: Mapping[str, str]
    only_old: Sequence[str] = ()
    only_new: Sequence[str] = ()
    expected: Sequence[Expectation] = ()
    anyway: bool = False

    @property
    def compared(self) -> dict[str, Comparison]:
        """The comparisons that say something of the kernels."""
        return {n: c for n, c in self.comparisons.items() if self.anyway or not c.unlike}

    @property
    def not_comparable(self) -> dict[str, list[str]]:
        """Why pairs of runs can't be compared, by name: what differs of their machines."""
        unlike = {n: [*map(str, c.unlike)] for n, c in self.comparisons.items() if c.unlike}
        return {**{n: [why] for n, why in self.unread.items()}, **({} if self.anyway else unlike)}

    @property
    def gaps(self) -> dict[str, str]:
        """Why the absence of regressions says nothing, by name."""
        found = {name: each.gap for name, each in self.compared.items()}
        missing = dict.fromkeys(self.only_old, "there is no new run")
        return {**{name: why for name, why in found.items() if why}, **missing}

    @property
    def regressions(self) -> list[tuple[str, PropertyComparison]]:
        """The regressions that were not expected, each with its runs' name."""
        return [
            (name, each)
            for name, compared in self.compared.items()
            for each in compared.properties
            if each.change is Change.REGRESSION and not self.is_expected(each)
        ]

    def is_expected(self, compared: PropertyComparison) -> bool:
        """Whether this change is one that was expected."""
        return any(expected.is_met(compared) for expected in self.expected)

    @property
    def expectations(self) -> list[tuple[Expectation, str]]:
        """Each expected change, and why the runs do not show it; "" if they do."""
        properties = [each.properties for each in self.compared.values()]
        return [(expected, expected.unmet(properties)) for expected in self.expected]

    @property
    def unmet(self) -> list[Expectation]:
        """The expected changes that the runs do not show."""
        return [expected for expected, why in self.expectations if why]

    @property
    def status(self) -> int:
        """The exit status: 0 no regression, 1 regression, 2 not comparable.

        1 also if an expected change is missing; 2 also if the absence of regressions says
        nothing. A regression counts more.
        """
        if self.regressions:
            return REGRESSED
        if self.not_comparable or not self.compared:
            return NOT_COMPARABLE
        if self.unmet:
            return REGRESSED
        return NOT_COMPARABLE if self.gaps else PASSED
