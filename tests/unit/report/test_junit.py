"""JUnit output is XML that a CI system reads, whatever the reasons hold."""

from xml.etree import ElementTree

import pytest
from evidence_strategies import RESULTS
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.evidence import Result
from kvmtest.judge import Verdict, claim
from kvmtest.report.junit import junit


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
    for child in case:
        assert (child.get("message"), child.text) == (f"{verdict}: because", "the traceback")


def test_readings_are_in_the_output() -> None:
    reading = claim("btf", "the member", False, True)
    (case,) = suite_of([Result("kernel.fix-present", Verdict.FAIL, "r", readings=[reading])])
    assert case.findtext("system-out") == "btf claim: the member: no, expected yes"


CONTROLS = "".join(map(chr, range(32))) + "\x7f\x85\ufffe\uffff\ud800<&\"']]>é🙂"


def test_characters_that_xml_has_not_survive_as_valid_xml() -> None:
    result = Result("kernel.fix-present", Verdict.ERROR, CONTROLS, detail=CONTROLS)
    (case,) = suite_of([result], hostname=CONTROLS)
    text = case[0].text or ""
    assert text.count("\ufffd") == 29 + 3
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
