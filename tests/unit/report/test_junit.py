"""JUnit output is XML that a CI system reads, whatever the reasons hold."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_strategies import RESULTS

from kvmtest.evidence import Result
from kvmtest.judge import Reading, Role, Verdict, claim, control, measure
from kvmtest.report.junit import NOTHING_ATTACHED, Attachments, junit


def suite_of(results: list[Result], hostname: str = "") -> ElementTree.Element:
    root = ElementTree.fromstring(junit(results, hostname))
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (Verdict.PASS, None),
        (Verdict.FAIL, "failure"),
        (Verdict.ERROR, "error"),
        (Verdict.SKIP, "skipped"),
        (Verdict.INCONCLUSIVE, "skipped"),
        (Verdict.MEASURED, "skipped"),
    ],
)
def test_each_verdict_has_its_element(verdict: Verdict, element: str | None) -> None:
    result = Result("vmx.entry.fresh", verdict, "because", 1.25, detail="the traceback")
    (case,) = suite_of([result])
    assert (case.get("classname"), case.get("name")) == ("kvmtest.vmx.entry", "fresh")
    assert case.get("time") == "1.250"
    assert [child.tag for child in case] == ([element] if element else [])
    assert all(child.get("type") == verdict for child in case)
    for child in case:
        assert child.get("message") == f"{verdict}: because"
        # GitLab shows the text alone.
        assert child.text == f"{verdict}: because\n\nthe traceback"


def test_readings_are_in_the_output() -> None:
    reading = claim("btf", "the member", False, True)
    (case,) = suite_of([Result("kernel.fix-present", Verdict.FAIL, "r", readings=[reading])])
    assert case.findtext("system-out") == "btf claim: the member: no, expected yes"


CONTROLS = "".join(map(chr, range(32))) + "\x7f\x85\ufffe\uffff\ud800<&\"']]>é🙂"


def test_characters_that_xml_has_not_survive_as_valid_xml() -> None:
    result = Result("kernel.fix-present", Verdict.ERROR, CONTROLS, detail=CONTROLS)
    (case,) = suite_of([result], hostname=CONTROLS)
    text = case[0].text or ""
    assert text.count("\ufffd") == 2 * (29 + 3)
    assert text.endswith("<&\"']]>é🙂")
    junit([result]).encode()


@given(st.lists(RESULTS, max_size=6), st.text())
def test_the_counts_are_those_of_the_cases(results: list[Result], hostname: str) -> None:
    suite = suite_of(results, hostname)
    # What is known is skipped.
    verdicts = [Verdict.SKIP if r.is_known_failure else r.verdict for r in results]
    counts = {name: int(suite.get(name, "-1")) for name in ("tests", "failures", "errors")}
    assert counts == {
        "tests": len(results),
        "failures": verdicts.count(Verdict.FAIL),
        "errors": verdicts.count(Verdict.ERROR),
    }
    decided = (Verdict.PASS, Verdict.FAIL, Verdict.ERROR)
    assert int(suite.get("skipped", "-1")) == sum(v not in decided for v in verdicts)
    names = [f"{case.get('classname')}.{case.get('name')}" for case in suite]
    assert names == [f"kvmtest.{r.id}" for r in results]


def test_the_document_says_its_encoding() -> None:
    first, *_ = junit([]).splitlines()
    assert first.startswith("<?xml version='1.0'")
    assert ElementTree.fromstring(junit([]).encode()).tag == "testsuites"


def test_a_known_defect_is_a_failure_in_a_strict_run_alone() -> None:
    known = Result("any.soak", Verdict.FAIL, "because", known_defect="docs/findings/x.md")
    for strict, tag in ((False, "skipped"), (True, "failure")):
        root = ElementTree.fromstring(junit([known], strict=strict))
        (element,) = root.iter(tag)
        assert element.get("message") == "FAIL (known defect, docs/findings/x.md): because"


def test_the_machine_is_named_in_a_property() -> None:
    root = ElementTree.fromstring(junit([], "", "lab (Bochs 2.7, corei7_skylake_x)"))
    (named,) = root.findall("testsuite/properties/property")
    assert named.attrib == {"name": "machine", "value": "lab (Bochs 2.7, corei7_skylake_x)"}


def test_a_suite_names_its_host_and_how_long_all_checks_took() -> None:
    results = [
        Result("any.soak", Verdict.PASS, "r", 1.25),
        Result("host.hotplug", Verdict.SKIP, "r", 0.5),
    ]
    suite = suite_of(results, hostname="runner7")
    assert (suite.get("hostname"), suite.get("time")) == ("runner7", "1.750")


def test_a_known_defect_that_does_not_show_is_pointed_out() -> None:
    mended = Result("any.soak", Verdict.PASS, "because", known_defect="docs/findings/x.md")
    (case,) = suite_of([mended])
    assert case.findtext("system-out") == "a known defect does not show: docs/findings/x.md"


def test_a_pass_of_the_leak_experiment_says_what_it_would_have_missed() -> None:
    figure = measure("leak", "smallest leak of a", 0.375, least_percent_of_smis=16.1)
    passed = Result("vmx.leak.host-events", Verdict.PASS, "because", readings=[figure])
    (case,) = suite_of([passed])
    said = "would be seen: a 0.38 % leak in every SMI; a whole leak in 16 % of SMIs or more"
    assert said in (case.findtext("system-out") or "").splitlines()


# What GitLab shows: the element's text


def text_of(result: Result, tag: str) -> str:
    (element,) = ElementTree.fromstring(junit([result])).iter(tag)
    return element.text or ""


HELD = control("vmcs", "the host's bit 14", 1, 1, "set it")
AGAINST = claim("vmcs", "bit 14 in the VMCS", 0, 1)
FOR = claim("vmcs", "bit 14 after a toggle", 1, 1)
SAMPLE = Reading("leak", Role.SAMPLE, "window 1", "quiet", None)


def test_a_failure_shows_what_spoke_against_the_claim_and_the_controls() -> None:
    other = control("leak", "another witness's control", 1, 1, "do")
    readings = [HELD, AGAINST, FOR, SAMPLE, other]
    text = text_of(Result("vmx.entry.fresh", Verdict.FAIL, "because", readings=readings), "failure")
    assert text.splitlines() == [
        "FAIL: because",
        "",
        "vmcs claim: bit 14 in the VMCS: 0, expected 1",
        "vmcs control: the host's bit 14: 1",
    ]


def test_what_was_not_decided_shows_the_control_that_did_not_hold_and_its_remedy() -> None:
    broken = control("vmcs", "the host's bit 14", 0, 1, "load msr")
    result = Result("vmx.entry.fresh", Verdict.INCONCLUSIVE, "because", readings=[broken, AGAINST])
    assert text_of(result, "skipped").splitlines() == [
        "INCONCLUSIVE: because",
        "",
        "vmcs control: the host's bit 14: 0, expected 1 (load msr)",
    ]


def test_many_readings_are_counted() -> None:
    readings = [HELD, *(claim("vmcs", f"entry {n}", 0, 1) for n in range(50))]
    text = text_of(Result("vmx.entry.fresh", Verdict.FAIL, "because", readings=readings), "failure")
    assert "and 42 more, in evidence.json" in text
    assert len(text.splitlines()) < 20


def test_samples_are_counted_and_not_listed() -> None:
    result = Result("vmx.leak.host-events", Verdict.PASS, "because", readings=[FOR, *[SAMPLE] * 9])
    output = ElementTree.fromstring(junit([result])).findtext(".//system-out")
    assert output == (
        "PASS: because\nvmcs claim: bit 14 after a toggle: 1\n9 samples are in evidence.json"
    )


# Attachments

FILES = Attachments("out/evidence.json", "out/kernel.log")
#: GitLab takes the first in the text of a case's system-out (lib/gitlab/ci/parsers/test/junit.rb).
MARK = re.compile(r"\[\[ATTACHMENT\|(?P<path>.+?)\]\]")


def attached(result: Result, files: Attachments = FILES) -> str | None:
    root = ElementTree.fromstring(junit([result], attachments=files))
    found = MARK.search(root.findtext(".//system-out") or "")
    return found["path"] if found else None


@pytest.mark.parametrize("verdict", Verdict)
def test_a_failure_and_an_error_have_the_evidence_attached(verdict: Verdict) -> None:
    is_broken = verdict in (Verdict.FAIL, Verdict.ERROR)
    result = Result("any.soak", verdict, "r", readings=[HELD, AGAINST])
    assert attached(result) == ("out/evidence.json" if is_broken else None)
    assert attached(result, NOTHING_ATTACHED) is None


def test_a_known_defect_has_no_attachment() -> None:
    known = Result("any.soak", Verdict.FAIL, "r", known_defect="docs/findings/x.md")
    assert attached(known) is None


def test_what_the_kernel_log_shows_has_the_log_attached() -> None:
    readings = [control("klog", "the log is read", 1, 1, "do"), claim("klog", "WARNs", 1, 0)]
    result = Result("any.no-warnings", Verdict.FAIL, "r", readings=readings)
    assert attached(result) == "out/kernel.log"
    assert attached(result, FILES._replace(kernel_log="")) is None


def test_the_run_itself_has_the_evidence_attached() -> None:
    root = ElementTree.fromstring(junit([], problem="it broke", attachments=FILES))
    assert root.findtext(".//system-out") == "[[ATTACHMENT|out/evidence.json]]"


def test_a_reading_attaches_nothing() -> None:
    forged = claim("vmcs", "[[ATTACHMENT|/etc/passwd]]", "[[ATTACHMENT|/etc/shadow]]", 1)
    for verdict in (Verdict.PASS, Verdict.FAIL):
        result = Result("any.soak", verdict, "[[ATTACHMENT|x]]", readings=[HELD, forged])
        assert attached(result, NOTHING_ATTACHED) is None
