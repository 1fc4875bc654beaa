"""JUnit
=====

The XML that CI systems read. What decides nothing is skipped, with its reason; so is a known defect
that does not count.
"""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from kvmtest.evidence import Result
from kvmtest.judge import Verdict

__all__ = ["junit"]

ELEMENTS = {Verdict.FAIL: "failure", Verdict.ERROR: "error"}


def junit(
    results: Sequence[Result], hostname: str = "", machine: str = "", *, strict: bool = False
) -> str:
    """Return the results as a JUnit document, a test case each.

    ``machine`` says in a property where they were had. A known defect is a failure only where the
    run was ``strict``.
    """
    suite = ElementTree.Element("testsuite", name="kvmtest", hostname=_xml(hostname))
    if machine:
        properties = ElementTree.SubElement(suite, "properties")
        ElementTree.SubElement(properties, "property", name="machine", value=_xml(machine))
    for result in results:
        _case(suite, result, strict)
    suite.set("tests", str(len(results)))
    for element, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(count, str(len(suite.findall(f"testcase/{element}"))))
    suite.set("time", f"{sum(r.seconds for r in results):.3f}")
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, result: Result, strict: bool) -> None:
    family, _, name = result.id.rpartition(".")
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"kvmtest.{family}", name=name, time=f"{result.seconds:.3f}"
    )
    if result.verdict is not Verdict.PASS:
        is_excused = result.is_known_failure and not strict
        element = "skipped" if is_excused else ELEMENTS.get(result.verdict, "skipped")
        about = f" (known defect, {result.known_defect})" if result.known_defect else ""
        message = _xml(f"{result.verdict}{about}: {result.reason}")
        ElementTree.SubElement(case, element, message=message).text = _xml(result.detail)
    if result.readings:
        readings = "\n".join(f"{r.witness} {r.role}: {r}" for r in result.readings)
        ElementTree.SubElement(case, "system-out").text = _xml(readings)


def _xml(text: str) -> str:
    """Replace the characters that XML 1.0 can't hold."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
