"""A run's end is one sentence, and its verdicts are counted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.evidence_samples import evidence_of

from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import run_status
from kvmtest.evidence.records import JournalRecord
from kvmtest.judge import Verdict
from kvmtest.report.sentence import one_line, sentence, summary

FINDING = "docs/findings/lost-update-while-emulating.md"


def result(name: str, verdict: Verdict = Verdict.PASS, **more: Any) -> Result:
    return Result(name, verdict, "r", **more)


def run(*results: Result) -> Evidence:
    return evidence_of(results, run_status(results))


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            [("vmx.entry.fresh", "PASS"), ("vmx.entry.toggled", "PASS")],
            "PASS: the fix works in LINUX",
        ),
        ([("svm.flag-never", "PASS")], "PASS: KVM for AMD loads no host bit in LINUX"),
        ([("any.soak", "PASS"), ("host.hotplug", "PASS")], "PASS: 2 properties hold in LINUX"),
        (
            [("any.soak", "PASS"), ("vmx.entry.fresh", "SKIP")],
            "PASS: 1 property holds in LINUX, none of them of VMX",
        ),
        ([("kernel.fix-present", "FAIL"), ("any.soak", "FAIL")], "FAIL: LINUX lacks the fix"),
        (
            [("kernel.fix-present", "PASS"), ("any.soak", "FAIL")],
            "FAIL: 1 property fails in LINUX, which has the fix",
        ),
        ([("any.soak", "FAIL"), ("host.hotplug", "FAIL")], "FAIL: 2 properties fail in LINUX"),
        ([("any.soak", "ERROR"), ("host.hotplug", "PASS")], "ERROR: 1 check broke on LINUX"),
        ([("any.soak", "INCONCLUSIVE")], "UNDECIDED: nothing was decided in LINUX"),
        ([], "UNDECIDED: nothing was decided in LINUX"),
    ],
)
def test_one_sentence_says_how_it_ended(results: Sequence[tuple[str, str]], said: str) -> None:
    evidence = run(*(result(name, Verdict(verdict)) for name, verdict in results))
    assert sentence(evidence) == said.replace("LINUX", "Linux 6.12.117")


def test_a_known_defect_is_no_failure_unless_the_run_is_strict() -> None:
    known = result("vmx.entry.after-emulation", Verdict.FAIL, known_defect=FINDING)
    alone = run(known)
    assert sentence(alone) == "UNDECIDED: Linux 6.12.117 shows nothing but a known defect"
    assert sentence(run(known, result("any.soak"))).startswith("PASS: 1 property holds")
    strict = evidence_of([known], 1, strict=True)
    assert sentence(strict) == "FAIL: 1 property fails in Linux 6.12.117"


def test_a_problem_besides_the_verdicts_is_an_error() -> None:
    evidence = evidence_of([result("any.soak")], 3, problems=["the disk is full"])
    assert sentence(evidence).startswith("ERROR: the run on Linux 6.12.117 had a problem")


def test_an_interrupted_run_names_the_signal_and_the_state_of_the_host() -> None:
    evidence = evidence_of([], 130, interrupted=True)
    said = "INTERRUPTED: SIGINT stopped the run on Linux 6.12.117; the host is as it was"
    assert sentence(evidence) == said
    broken = replace(evidence, journal=JournalRecord([], ["write 0 to x"], []))
    assert sentence(broken).endswith("; the host is NOT as it was")


def test_one_line_has_sentence_and_status() -> None:
    evidence = run(result("any.soak"))
    assert one_line(evidence) == "PASS: 1 property holds in Linux 6.12.117 (exit 0)"
    assert one_line(evidence, 125).endswith("(exit 125)")


def test_verdicts_are_counted_and_known_defects_apart() -> None:
    verdicts = ["PASS", "PASS", "PASS", "SKIP", "SKIP", "INCONCLUSIVE", "FAIL"]
    results = [result(f"id.{n}", Verdict(each)) for n, each in enumerate(verdicts)]
    known = result("any.soak", Verdict.FAIL, known_defect=FINDING)
    said = "3 pass, 1 fail, 1 inconclusive, 1 known defect, 2 not decided"
    assert summary(run(*results, known)) == said
    assert summary(evidence_of([known], 1, strict=True)) == "1 fail"
    assert summary(run()) == "no property was run"
