"""What a backport must change, and whether it did."""

import itertools

import pytest

from kvmtest.errors import UsageError
from kvmtest.evidence import Result
from kvmtest.evidence.compare import PropertyComparison, compare_results
from kvmtest.evidence.expectations import Expectation
from kvmtest.judge import Verdict

P, F, S = Verdict.PASS, Verdict.FAIL, Verdict.SKIP
ID = "any.soak"


def pair(old: Verdict | None, new: Verdict | None) -> list[PropertyComparison]:
    before, after = ([Result(ID, v, "r")] if v else [] for v in (old, new))
    return compare_results(before, after)


@pytest.mark.parametrize("text", ["", "pass", "pass:", ":any.soak", "skip:any.soak", "PASS:x"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write pass:ID or fail:ID"):
        Expectation.parse(text)


@pytest.mark.parametrize("wanted", [P, F])
@pytest.mark.parametrize(
    ("old", "new"),
    [pair for pair in itertools.product([*Verdict, None], repeat=2) if pair != (None, None)],
)
def test_only_a_change_to_the_verdict_meets_an_expectation(
    wanted: Verdict, old: Verdict | None, new: Verdict | None
) -> None:
    expected = Expectation.parse(f"{wanted.lower()}:{ID}")
    changed = new is wanted and old is not wanted
    (compared,) = pair(old, new)
    assert expected.is_met(compared) == changed
    assert (expected.unmet([[compared]]) == "") == changed


def test_a_change_of_another_property_meets_nothing() -> None:
    expected = Expectation(P, "vmx.entry.fresh")
    assert not expected.is_met(pair(F, P)[0])
    assert expected.unmet([pair(F, P)]) == "no run has a result of it"
    assert expected.unmet([]) == "no run has a result of it"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [(P, P, "PASS in both runs"), (F, S, "FAIL -> SKIP"), (F, None, "FAIL -> no result"),
     (S, S, "SKIP in both runs")],
)  # fmt: skip
def test_the_reason_says_what_became_of_it(
    old: Verdict | None, new: Verdict | None, why: str
) -> None:
    assert Expectation(P, ID).unmet([pair(old, new)]) == why


def test_runs_that_decide_nothing_of_it_do_not_count_beside_one_that_shows_it() -> None:
    expected = Expectation(P, ID)
    assert expected.unmet([pair(S, S), pair(F, P), pair(None, S)]) == ""
    assert expected.unmet([pair(S, S), pair(F, P), pair(P, P)]) == "PASS in both runs"
    assert expected.unmet([pair(S, S)]) == "SKIP in both runs"
    # It decided the property before, so it counts.
    assert expected.unmet([pair(F, P), pair(F, S)]) == "FAIL -> SKIP"
