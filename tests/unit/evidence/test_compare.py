"""What changed between two runs, by property and in words."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import EVIDENCE

from kvmtest.evidence import CpuRecord, Evidence, HostRecord, Result, load
from kvmtest.evidence.change import Change
from kvmtest.evidence.compare import (
    ChangedVerdict,
    changed_verdicts,
    compare,
    compare_results,
)
from kvmtest.judge import Absence, Verdict, claim, control, measure
from kvmtest.missing import Missing

RECORDED = Path(__file__).parents[2] / "recorded"
P, F, S = Verdict.PASS, Verdict.FAIL, Verdict.SKIP


@given(EVIDENCE)
def test_a_run_is_like_itself(run: Evidence) -> None:
    assert list(compare(run, run).lines(figures=True)) == []
    assert compare(run, run).changed == []


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
    other = Result("kernel.fix-present", S, "r")
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


def test_verdicts_alone_can_be_compared() -> None:
    old, new = {"a": P, "b": P, "c": P}, {"b": F, "c": P, "d": S}
    assert changed_verdicts(old, new) == [
        ChangedVerdict("a", P, None), ChangedVerdict("b", P, F), ChangedVerdict("d", None, S),
    ]  # fmt: skip


def unlike(old: Evidence, new: Evidence) -> list[str]:
    return [str(each) for each in compare(old, new).unlike]


def host(**facts: object) -> Evidence:
    run = evidence_of([result(1, 0.4)], hostname="a")
    cpu = CpuRecord("intel", 6, 85, 4, "i7", 7, online=[0, 1])
    machine = replace(run.machine, cpu=replace(cpu, **facts))  # type: ignore[arg-type]
    return replace(run, machine=machine)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"vendor": "amd"}, ["machine.cpu.vendor: intel -> amd"]),
        ({"family": 7, "model": 1}, ["machine.cpu.family: 6 -> 7", "machine.cpu.model: 85 -> 1"]),
        ({"stepping": 5}, ["machine.cpu.stepping: 4 -> 5"]),
        ({"online": [0]}, ["machine.cpu.online: without 1"]),
        ({"microcode": 8}, []),
        ({"features": ["rtm"]}, []),
        ({"vendor": None, "online": None}, []),
    ],
)
def test_hosts_are_alike_whose_cpus_are(facts: dict[str, object], told: list[str]) -> None:
    assert unlike(host(), host(**facts)) == told


def test_another_host_is_another_machine_and_another_kernel_is_not() -> None:
    other = evidence_of(hostname="b", release="7.3", version="0.2.0")
    assert unlike(evidence_of(hostname="a"), other) == ["machine.hostname: a -> b"]
    assert unlike(evidence_of(), other) == []


def test_of_lists_only_what_differs_is_told() -> None:
    old, new = host(online=[0, 1]), host(online=[*range(1, 100)])
    assert unlike(old, new) == [
        "machine.cpu.online: without 0, with 2, with 3, with 4, with 5, with 6, with 7, with 8 "
        "and 91 more"
    ]
    assert unlike(old, host(online=[1, 0])) == ["machine.cpu.online: in another order"]


def lab(details: dict[str, object] | None = None, **about: object) -> Evidence:
    changed = {**BOCHS, **about, "details": {"cpus": 1, **(details or {})}}
    return evidence_of(lab=changed, hostname=str(about.get("version", "a")))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (lab(), lab(version="3.0"), ["machine.lab.version: 2.7 -> 3.0"]),
        (lab(), lab({"cpus": 2}), ["machine.lab.details.cpus: 1 -> 2"]),
        (
            lab({"kvm_parameters": ""}),
            lab({"kvm_parameters": "nested=0"}),
            ["machine.lab.details.kvm_parameters:  -> nested=0"],
        ),
        (
            lab({"pmu": "version 2"}),
            lab({"pmu": "version 4"}),
            ["machine.lab.details.pmu: version 2 -> version 4"],
        ),
        (lab(), lab(lacks={"pmu": "r"}), ["machine.lab.lacks.pmu: nothing -> r"]),
        (lab(lacks={"pmu": "r"}), lab(lacks={"pmu": "reason"}), []),
        (lab(), lab({"modules_laid_over": "kvm.ko", "image_digest": "1", "start": "booted"}), []),
        (lab(), evidence_of(), ["machine.kind: lab -> host"]),
    ],
)
def test_emulated_machines_are_alike_wherever_they_are_emulated(
    old: Evidence, new: Evidence, told: list[str]
) -> None:
    assert unlike(old, new) == told


@given(EVIDENCE, EVIDENCE)
def test_machines_are_alike_both_ways_or_neither(old: Evidence, new: Evidence) -> None:
    assert len(compare(old, new).unlike) == len(compare(new, old).unlike)
    assert unlike(old, old) == []


def test_what_else_may_have_changed_a_verdict_is_told() -> None:
    old, new = host(), host(microcode=8, features=["rtm"])
    # A parameter that only one kernel's module has is the kernel's own.
    modules = ({"nested": "N"}, {"nested": "Y", "enable_mediated_pmu": "N"})
    old, new = (
        replace(run, host=HostRecord(kvm_module={"name": "kvm_intel", "parameters": each}))
        for run, each in zip((old, new), modules, strict=True)
    )
    new = replace(new, kvmtest=replace(new.kvmtest, version="0.2.0"))
    assert [str(each) for each in compare(old, new).besides] == [
        "kvmtest.version: 0.1.0 -> 0.2.0", "machine.cpu.microcode: 7 -> 8",
        "host.kvm_module.parameters.nested: N -> Y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "gap"),
    [
        ([result(1, 0.4)], [result(1, 0.4, S)], ""),
        ([result(1, 0.4, F)], [result(1, 0.4)], ""),
        ([result(1, 0.4, S)], [result(1, 0.4)], "the old run decided"),
        ([result(1, 0.4)], [], "the old run decided"),
        ([], [result(1, 0.4)], "the old run decided"),
    ],
)
def test_runs_without_a_decided_property_in_common_show_no_lack_of_regressions(
    old: list[Result], new: list[Result], gap: str
) -> None:
    told = compare(evidence_of(old), evidence_of(new)).gap
    assert gap in told
    assert bool(told) == bool(gap)


def test_an_interrupted_run_shows_no_lack_of_regressions() -> None:
    whole, cut = (evidence_of([result(1, 0.4)], interrupted=cut) for cut in (False, True))
    assert "interrupted" in compare(whole, cut).gap
    assert compare(cut, whole).gap == ""
