"""Expected changes
================

What ``kvmtest compare --expect`` states of a change between two runs, such as ``pass:ID`` of a
backport, and whether the runs bear it out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvmtest.errors import UsageError
from kvmtest.judge import Verdict

from .change import DECIDED
from .compare import PropertyComparison

__all__ = ["Expectation"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """A property must come to a verdict that it did not have before."""

    verdict: Verdict
    id: str

    @classmethod
    def parse(cls, text: str) -> "Expectation":
        """Return the expectation that ``pass:ID`` or ``fail:ID`` writes; raises UsageError."""
        word, colon, name = text.partition(":")
        known = {verdict.lower(): verdict for verdict in DECIDED}
        if not colon or not name or word not in known:
            raise UsageError(f"--expect {text}: write pass:ID or fail:ID")
        return cls(known[word], name)

    def __str__(self) -> str:
        return f"{self.verdict.lower()}:{self.id}"

    def is_met(self, compared: PropertyComparison) -> bool:
        """Whether this is the property, and it changed as expected."""
        named = compared.id == self.id
        return named and compared.new is self.verdict and compared.old is not self.verdict

    def unmet(self, comparisons: Sequence[Iterable[PropertyComparison]]) -> str:
        """Return why comparisons of pairs of runs do not bear it out; "" if they do.

        Each pair that decided the property before or after must show the change, and one must have
        decided it.
        """
        found = [each for pair in comparisons for each in pair if each.id == self.id]
        decided = [each for each in found if {each.old, each.new} & {*DECIDED}]
        for each in decided:
            if not self.is_met(each):
                return _other(each)
        if decided:
            return ""
        return _other(found[0]) if found else "no run has a result of it"


def _other(compared: PropertyComparison) -> str:
    old, new = (verdict or "no result" for verdict in (compared.old, compared.new))
    return f"{old} in both runs" if compared.old is compared.new else f"{old} -> {new}"
