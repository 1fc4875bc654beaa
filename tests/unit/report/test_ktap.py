"""KTAP output, read back by the rules of Documentation/dev-tools/ktap.rst."""

import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_strategies import RESULTS, RUNS

from kvmtest.evidence import Evidence, Result
from kvmtest.judge import Reading, Role, Verdict, claim, control, measure
from kvmtest.report.files import ktap_of
from kvmtest.report.ktap import ktap


class Line(NamedTuple):
    """One result line: whether it is ok, its number, description, directive and diagnosis."""

    ok: bool
    number: int
    description: str
    directive: str
    diagnosis: str


# "<result> <number> [<description>][ # [<directive>] [<diagnostic data>]]"
RESULT_LINE = re.compile(
    r"(?P<result>ok|not ok) (?P<number>\d+)(?: (?:- )?(?P<description>[^#]*?))?"
    r"(?: # (?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b ?(?P<diagnosis>.*))?"
)


def parse(text: str) -> list[Line]:
    """Read a KTAP document without nesting; refuse what the rules do not allow."""
    assert text.endswith("\n")
    version, plan, *rest = text[:-1].split("\n")
    assert version == "KTAP version 1"
    planned = re.fullmatch(r"1\.\.(\d+)", plan)
    assert planned
    found = []
    for line in rest:
        assert line.isprintable(), f"{line!r} may break a reader's line"
        if line.startswith("# "):
            continue
        match = RESULT_LINE.fullmatch(line)
        assert match, line
        found.append(
            Line(
                match["result"] == "ok",
                int(match["number"]),
                match["description"],
                match["directive"] or "",
                match["diagnosis"] or "",
            )
        )
    assert len(found) == int(planned[1])
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    return found


def result(verdict: Verdict, reason: str = "because") -> Result:
    return Result("kernel.fix-present", verdict, reason)


@pytest.mark.parametrize(
    ("verdict", "ok", "directive", "diagnosis"),
    [
        (Verdict.PASS, True, "", ""),
        (Verdict.FAIL, False, "", ""),
        (Verdict.ERROR, False, "ERROR", "because"),
        (Verdict.SKIP, True, "SKIP", "because"),
        (Verdict.INCONCLUSIVE, True, "SKIP", "INCONCLUSIVE: because"),
        (Verdict.MEASURED, True, "SKIP", "MEASURED: because"),
    ],
)
def test_each_verdict_has_its_line(
    verdict: Verdict, ok: bool, directive: str, diagnosis: str
) -> None:
    (line,) = parse(ktap([result(verdict)]))
    assert line == Line(ok, 1, "kernel.fix-present", directive, diagnosis)


def test_a_failure_has_its_reason_before_it() -> None:
    text = ktap([result(Verdict.FAIL, "btf: the member: no, expected yes")])
    assert text.splitlines()[2:] == [
        "# btf: the member: no, expected yes",
        "not ok 1 kernel.fix-present",
    ]


@pytest.mark.parametrize("verdict", Verdict)
def test_a_reason_of_many_lines_stays_on_one(verdict: Verdict) -> None:
    (line,) = parse(ktap([result(verdict, "one\nok 2 forged\r\n# SKIP\x85three\u2028four")]))
    assert line.number == 1


def test_no_results_are_an_empty_plan() -> None:
    assert ktap([]) == "KTAP version 1\n1..0\n"


@given(st.lists(RESULTS, max_size=5))
def test_any_results_are_read_back(results: list[Result]) -> None:
    lines = parse(ktap(results))
    assert [line.description for line in lines] == [r.id for r in results]
    failed = [
        r.verdict is Verdict.ERROR or (r.verdict is Verdict.FAIL and not r.known_defect)
        for r in results
    ]
    assert [not line.ok for line in lines] == failed
    passed = [r.verdict is Verdict.PASS for r in results]
    assert [line.ok and not line.directive for line in lines] == passed


