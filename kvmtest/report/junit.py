"""JUnit
=====

The XML that CI systems read. An undecided property is skipped with its reason; so is a known defect
that does not count. A reason is both the message and the text of an element: Jenkins shows the
message, GitLab the text. Both link the file that a test case names in its output as an attachment.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from kvmtest.evidence import Result
from kvmtest.evidence.counting import fails
from kvmtest.findings import reference
from kvmtest.judge import Role, Verdict, readings_against

from .telling import RUN, line, telling, would_be_seen

__all__ = [
    "ELEMENTS",
    "NOTHING_ATTACHED",
    "Attachments",
    "add_outcome",
    "close_suite",
    "document",
    "junit",
    "xml_text",
]

#: The elements of verdicts that fail.
ELEMENTS = {Verdict.FAIL: "failure", Verdict.ERROR: "error"}
#: The attributes of a suite that count cases, by the element that they count.
_COUNTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
# JUnit's attribute "timestamp" has no time zone.
_UTC = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z")

_ATTACHMENT = "[[ATTACHMENT|"


class Attachments(NamedTuple):
    """The paths of a run's files as a CI system knows them; "" for a file that it can't have."""

    evidence: str = ""
    kernel_log: str = ""


NOTHING_ATTACHED = Attachments()


def junit(
    results: Sequence[Result],
    hostname: str = "",
    machine: str = "",
    *,
    strict: bool = False,
    facts: Mapping[str, str] | None = None,
    problem: str = "",
    attachments: Attachments = NOTHING_ATTACHED,
) -> str:
    """Return the results as a JUnit document, a test case each.

    ``machine`` and ``facts`` (:func:`~kvmtest.report.heading.facts`) become properties; the fact
    "started" is the suite's timestamp, too. A known defect is a failure only in a ``strict`` run.
    ``problem`` is the problem of the run itself
    (:func:`~kvmtest.evidence.counting.run_problem`): one more test case, an error.
    Failures and errors have the evidence attached, or the kernel log if its reading says why.
    """
    suite = ElementTree.Element("testsuite", name="kvmtest", hostname=xml_text(hostname))
    about = {**({"machine": machine} if machine else {}), **(facts or {})}
    if started := _UTC.fullmatch(about.get("started", "")):
        suite.set("timestamp", started[1])
    if about:
        properties = ElementTree.SubElement(suite, "properties")
        for name, fact in about.items():
            ElementTree.SubElement(properties, "property", name=name, value=xml_text(fact))
    for result in results:
        _case(suite, result, strict, attachments)
    if problem:
        case = _test_case(suite, RUN, 0)
        add_outcome(case, "error", Verdict.ERROR, problem, problem)
        _system_out(case, [], attachments.evidence)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    close_suite(suite, sum(r.seconds for r in results))
    return document(suites)


def close_suite(suite: ElementTree.Element, seconds: float) -> None:
    """Write the counts of a suite's cases, which are there, and the time that they took."""
    suite.set("tests", str(len(suite.findall("testcase"))))
    for element, count in _COUNTS.items():
        suite.set(count, str(len(suite.findall(f"testcase/{element}"))))
    suite.set("time", f"{seconds:.3f}")


def document(suites: ElementTree.Element) -> str:
    """Return the text of a document."""
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(
    suite: ElementTree.Element, result: Result, strict: bool, attachments: Attachments
) -> None:
    case = _test_case(suite, f"kvmtest.{result.id}", result.seconds)
    fails_it = fails(result, strict=strict)
    if result.verdict is not Verdict.PASS:
        element = ELEMENTS[result.verdict] if fails_it else "skipped"
        finding = reference(result.known_defect) if result.known_defect else ""
        about = f" (known defect, {finding})" if finding else ""
        message = f"{result.verdict}{about}: {result.reason}"
        parts = [message, "\n".join(telling(result)), result.detail]
        text = "\n\n".join(part for part in parts if part)
        add_outcome(case, element, result.verdict, message, text)
    is_logged = any(r.witness == "klog" for r in readings_against(result.readings))
    attached = attachments.kernel_log if is_logged else attachments.evidence
    _system_out(case, _output(result), attached if fails_it else "")


def _test_case(suite: ElementTree.Element, name: str, seconds: float) -> ElementTree.Element:
    family, _, last = name.rpartition(".")
    return ElementTree.SubElement(
        suite, "testcase", classname=family, name=last, time=f"{seconds:.3f}"
    )


def add_outcome(
    case: ElementTree.Element, tag: str, verdict: Verdict, message: str, text: str
) -> None:
    """Add the element that says why a case did not pass."""
    # Ant's schema requires a type.
    element = ElementTree.SubElement(case, tag, type=verdict.value, message=xml_text(message))
    element.text = xml_text(text)


def _system_out(case: ElementTree.Element, lines: Iterable[str], attached: str) -> None:
    """Add what there is to tell, below the file that is attached: GitLab takes the first."""
    attachment = [f"{_ATTACHMENT}{attached}]]"] if attached else []
    output = [*attachment, *(line.replace(_ATTACHMENT, "[ [ATTACHMENT|") for line in lines)]
    if output:
        ElementTree.SubElement(case, "system-out").text = xml_text("\n".join(output))


def _output(result: Result) -> Iterator[str]:
    """Give what a PASS excludes, and all readings but samples."""
    if result.verdict is Verdict.PASS:
        if result.readings:
            yield f"{result.verdict}: {result.reason}"
        if result.known_defect:
            yield f"a known defect does not show: {reference(result.known_defect)}"
        if seen := would_be_seen(result):
            yield seen
    yield from (line(r) for r in result.readings if r.role is not Role.SAMPLE)
    if samples := sum(r.role is Role.SAMPLE for r in result.readings):
        yield f"{samples} samples are in evidence.json"


def xml_text(text: str) -> str:
    """Return text with U+FFFD for the characters that XML 1.0 can't hold."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
