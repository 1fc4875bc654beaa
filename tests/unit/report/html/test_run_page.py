"""The page of a run shows all of the evidence, and does nothing that the evidence asks for."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import RUNS

pytest.importorskip("jinja2")
pytest.importorskip("justhtml")
from support.html_pages import assert_alone, page_of, text_of

from kvmtest.evidence import ChangeRecord, Evidence, JournalRecord, Required, Result, load
from kvmtest.evidence.records import KernelRecord
from kvmtest.judge import Absence, Role, Verdict, claim, control, judge, measure
from kvmtest.missing import Missing
from kvmtest.report.html.run_page import run_page
from kvmtest.report.html.source import Source

RECORDED = sorted((Path(__file__).parents[3] / "recorded").glob("*.json"))
SOURCE = Source("evidence.json", "0" * 64)
#: What would run, be fetched or end its place, if it were not escaped.
HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></style></title><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "]]>--><!--",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp;",
    "\x00\x1b[31m\ud800\u202e",
)
FS_BASE = "0x4aabebaeb7b47273"


def failed(verdict: Verdict = Verdict.FAIL, **about: object) -> Result:
    readings = [
        claim("vmcs", "bit 14 at the first entry", 0, 1, debugctl="0x0", fs_base=FS_BASE),
        control("vmcs", "the other bits", "0x800", "0x800", "try another kernel"),
    ]
    result = Result("vmx.entry.fresh", verdict, "vmcs: bit 14: 0", 0.5, readings)
    return replace(result, **about)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_run_makes_a_page_of_its_own(path: Path) -> None:
    evidence = load(path)
    page = page_of(run_page(evidence, SOURCE))
    assert_alone(page)
    text = text_of(page.query("body")[0])
    assert all(result.id in text for result in evidence.results)
    assert ("EMULATED" in text) == (evidence.machine.kind == "lab")
    assert f"exit status {evidence.exit_status}" in text
    (mail,) = page.query("pre.all")
    assert all(r.id in mail.to_text() for r in evidence.results if r.verdict is not Verdict.ERROR)


def test_a_kernel_whose_release_names_a_commit_is_told_by_it() -> None:
    evidence = evidence_of([failed()])
    built = "6.13.0-rc2-00042-g3ab1c2d4e5f6-dirty"
    assert evidence.kernel.commit is None
    page = page_of(run_page(replace(evidence, kernel=KernelRecord(release=built)), SOURCE))
    (mail,) = page.query("pre.all")
    for text in (text_of(page.query("header")[0]), mail.to_text()):
        assert f"{built}, commit 3ab1c2d4e5f6" in text


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(RUNS)
def test_any_evidence_makes_a_valid_page_that_needs_nothing_else(evidence: Evidence) -> None:
    assert_alone(page_of(run_page(evidence, SOURCE)))


@pytest.mark.parametrize("text", HOSTILE)
def test_all_text_of_evidence_stays_text(text: str) -> None:
    readings = [claim(text, text, text, 1, **{text: text}), measure("vmcs", text, text)]
    evidence = evidence_of(
        [
            Result(text, Verdict.FAIL, text, 0.1, readings, known_defect=text, detail=text),
            Result(text, Verdict.SKIP, text, missing=[Missing(text, text)]),
            Result("any.soak", Verdict.ERROR, text, absences=[Absence(text, Missing(text))]),
        ],
        1,
        hostname=text,
        release=text,
        command=[text],
        problems=[text],
        requirements=[Required(text, False, text)],
        lab={**BOCHS, "emulator": text, "details": {"kernel": text}, text: [text, {text: text}]},
    )
    journal = JournalRecord([ChangeRecord(text)], [text], [text])
    evidence = replace(evidence, journal=journal, host=replace(evidence.host, knob={text: text}))
    harmless = page_of(run_page(evidence_of([failed()], 1), SOURCE))
    page = page_of(run_page(evidence, Source("evidence.json", text, [text])))
    assert_alone(page)
    assert {each.name for each in page.query("*")} <= {
        *(each.name for each in harmless.query("*")),
        "ul", "li", "svg", "line", "text", "pre", "code", "br",
    }  # fmt: skip
    shown = page.query("body")[0].to_text()
    assert "49" not in shown
    if text.isprintable():
        assert text in shown


def test_the_sentence_and_what_failed_come_first() -> None:
    evidence = evidence_of([failed(), Result("any.soak", Verdict.PASS, "r")], 1)
    log = [
        "kvm_intel: VMCS 00000000e584440c, last attempted VM-entry on CPU 0",
        "kvm_intel: *** Guest State ***",
        f"kvm_intel: FS:   sel=0x0010, base={FS_BASE}",
        "kvm_intel: DebugCtl = 0x0000000000000000",
        "kvm_intel: *** Host State ***",
    ]
    page = page_of(run_page(evidence, Source("evidence.json", "0" * 64, log)))
    (title,) = page.query("h1")
    assert "6.12.117" in text_of(title)
    (badge,) = page.query(".badge")
    assert "FAIL" in text_of(badge)
    (article,) = page.query("#wrong article")
    shown = text_of(article)
    assert "vmcs claim: bit 14 at the first entry: 0, expected 1" in shown
    assert "vmcs control: the other bits: 0x800" in shown
    (excerpt,) = article.query("pre")
    assert excerpt.to_text().splitlines() == log[:4]
    assert "kvmtest run --only vmx.entry.fresh" in shown


def test_readings_are_shown_with_what_lies_behind_them_and_equal_ones_once() -> None:
    readings = [
        *(control("vmcs", "the host's bit", 1, 1, "r") for _ in range(7)),
        control("vmcs", "the dump is whole", False, True, "free the console"),
        claim("vmcs", "bit 14", 1, 1, debugctl="0x4000"),
    ]
    decided = judge(readings)
    result = Result("vmx.entry.fresh", decided.verdict, decided.reason, readings=readings)
    page = page_of(run_page(evidence_of([result], 4), SOURCE))
    claims, controls = page.query("[id='vmx.entry.fresh'] table")
    assert [text_of(cell) for cell in claims.query("tbody td")] == [
        "bit 14 debugctl 0x4000", "1", "1", "✓",
    ]  # fmt: skip
    assert [text_of(row) for row in controls.query("tbody tr")] == [
        "the dump is whole to mend it: free the console no yes ✗",
        "the host's bit \N{MULTIPLICATION SIGN}7 1 1 ✓",
    ]


def test_a_known_defect_is_told_apart_from_a_failure() -> None:
    finding = "docs/findings/lost-update-while-emulating.md"
    known = failed(known_defect=finding)
    for strict, mark in ((False, "known"), (True, "fail")):
        page = page_of(run_page(evidence_of([known], 1 if strict else 4, strict=strict), SOURCE))
        (link,) = page.query(".families a")
        assert link.attrs["class"] == mark
        assert finding in text_of(page.query("#wrong")[0])


def test_what_is_missing_is_told_once_with_all_that_want_it() -> None:
    missing = Missing("only one CPU is online", "use a machine with two")
    results = [
        Result(name, Verdict.SKIP, str(missing), missing=[missing, Missing("no knob")])
        for name in ("vmx.entry.migrated", "host.hotplug")
    ]
    page = page_of(run_page(evidence_of(results, 4), SOURCE))
    rows = [text_of(row) for row in page.query("tbody tr")]
    assert rows == [
        "only one CPU is online use a machine with two vmx.entry.migrated, host.hotplug",
        "no knob vmx.entry.migrated, host.hotplug",
    ]
    assert_alone(page)


def test_facts_are_shown_whatever_their_shape() -> None:
    facts = {
        "list": ["a", 1, None],
        "of objects": [{"name": "cpu"}],
        "lacks": {"missing": "no knob", "remedy": "load it"},
        "empty": [{}, []],
        "deep": [[[[[[[[[[["x"]]]]]]]]]]],
    }
    evidence = evidence_of([failed()], 1)
    evidence = replace(evidence, host=replace(evidence.host, knob=facts))
    text = text_of(page_of(run_page(evidence, SOURCE)).query("body")[0])
    for shown in ("list a, 1, nothing", "name cpu", "no knob; load it", "nested too deeply"):
        assert shown in text


def test_changes_of_the_host_say_whether_they_were_undone() -> None:
    change = ChangeRecord("write 0 to the knob", writes=2, undone=True)
    journal = JournalRecord([change, change], ["write 1 to /x"], ["the run before"])
    evidence = replace(evidence_of([failed()], 1), journal=journal)
    text = text_of(page_of(run_page(evidence, SOURCE)).query("body")[0])
    assert "2 changes of the host, all undone" in text
    assert "write 0 to the knob 2 4 yes" in text
    assert "not undone: write 1 to /x" in text
    assert "undone for an earlier run: the run before" in text


def test_broken_samples_are_told_and_hide_nothing_else() -> None:
    broken = replace(claim("leak", "window 0", 1, 1), role=Role.SAMPLE, raw={"arm": "quiet"})
    result = replace(failed(), readings=[*failed().readings, broken])
    text = text_of(page_of(run_page(evidence_of([result], 1), SOURCE)).query("body")[0])
    assert "its samples can't be drawn" in text
    assert "bit 14 at the first entry" in text


def test_the_block_for_mail_has_no_long_lines_but_those_that_must_not_break() -> None:
    (path,) = (path for path in RECORDED if path.stem == "intel-lab")
    (mail,) = page_of(run_page(load(path), SOURCE)).query("pre.all")
    for line in mail.to_text().splitlines():
        assert len(line) <= 76 or line.startswith(("again ", "  | ", "PASS ")), line