def test_a_known_defect_is_expected_to_fail_unless_the_run_is_strict() -> None:
    known = Result("any.soak", Verdict.FAIL, "because", known_defect="docs/findings/x.md")
    (line,) = parse(ktap([known]))
    # As kselftest.h prints it: parsers take "not ok" for a failure, whatever follows.
    assert (line.ok, line.directive) == (True, "XFAIL")
    assert line.diagnosis == "known defect, docs/findings/x.md"
    strict = ktap([known], strict=True)
    (line,) = parse(strict)
    assert (line.ok, line.directive) == (False, "")
    assert "# because\n# known defect, docs/findings/x.md\nnot ok 1 any.soak\n" in strict


def test_a_known_defect_that_does_not_show_is_an_ordinary_pass() -> None:
    mended = Result("any.soak", Verdict.PASS, "because", known_defect="docs/findings/x.md")
    text = ktap([mended])
    (line,) = parse(text)
    assert (line.ok, line.directive) == (True, "")
    assert "# a known defect does not show: docs/findings/x.md\nok 1 any.soak\n" in text


def test_the_machine_is_named_in_a_diagnostic_line() -> None:
    text = ktap([result(Verdict.PASS)], "lab (Bochs 2.7, corei7_skylake_x)")
    assert text.splitlines()[2] == "# machine: lab (Bochs 2.7, corei7_skylake_x)"
    assert len(parse(text)) == 1


def test_controls_are_diagnostic_lines_and_no_tests() -> None:
    readings = [
        control("vmcs", "the host's bit 14", 0, 1, "load msr"),
        claim("vmcs", "bit 14 in the VMCS", 0, 1),
    ]
    undecided = Result("any.soak", Verdict.INCONCLUSIVE, "because", readings=readings)
    text = ktap([undecided])
    assert text.splitlines()[2:] == [
        "# vmcs control: the host's bit 14: 0, expected 1 (load msr)",
        "ok 1 any.soak # SKIP INCONCLUSIVE: because",
    ]


def test_a_directive_in_a_reason_is_none() -> None:
    (line,) = parse(ktap([result(Verdict.ERROR, "file x # SKIP y")]))
    assert (line.ok, line.directive, line.diagnosis) == (False, "ERROR", r"file x \# SKIP y")


@pytest.mark.parametrize(
    "marker", ["Subtest:", "List of all partitions:", "not syncing: VFS:", "reboot:"]
)
def test_a_marker_in_a_reason_is_broken(marker: str) -> None:
    # kunit_parser.py takes a line that begins with the first for a heading, and ends at the others.
    text = ktap([result(Verdict.FAIL, f"{marker} forged")], subtests=True)
    assert marker not in text
    assert f"# {marker[:-1]}\\: forged\n" in text


def test_a_finding_that_goes_along_is_named_with_the_command_that_prints_it() -> None:
    finding = "docs/findings/lost-update-while-emulating.md"
    known = Result("any.soak", Verdict.FAIL, "because", known_defect=finding)
    (line,) = parse(ktap([known]))
    printed_by = "kvmtest finding lost-update-while-emulating"
    assert line.diagnosis == f"known defect, {finding} ({printed_by})"


def test_a_pass_of_the_leak_experiment_says_what_it_would_have_missed() -> None:
    figures = [
        measure("leak", "smallest leak of a", 0.375, least_percent_of_smis=16.1),
        measure("leak", "smallest leak of b", 0.5625, least_percent_of_smis=23.375),
    ]
    readings = [control("leak", "c", 1, 1, "d"), claim("leak", "leaks", False, False), *figures]
    said = "# would be seen: a 0.56 % leak in every SMI; a whole leak in 23 % of SMIs or more\n"
    passed = Result("vmx.leak.host-events", Verdict.PASS, "because", readings=readings)
    assert f"{said}ok 1 " in ktap([passed])
    failed = Result("vmx.leak.host-events", Verdict.FAIL, "because", readings=readings)
    assert said not in ktap([failed])


# With subtests


def nested(text: str) -> tuple[list[Line], dict[str, list[Line]]]:
    """Read a document with a level of subtests; refuse what the rules do not allow."""
    outer, inner = [], {}
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith("  "):
            block.append(line.removeprefix("  "))
            continue
        outer.append(line)
        if block and not line.startswith("#"):
            version, subtest, *rest = block
            name = subtest.removeprefix("# Subtest: ")
            # kunit_parser.py looks for the result by the name in this line.
            assert line.split(" # ")[0].endswith(f" {name}")
            inner[name] = parse("\n".join([version, *rest, ""]))
            block = []
    assert not block
    return parse("\n".join([*outer, ""])), inner


