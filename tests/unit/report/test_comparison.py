"""What a comparison prints, and its JSON."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import EVIDENCE, RUNS

from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.change import Change
from kvmtest.evidence.compare import compare
from kvmtest.evidence.expectations import Expectation
from kvmtest.evidence.pairs import Pairs
from kvmtest.judge import Verdict, claim, control
from kvmtest.missing import Missing
from kvmtest.report.comparison import SCHEMA, as_json, lines

P, F, S = Verdict.PASS, Verdict.FAIL, Verdict.SKIP
FRESH = "vmx.entry.fresh"
FINDING = "docs/findings/lost-update-while-emulating.md"
LAB = {**BOCHS, "details": {"cpus": 1, "modules_laid_over": "kvm.ko"}}


def entry(observed: int, **more: object) -> Result:
    readings = [control("vmcs", "c", 1, 1, "do"), claim("vmcs", "bit 14", observed, 1)]
    verdict, reason = (P, "vmcs: bit 14: 1") if observed else (F, "vmcs: bit 14: 0, expected 1")
    return replace(Result(FRESH, verdict, reason, readings=readings), **more)  # type: ignore[arg-type]


def printed(pairs: Pairs, **how: object) -> list[str]:
    return [line.plain for line in lines(pairs, **how)]  # type: ignore[arg-type]


def of(old: list[Result], new: list[Result], **more: object) -> Pairs:
    comparison = compare(evidence_of(old, lab=BOCHS), evidence_of(new, lab=LAB))
    return replace(Pairs({"": comparison}, {}), **more)  # type: ignore[arg-type]


def test_a_regression_has_both_reasons_and_what_the_witnesses_said() -> None:
    assert printed(of([entry(1)], [entry(0)])) == [
        "REGRESSION: 1 property                                                    exit 1",
        "old  Linux 6.12.117",
        "new  Linux 6.12.117 with kvm.ko laid over its own",
        "on   EMULATED Intel (Bochs, 1 CPU): proves the kernel's code, not hardware",
        "",
        "regression    vmx.entry.fresh                                       PASS -> FAIL",
        "     old  vmcs 1/1",
        "          vmcs: bit 14: 1",
        "     new  vmcs 0/1",
        "          vmcs: bit 14: 0, expected 1",
    ]


def test_what_did_not_change_is_folded() -> None:
    same = [entry(1), Result("any.soak", S, "r"), Result("nvmx.restore", S, "r")]
    printed_lines = printed(of(same, same))
    assert printed_lines[0].startswith("NO REGRESSION: 1 same, 2 undecided ")
    assert printed_lines[-2:] == ["undecided     2 properties", "same          1 property"]


def test_a_known_defect_that_fails_still_is_told_with_its_finding() -> None:
    known = entry(0, known_defect=FINDING)
    told = printed(of([known], [known]))
    assert (
        "stillFailing  vmx.entry.fresh                               FAIL -> FAIL (known)" in told
    )
    assert "     both vmcs 0/1" in told
    assert any("kvmtest finding" in line for line in told)


def test_an_expected_change_is_told_as_such() -> None:
    told = printed(of([entry(0)], [entry(1)], expected=[Expectation(P, FRESH)]))
    assert (
        "fixed         vmx.entry.fresh                            FAIL -> PASS (expected)" in told
    )
    assert told[-1] == "as expected: pass:vmx.entry.fresh"
    unmet = printed(of([entry(1)], [entry(1)], expected=[Expectation(P, FRESH)]))
    assert unmet[0].startswith("NOT AS EXPECTED: pass:vmx.entry.fresh ")
    assert unmet[-1] == "not as expected: pass:vmx.entry.fresh: PASS in both runs"


def test_unlike_machines_have_their_differences_and_no_changes() -> None:
    old, new = (evidence_of([entry(bit)], hostname=name) for bit, name in ((1, "a"), (0, "b")))
    told = printed(Pairs({"": compare(old, new)}, {}))
    assert told[0].startswith("NOT COMPARABLE: the machines differ ")
    assert told[-1] == "machine.hostname: a -> b"
    assert "regression" not in "".join(told)
    anyway = printed(Pairs({"": compare(old, new)}, {}, anyway=True))
    assert anyway[0].startswith("REGRESSION: 1 property ")


def test_another_format_is_told() -> None:
    told = printed(Pairs({}, {"": "x.json: its schema is other/2"}))
    assert told[0].startswith("NOT COMPARABLE: the formats differ ")
    assert told[-1] == "x.json: its schema is other/2"


def test_runs_that_changed_alike_are_named_together() -> None:
    broken = compare(evidence_of([entry(1)]), evidence_of([entry(0)]))
    well = compare(evidence_of([entry(1)]), evidence_of([entry(1)]))
    pairs = Pairs({"a": broken, "b": broken, "c": well}, {}, ["d", "e"], ["f"])
    told = printed(pairs)
    assert told[0].startswith("REGRESSION: 1 property in 2 of 5 runs ")
    assert sum(line.startswith("regression") for line in told) == 1
    assert "     in a, b; here a" in told
    assert told[-2:] == ["d, e: there is no new run", "there is no old run of f"]


def test_every_other_difference_is_told_only_where_asked() -> None:
    looks = entry(1, reason="vmcs: bit 14: 1; not asked: runflags")
    pairs = of([entry(1)], [looks])
    assert not any("not asked" in line for line in printed(pairs))
    assert any("reason: vmcs: bit 14: 1 -> vmcs" in line for line in printed(pairs, verbose=True))


def test_the_reason_of_a_pass_is_cut_to_a_line_unless_all_is_asked_for() -> None:
    long = entry(1, reason="word " * 50)
    pairs = of([long], [entry(0)])
    (cut,) = (line for line in printed(pairs) if "word" in line)
    assert cut.endswith(" …")
    assert len(cut) <= 80
    assert sum("word" in line for line in printed(pairs, verbose=True)) > 1
    failed = entry(0, reason="word " * 50)
    assert sum("word" in line for line in printed(of([entry(1)], [failed]))) > 1


def test_a_pass_that_is_no_longer_decided_says_what_is_missing() -> None:
    missing = Missing("no kprobes", "use another kernel")
    gone = Result(FRESH, S, "no kprobes; use another kernel", missing=[missing])
    told = printed(of([entry(1)], [gone]))
    assert told[0].startswith("REGRESSION")
    assert "     new  no kprobes; use another kernel" in told


@given(EVIDENCE | RUNS, EVIDENCE | RUNS, st.integers(20, 120), st.booleans())
def test_whatever_the_runs_are_lines_fit_and_are_printable(
    old: Evidence, new: Evidence, width: int, verbose: bool
) -> None:
    pairs = Pairs({"": compare(old, new)}, {}, anyway=True)
    for line in printed(pairs, width=width, verbose=verbose):
        assert line.isprintable()
        assert len(line) <= max(width, 50)


@given(EVIDENCE | RUNS, EVIDENCE | RUNS, st.booleans())
def test_the_json_says_the_same(old: Evidence, new: Evidence, anyway: bool) -> None:
    pairs = Pairs({"x": compare(old, new)}, {"y": "other"}, ["z"], anyway=anyway)
    data = json.loads(json.dumps(as_json(pairs)))
    assert data["schema"] == SCHEMA
    assert data["exit_status"] == pairs.status
    first, second = data["runs"]
    assert second == {"name": "y", "comparable": False, "not_comparable": ["other"]}
    assert first["comparable"] == ("x" in pairs.compared)
    told = [(each["id"], each["change"]) for each in first["properties"]]
    compared = pairs.comparisons["x"].properties if first["comparable"] else ()
    assert told == [(each.id, each.change) for each in compared]
    assert sum(first["counts"].values()) == len(pairs.comparisons["x"].properties)
    assert set(first["counts"]) == set(Change)


def test_the_json_has_each_witness_s_figures() -> None:
    data = as_json(of([entry(1)], [entry(0)], expected=[Expectation(F, FRESH)]))
    (found,) = data["runs"][0]["properties"]
    assert found["expected"]
    assert data["exit_status"] == 0
    assert data["expected"] == [{"text": "fail:vmx.entry.fresh", "met": True, "reason": ""}]
    (old,), (new,) = (found[side]["witnesses"] for side in ("old", "new"))
    assert (old["held"], new["held"], new["claims"]) == (1, 0, 1)
    assert (new["controls_held"], new["controls"]) == (1, 1)


@pytest.mark.parametrize("word", Change)
def test_each_word_has_a_colour_or_none_on_purpose(word: Change) -> None:
    from kvmtest.report.comparison import _STYLES

    assert (_STYLES[word] == "") == (word is Change.SAME)
