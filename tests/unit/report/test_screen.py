"""A run ends with one screen: a sentence, what matters in full, the rest in few lines."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import EVIDENCE

from kvmtest.evidence import Evidence, Required, Result, load
from kvmtest.evidence.counting import run_status
from kvmtest.evidence.records import ChangeRecord, JournalRecord
from kvmtest.judge import Absence, Reading, Verdict, claim, control, measure
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES
from kvmtest.report.screen import LINES, screen, show_screen
from kvmtest.report.sentence import sentence, summary

RECORDED = sorted((Path(__file__).parents[2] / "recorded").glob("*.json"))
FINDING = "docs/findings/lost-update-while-emulating.md"
IDS = [p.id for p in PROPERTIES]


def readings(witness: str = "vmcs", claims: int = 4) -> list[Reading]:
    return [
        control(witness, "c", 1, 1, "mend it"),
        *(claim(witness, f"bit {n}", 1, 1) for n in range(claims)),
    ]


def result(name: str, verdict: Verdict = Verdict.PASS, reason: str = "r", **more: Any) -> Result:
    decided = verdict not in (Verdict.SKIP, Verdict.ERROR)
    return Result(name, verdict, reason, readings=readings() if decided else [], **more)


def lacking(name: str, *things: Missing) -> Result:
    return result(name, Verdict.SKIP, "; ".join(map(str, things)), missing=list(things))


def run(*results: Result, **about: Any) -> Evidence:
    return evidence_of(results, run_status(results), **about)


def shown(evidence: Evidence, where: str = "", width: int = 80, **more: Any) -> list[str]:
    return [line.plain for line in screen(evidence, where, width=width, **more)]


def all_of(verdicts: Mapping[Verdict, int], reason: str = "r") -> list[Result]:
    """Return results of so many properties of each verdict."""
    wanted = [verdict for verdict, count in verdicts.items() for _ in range(count)]
    return [result(*pair, reason) for pair in zip(IDS, wanted, strict=False)]


# The head


def test_the_first_line_is_the_sentence_with_the_exit_status() -> None:
    evidence = run(result("any.soak"))
    line = shown(evidence)[0]
    assert line.startswith(sentence(evidence))
    assert line.endswith("  exit 0")
    assert len(line) == 80
    assert len(shown(evidence, width=100)[0]) == 80


def test_a_long_sentence_leaves_the_status_its_room() -> None:
    evidence = run(result("any.soak"), release="6.12.117-a-kernel-with-a-name-of-some-length-1")
    for width in (60, 80, 100):
        first, second = shown(evidence, width=width)[:2]
        assert first.endswith("  exit 0")
        assert len(first) == min(width, 80)
        assert " ".join([first.removesuffix("exit 0").strip(), second]) == sentence(evidence)


def test_a_problem_besides_the_verdicts_is_told_unless_it_was() -> None:
    evidence = evidence_of([result("any.soak")], 3, problems=["the disk is full"])
    broken = replace(evidence, journal=JournalRecord([], ["write 0 to x"], []))
    assert "the disk is full" in shown(broken)
    assert "not undone: write 0 to x" in shown(broken)
    assert "the disk is full" not in shown(broken, problems=False)


def test_the_status_of_a_bisection_is_shown_in_place_of_the_run_s() -> None:
    assert shown(run(result("any.soak")), status=125)[0].endswith("  exit 125")


def test_an_emulated_machine_says_so_in_the_second_line() -> None:
    evidence = run(result("any.soak"), lab=BOCHS, hostname="runner17")
    said = "EMULATED Intel (Bochs, 1 CPU): proves the kernel's code, not hardware"
    assert shown(evidence)[1] == said


def test_modules_laid_over_the_kernel_s_are_named_in_the_head() -> None:
    lab = {**BOCHS, "details": {"cpus": 1, "modules_laid_over": "kvm-intel.ko (sha256 12)"}}
    assert "KVM laid over the kernel's own: kvm-intel.ko (sha256 12)" in shown(run(lab=lab))


def test_a_machine_is_named_by_its_cpu_and_kind() -> None:
    line = shown(run(result("any.soak"), hostname="runner17"))[1]
    assert line == "Intel(R) Core(TM) i7-7800X CPU @ 3.50GHz, bare metal, runner17"


def test_the_third_line_counts_the_verdicts() -> None:
    evidence = run(*all_of({Verdict.PASS: 3, Verdict.SKIP: 2, Verdict.FAIL: 1}))
    assert shown(evidence)[2] == summary(evidence) == "3 pass, 1 fail, 2 not decided"


def test_an_unmet_requirement_is_told_with_its_reason() -> None:
    required = [Required("witness:leak", False, "no SMI source"), Required("any.soak", True)]
    lines = shown(run(result("any.soak"), requirements=required))
    assert [line for line in lines if "--require" in line] == [
        "--require witness:leak is not met: no SMI source"
    ]


# Properties


def test_a_decided_property_is_a_line_with_what_its_witnesses_said() -> None:
    lines = shown(run(result("vmx.entry.fresh"), result("any.soak")))
    assert "PASS vmx.entry.fresh  vmcs 4/4" in lines
    assert "PASS any.soak         vmcs 4/4" in lines


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE])
def test_what_needs_attention_comes_first_with_its_reason_in_full(verdict: Verdict) -> None:
    reason = " ".join(f"word{n}" for n in range(100))
    lines = shown(run(result("any.soak"), result("vmx.entry.fresh", verdict, reason)))
    at = next(n for n, line in enumerate(lines) if line.startswith(f"{verdict} vmx.entry.fresh"))
    assert at < next(n for n, line in enumerate(lines) if line.startswith("PASS any.soak"))
    assert reason in " ".join(" ".join(lines).split())


def test_known_defects_come_after_what_passed_and_are_not_red() -> None:
    known = result("vmx.entry.after-emulation", Verdict.FAIL, known_defect=FINDING)
    lines = screen(run(known, result("any.soak")))
    words = [line.plain.split()[:2] for line in lines]
    assert words.index(["KNOWN", known.id]) > words.index(["PASS", "any.soak"])
    styles = [str(span.style) for line in lines for span in line.spans if "KNOWN" in line.plain]
    assert styles
    assert not any("red" in style for style in styles)
    said = "known defect: kvmtest finding lost-update-while-emulating"
    assert said in " ".join(line.plain for line in lines)


def test_a_known_defect_that_does_not_show_is_pointed_out() -> None:
    lines = shown(run(result("vmx.entry.after-emulation", known_defect="docs/x.md")))
    assert "vmx.entry.after-emulation: a known defect does not show: docs/x.md" in lines


def test_a_leak_s_figures_are_explained_where_there_are_any() -> None:
    raw = {"counter": "i", "off": 11.0, "off_half": 0.1, "off_smis": 40, "on": 0.0,
           "on_half": 0.1, "on_smis": 40}  # fmt: skip
    leak = Result("vmx.leak.host-events", Verdict.PASS, "r", readings=[
        control("leak", "c", 1, 1, ""), claim("leak", "leaks", False, False, **raw),
        measure("leak", "smallest leak", 0.41, least_percent_of_smis=18.94),
    ])  # fmt: skip
    lines = shown(run(leak))
    assert "PASS vmx.leak.host-events  leak 0.00 of 11.0" in lines
    assert any(line.startswith("leak: events per SMI") for line in lines)
    said = "would be seen: a 0.41 % leak in every SMI; a whole leak in 19 % of SMIs or more"
    assert said in lines
    assert not any("leak" in line for line in shown(run(result("any.soak"))))


# What was not decided


def test_reasons_are_a_line_each_with_count_areas_and_remedy() -> None:
    amd, knob = Missing("KVM is kvm_intel", "run on AMD"), Missing("no knob", "run on Intel")
    lines = shown(run(
        lacking("svm.flag-never", amd), lacking("any.soak", knob, amd),
        lacking("svm.guest.smm", amd, knob), lacking("vmx.entry.fresh", knob),
        lacking("vmx.entry.toggled", knob),
    ))  # fmt: skip
    at = lines.index("Not decided:")
    assert lines[at + 1 : at + 3] == [
        "   3 any vmx  no knob; run on Intel",
        "   2 svm      KVM is kvm_intel; run on AMD",
    ]


def test_a_remedy_without_room_is_left_out_before_the_reason_is_cut() -> None:
    lines = shown(run(lacking("any.soak", Missing("no knob here", "do " + "a " * 60))))
    assert "   1 any  no knob here" in lines
    lines = shown(run(lacking("any.soak", Missing("no knob " * 20, "do"))))
    (line,) = (line for line in lines if "no knob" in line)
    assert line.endswith("…")
    assert len(line) <= 80


def test_a_witness_that_was_not_asked_is_told_although_others_decided() -> None:
    absent = Absence("leak", Missing("no SMI source", "find one"))
    lines = shown(run(result("any.soak", absences=[absent])))
    at = lines.index("Not asked:")
    assert lines[at + 1] == "   1 any  leak not asked: no SMI source; find one"


def test_many_reasons_are_cut_and_counted() -> None:
    gone = [lacking(name, Missing(f"no thing {n}")) for n, name in enumerate(IDS[:12])]
    lines = shown(run(*gone), "out")
    assert "     and 6 more reasons: kvmtest report out -v" in lines
    assert "     and 6 more reasons: run with -v" in shown(run(*gone))


# The foot


def changed(count: int, *failures: str) -> JournalRecord:
    return JournalRecord([ChangeRecord("write 0 to x")] * count, list(failures), [])


def test_the_foot_has_the_host_and_the_evidence() -> None:
    evidence = run(result("any.soak"))
    assert shown(evidence, "out")[-1] == "Host: nothing changed. Evidence: out"
    two = replace(evidence, journal=changed(2))
    assert "Host: 2 changes, all undone." in shown(two)[-1]
    assert "not kept (-o DIR keeps it)" in shown(two)[-1]
    left = replace(evidence, journal=changed(2, "write 0 to x"))
    assert "Host: 2 changes, 1 NOT UNDONE." in shown(left)[-1]


def test_a_path_is_never_broken() -> None:
    path = "/a-long/" + "path/" * 30
    assert f"Evidence: {path}" in shown(run(result("any.soak")), path)


def test_what_would_decide_more_comes_last() -> None:
    gone = lacking("vmx.entry.migrated", Missing("only one CPU is online"))
    assert shown(run(result("any.soak"), gone))[-1].startswith("Next: kvmtest lab run, for")
    one = run(result("vmx.entry.fresh"), gone, lab=BOCHS)
    assert shown(one)[-1] == "Next: kvmtest lab run --cpus 2"
    two = {**BOCHS, "details": {"cpus": 2}}
    assert "Next:" not in " ".join(shown(run(result("vmx.entry.fresh"), gone, lab=two)))


# Room


COUNTS = st.integers(0, len(PROPERTIES))


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(Verdict), COUNTS),
    st.integers(1, 60),
    st.sampled_from([None, BOCHS]),
)
def test_at_80_columns_the_lines_are_limited_whatever_the_verdicts(
    verdicts: dict[Verdict, int], reason_words: int, lab: Mapping[str, object] | None
) -> None:
    results = all_of(verdicts, "some words " * reason_words)
    lines = shown(run(*results, lab=lab), "a folder")
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= 80
    shown_words = set(" ".join(lines).split())
    assert {r.id for r in results if r.verdict is not Verdict.SKIP} <= shown_words


def test_reasons_that_have_no_room_are_counted_and_the_first_are_whole() -> None:
    results = all_of({Verdict.FAIL: 20, Verdict.PASS: 10}, "because " * 20)
    lines = shown(run(*results), "out")
    # Each reason takes two lines more than its property alone; one more has no room.
    assert LINES - 2 <= len(lines) <= LINES
    assert [line for line in lines if "kvmtest report out -v" in line] == [
        "     the reasons of the last 18: kvmtest report out -v"
    ]
    assert sum(line.count("because") for line in lines) == 2 * 20


@settings(max_examples=30, deadline=None)
@given(EVIDENCE, st.sampled_from([20, 40, 60, 80, 100, 200]))
def test_any_evidence_is_shown_at_any_width(evidence: Evidence, width: int) -> None:
    lines = screen(evidence, "out", width=width)
    assert lines[0].plain.partition(":")[0] in (
        "PASS", "FAIL", "ERROR", "UNDECIDED", "INTERRUPTED",
    )  # fmt: skip
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_runs_fit_any_usual_width(path: Path, width: int) -> None:
    evidence = load(path)
    lines = shown(evidence, "out", width)
    assert max(map(len, lines)) <= width
    decided = {r.id for r in evidence.results if r.verdict is not Verdict.SKIP}
    assert decided <= set(" ".join(lines).split())


def test_what_does_not_fit_beside_an_id_stands_below_in_whole_statements() -> None:
    many = [*readings("vmcs", 10), *readings("runflags", 10), *readings("leak", 10)]
    wide = replace(result("vmx.guest.write-keeps-host-bit"), readings=many)
    lines = shown(run(wide), width=50)
    at = lines.index("PASS vmx.guest.write-keeps-host-bit")
    assert lines[at + 1] == "     vmcs 10/10 · runflags 10/10 · leak 10/10"
    narrow = shown(run(wide), width=40)
    at = narrow.index("PASS vmx.guest.write-keeps-host-bit")
    assert narrow[at + 1 : at + 3] == [
        "     vmcs 10/10 · runflags 10/10",
        "     leak 10/10",
    ]


def test_reasons_are_no_markup_and_obey_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = result("any.soak", Verdict.ERROR, "[bold]a[/] \x1b]0;b\x07 [red")
    monkeypatch.setattr("sys.stdout", stream := io.StringIO())
    show_screen(run(broken))
    assert "[bold]a[/] \ufffd]0;b\ufffd [red" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