HELD = control("vmcs", "the host's bit 14", 1, 1, "set it")
BROKEN = control("leak", "enough # SMIs", 0, 1, "wait")
AGAINST = claim("vmcs", "bit 14", 0, 1)
FOR = claim("vmcs", "bit 14", 1, 1)
DOUBTFUL = claim("leak", "counts", True, False)


def subtests(verdict: Verdict, *readings: Reading, strict: bool = False, **about: str) -> list[str]:
    tested = Result("any.soak", verdict, "because", readings=list(readings), **about)
    _, inner = nested(ktap([tested], strict=strict, subtests=True))
    return [
        " ".join(filter(None, ["ok" if x.ok else "not ok", x.description, x.directive]))
        for x in inner["any.soak"]
    ]


def test_each_reading_is_a_subtest_and_the_verdict_the_last() -> None:
    assert subtests(Verdict.PASS, HELD, FOR, FOR, BROKEN) == [
        "ok vmcs control: the host's bit 14",
        "ok vmcs claim: bit 14",
        "ok vmcs claim: bit 14 (2)",
        "ok leak control: enough - SMIs SKIP",
        "ok verdict",
    ]


def test_a_failure_has_its_failing_readings_and_no_control_among_them() -> None:
    assert subtests(Verdict.FAIL, HELD, AGAINST, BROKEN, DOUBTFUL) == [
        "ok vmcs control: the host's bit 14",
        "not ok vmcs claim: bit 14",
        "ok leak control: enough - SMIs SKIP",
        "ok leak claim: counts SKIP",
        "not ok verdict",
    ]


def test_a_failure_of_a_requirement_fails_by_its_verdict() -> None:
    assert subtests(Verdict.FAIL, BROKEN, DOUBTFUL)[-1] == "not ok verdict"
    assert subtests(Verdict.ERROR, HELD, FOR)[-1] == "not ok verdict ERROR"


def test_a_known_defect_is_expected_in_its_readings_too() -> None:
    known = "docs/findings/x.md"
    assert subtests(Verdict.FAIL, HELD, AGAINST, known_defect=known)[1:] == [
        "ok vmcs claim: bit 14 XFAIL",
        "ok verdict XFAIL",
    ]
    assert subtests(Verdict.FAIL, HELD, AGAINST, known_defect=known, strict=True)[1:] == [
        "not ok vmcs claim: bit 14",
        "not ok verdict",
    ]


def test_what_was_not_decided_fails_nowhere() -> None:
    assert subtests(Verdict.INCONCLUSIVE, BROKEN, DOUBTFUL) == [
        "ok leak control: enough - SMIs SKIP",
        "ok leak claim: counts SKIP",
        "ok verdict SKIP",
    ]


def test_a_property_without_readings_has_no_subtests() -> None:
    skipped = result(Verdict.SKIP)
    assert ktap([skipped], subtests=True) == ktap([skipped])


def test_figures_and_samples_are_no_subtests() -> None:
    sample = Reading("leak", Role.SAMPLE, "window 1", "quiet", None)
    figure = measure("leak", "cycles per SMI", 7)
    assert subtests(Verdict.MEASURED, figure, sample, sample) == ["ok verdict SKIP"]
    measured = Result("any.soak", Verdict.MEASURED, "r", readings=[figure, sample])
    text = ktap([measured], subtests=True)
    assert "  # leak measure: cycles per SMI: 7\n  # 1 samples are in evidence.json\n" in text


@given(RUNS)
def test_the_tests_are_the_same_with_subtests(run: Evidence) -> None:
    outer, inner = nested(ktap_of(run, subtests=True))
    assert outer == parse(ktap_of(run))
    failing = {line.description for line in outer if not line.ok} - {"kvmtest.run"}
    assert {name for name, lines in inner.items() if not all(x.ok for x in lines)} == {
        r.id for r in run.results if r.id in failing and r.readings
    }
