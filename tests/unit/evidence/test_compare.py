"""What changed between two runs, by property and in words."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import EVIDENCE

from kvmtest.evidence import Evidence, Result, load
from kvmtest.evidence.compare import Change, compare, compare_results
from kvmtest.judge import Absence, Verdict, claim, control, measure
from kvmtest.missing import Missing

RECORDED = Path(__file__).parents[2] / "recorded"
P, F, S = Verdict.PASS, Verdict.FAIL, Verdict.SKIP


@given(EVIDENCE)
def test_a_run_is_like_itself(run: Evidence) -> None:
    assert list(compare(run, run).lines(figures=True)) == []
    assert compare(run, run).changed == []


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (P, F, Change.REGRESSION),
        (F, P, Change.FIXED),
        (S, F, Change.NEW_FAILURE),
        (F, F, Change.STILL_FAILING),
        (S, P, Change.NEW_PASS),
        (None, P, Change.APPEARED),
        (F, None, Change.DISAPPEARED),
        (P, P, Change.SAME),
        (P, S, Change.OTHER),
    ],
)
def test_a_change_has_the_name_that_kernelci_gives_it(
    old: Verdict | None, new: Verdict | None, change: Change
) -> None:
    assert Change.of(old, new) is change


def test_every_pair_of_verdicts_has_a_change() -> None:
    for old, new in itertools.product([*Verdict, None], repeat=2):
        if old or new:
            same = old is new and new is not F
            assert (Change.of(old, new) is Change.SAME) == same


def result(observed: int, figure: float, verdict: Verdict = P, **more: object) -> Result:
    readings = [
        control("vmcs", "c", 1, 1, "do"),
        claim("vmcs", "x", observed, 1),
        measure("leak", "smallest leak", figure),
    ]
    reason = f"vmcs: x: {observed}; smallest leak: {figure}"
    return replace(Result("any.soak", verdict, reason, readings=readings), **more)  # type: ignore[arg-type]


def test_figures_alone_are_told_only_where_asked() -> None:
    old, new = (evidence_of([result(1, figure)]) for figure in (0.41, 1e-3))
    assert list(compare(old, new).lines()) == []
    assert list(compare(old, new).lines(figures=True)) == [
        "any.soak: reason: vmcs: x: 1; smallest leak: 0.41 -> vmcs: x: 1; smallest leak: 0.001",
        "any.soak: leak measure, smallest leak: 0.41 -> 0.001",
    ]


def test_a_regression_says_which_witness_turned() -> None:
    old, new = [result(1, 0.4)], [result(0, 0.4, F, known_defect="docs/findings/x.md")]
    told = list(compare(evidence_of(old), evidence_of(new)).lines())
    assert told == [
        "any.soak: regression: PASS -> FAIL",
        "any.soak: known defect: nothing -> docs/findings/x.md",
        "any.soak: vmcs claim holds: True -> False",
    ]


def test_a_witness_that_no_longer_looks_is_told() -> None:
    gone = [Absence("runflags", Missing("no tracefs"))]
    told = compare(evidence_of([result(1, 0.4)]), evidence_of([result(1, 0.4, absences=gone)]))
    assert list(told.lines()) == ["any.soak: runflags did not look: nothing -> no tracefs"]


def test_properties_of_one_run_alone_appear_or_disappear() -> None:
    other = Result("kernel.fix-present", P, "r")
    compared = compare_results([result(1, 0.4)], [other])
    assert [(c.id, c.change) for c in compared] == [
        ("kernel.fix-present", Change.APPEARED), ("any.soak", Change.DISAPPEARED),
    ]  # fmt: skip


def test_what_the_runs_are_about_is_told_by_its_path() -> None:
    old = evidence_of(lab=BOCHS, hostname="a")
    new = evidence_of(lab={**BOCHS, "details": {"cpus": 2}}, release="7.3", strict=True)
    assert list(compare(old, new).lines()) == [
        "kvmtest.strict: False -> True",
        "machine.hostname: a -> nothing",
        "machine.lab.details.cpus: 1 -> 2",
        "kernel.release: 6.12.117 -> 7.3",
    ]


def test_a_strict_run_of_the_same_kernel_differs_in_how_it_ended() -> None:
    paths = (RECORDED / f"intel-lab-{name}.json" for name in ("known-defect", "strict"))
    known, strict = map(load, paths)
    compared = compare(known, strict)
    assert compared.changed == []
    assert "kvmtest.strict: False -> True" in list(compared.lines())
