"""What several comparisons come to, and the exit status."""

from dataclasses import replace

import pytest
from support.evidence_samples import evidence_of

from kvmtest.evidence import Result
from kvmtest.evidence.compare import Comparison, compare
from kvmtest.evidence.expectations import Expectation
from kvmtest.evidence.pairs import Pairs
from kvmtest.judge import Verdict

P, F, S = Verdict.PASS, Verdict.FAIL, Verdict.SKIP
SOAK, FRESH = "any.soak", "vmx.entry.fresh"


def run(hosts: tuple[str, str] = ("a", "a"), **verdicts: str) -> Comparison:
    """Return the comparison of two runs by letters, such as soak="PF"; - is no result."""
    known = {"P": P, "F": F, "S": S}
    old, new = (
        evidence_of(
            [
                Result({"soak": SOAK, "fresh": FRESH}[name], known[letters[at]], "r")
                for name, letters in verdicts.items()
                if letters[at] in known
            ],
            hostname=hosts[at],
        )
        for at in (0, 1)
    )
    return compare(old, new)


OTHER = run(("a", "b"), soak="PF")


@pytest.mark.parametrize(
    ("comparisons", "more", "status"),
    [
        ([run(soak="PP")], {}, 0),
        ([run(soak="FP", fresh="SP")], {}, 0),
        ([run(soak="FF")], {}, 0),
        ([run(soak="PF")], {}, 1),
        ([run(soak="PS")], {}, 1),
        ([run(soak="PP", fresh="P-")], {}, 0),
        ([run(soak="PP", fresh="SF")], {}, 0),
        ([OTHER], {}, 2),
        ([OTHER], {"anyway": True}, 1),
        ([], {"unread": {"": "its schema is other"}}, 2),
        ([run(soak="SP")], {}, 2),
        # A regression counts more than what can't be compared, that more than an expectation.
        ([OTHER, run(soak="PF")], {}, 1),
        ([OTHER, run(soak="PP")], {}, 2),
        ([OTHER, run(soak="PP")], {"expected": ["pass:any.soak"]}, 2),
        ([run(soak="PP"), run(soak="SS")], {}, 2),
        ([run(soak="PP")], {"only_old": ["x"]}, 2),
        ([run(soak="PP")], {"only_new": ["x"]}, 0),
        ([], {"only_new": ["x"]}, 2),
        ([], {}, 2),
        # What was expected.
        ([run(soak="FP")], {"expected": ["pass:any.soak"]}, 0),
        ([run(soak="SP")], {"expected": ["pass:any.soak"]}, 2),
        ([run(soak="PP")], {"expected": ["pass:any.soak"]}, 1),
        ([run(soak="PF")], {"expected": ["fail:any.soak"]}, 0),
        ([run(soak="PF", fresh="PF")], {"expected": ["fail:any.soak"]}, 1),
        ([run(soak="PS")], {"expected": ["fail:any.soak"]}, 1),
        ([run(soak="FP")], {"expected": ["pass:any.soak", "pass:vmx.entry.fresh"]}, 1),
        ([run(soak="FP"), run(soak="FF")], {"expected": ["pass:any.soak"]}, 1),
    ],
)
def test_pairs_of_runs_come_to_one_exit_status(
    comparisons: list[Comparison], more: dict[str, object], status: int
) -> None:
    expected = [Expectation.parse(text) for text in more.get("expected", [])]  # type: ignore[attr-defined]
    named = {str(number): each for number, each in enumerate(comparisons)}
    pairs = replace(Pairs(named, {}), **{**more, "expected": expected})  # type: ignore[arg-type]
    assert pairs.status == status


def test_an_unlike_machine_is_not_compared_but_told() -> None:
    pairs = Pairs({"x": OTHER, "y": run(soak="PP")}, {"z": "its schema is other"})
    assert set(pairs.compared) == {"y"}
    assert pairs.regressions == []
    assert pairs.not_comparable == {
        "z": ["its schema is other"], "x": ["machine.hostname: a -> b"],
    }  # fmt: skip
    anyway = replace(pairs, anyway=True)
    assert set(anyway.compared) == {"x", "y"}
    assert set(anyway.not_comparable) == {"z"}


def test_an_expected_regression_is_none() -> None:
    pairs = Pairs({"": run(soak="PF", fresh="PF")}, {}, expected=[Expectation(F, SOAK)])
    assert [(name, each.id) for name, each in pairs.regressions] == [("", FRESH)]
    assert pairs.unmet == []


def test_each_expectation_has_its_reason() -> None:
    wanted = [Expectation(P, FRESH), Expectation(P, SOAK)]
    pairs = Pairs({"": run(soak="FP", fresh="PP")}, {}, expected=wanted)
    assert pairs.expectations == [(wanted[0], "PASS in both runs"), (wanted[1], "")]
    assert pairs.unmet == wanted[:1]


def test_runs_that_show_no_lack_of_regressions_are_named() -> None:
    pairs = Pairs({"x": run(soak="SP"), "y": run(soak="PP")}, {}, only_old=["z"])
    assert set(pairs.gaps) == {"x", "z"}
