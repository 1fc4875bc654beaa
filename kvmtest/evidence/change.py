"""Changes of a verdict
====================

The word for each pair of verdicts that a property may have in two runs. The words are KernelCI's.
"""

from enum import StrEnum

from kvmtest.judge import Verdict

__all__ = ["CHANGES", "DECIDED", "Change", "Kind"]

#: The verdicts that decide a claim.
DECIDED = (Verdict.PASS, Verdict.FAIL)


class Kind(StrEnum):
    """What a verdict says of the claim; INCONCLUSIVE, SKIP, ERROR and MEASURED decide nothing."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"
    NO_RESULT = "no result"

    @classmethod
    def of(cls, verdict: Verdict | None) -> "Kind":
        """Return the kind of a verdict; None means that the run has no result."""
        if verdict is None:
            return cls.NO_RESULT
        return cls(verdict.lower()) if verdict in DECIDED else cls.UNDECIDED


class Change(StrEnum):
    """A property's change between two runs, what needs attention first."""

    REGRESSION = "regression"
    NEW_FAILURE = "newFailure"
    STILL_FAILING = "stillFailing"
    DISAPPEARED = "disappeared"
    APPEARED = "appeared"
    UNDECIDED = "undecided"
    FIXED = "fixed"
    NEW_PASS = "newPass"
    SAME = "same"

    @classmethod
    def of(cls, old: Verdict | None, new: Verdict | None) -> "Change":
        """Return the change from one verdict to another; one of them may be None: no result."""
        return CHANGES[Kind.of(old), Kind.of(new)]


#: The word for each kind of old and new verdict, as KernelCI compares trees (kernelci/dashboard,
#: docs/tree-compare.md). Two words are kvmtest's own: KernelCI has none for a verdict that stays
#: as it is, and calls a FAIL that became undecided "fixed", which no observation shows.
CHANGES = {
    (Kind.PASS, Kind.PASS): Change.SAME,
    (Kind.PASS, Kind.FAIL): Change.REGRESSION,
    (Kind.PASS, Kind.UNDECIDED): Change.REGRESSION,
    (Kind.PASS, Kind.NO_RESULT): Change.DISAPPEARED,
    (Kind.FAIL, Kind.PASS): Change.FIXED,
    (Kind.FAIL, Kind.FAIL): Change.STILL_FAILING,
    (Kind.FAIL, Kind.UNDECIDED): Change.UNDECIDED,
    (Kind.FAIL, Kind.NO_RESULT): Change.DISAPPEARED,
    (Kind.UNDECIDED, Kind.PASS): Change.NEW_PASS,
    (Kind.UNDECIDED, Kind.FAIL): Change.NEW_FAILURE,
    (Kind.UNDECIDED, Kind.UNDECIDED): Change.UNDECIDED,
    (Kind.UNDECIDED, Kind.NO_RESULT): Change.DISAPPEARED,
    (Kind.NO_RESULT, Kind.PASS): Change.NEW_PASS,
    (Kind.NO_RESULT, Kind.FAIL): Change.NEW_FAILURE,
    (Kind.NO_RESULT, Kind.UNDECIDED): Change.APPEARED,
}
