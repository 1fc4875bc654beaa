"""JUnit of a fleet
================

One document for a whole plan: a suite a host and a test case a run, which fails with what is not
good in it. Each run's folder has a junit.xml with a case a property.
"""

from collections.abc import Sequence
from xml.etree import ElementTree

from kvmtest.judge import Verdict

from .fleet_run import FleetRun, by_host
from .junit import ELEMENTS, add_outcome, close_suite, document, xml_text

__all__ = ["fleet_junit"]


def fleet_junit(runs: Sequence[FleetRun]) -> str:
    """Return the runs of a fleet as a JUnit document.

    A run that ended without a FAIL and with another exit status than 0 is an error: it proved
    nothing. What is INCONCLUSIVE in a run that passed is in its output.
    """
    suites = ElementTree.Element("testsuites", name="kvmtest fleet")
    for host, mine in by_host(runs).items():
        suite = ElementTree.SubElement(suites, "testsuite", name=xml_text(host))
        suite.set("hostname", xml_text(host))
        for each in mine:
            _case(suite, each)
        close_suite(suite, sum(each.run.seconds for each in mine))
    return document(suites)


def _case(suite: ElementTree.Element, each: FleetRun) -> None:
    run = each.run
    name = each.kernel if each.number == 1 else f"{each.kernel} {each.number}"
    case = ElementTree.SubElement(
        suite,
        "testcase",
        # GitLab tells cases apart by class and name, whatever their suite.
        classname=xml_text(f"kvmtest.{each.host}"),
        name=xml_text(name),
        time=f"{run.seconds:.3f}",
    )
    if not run.fails:
        if run.wrong:
            ElementTree.SubElement(case, "system-out").text = xml_text("\n".join(run.wrong))
        return
    fails = not run.failure and "fail" in (run.mark, *run.marks.values())
    verdict = Verdict.FAIL if fails else Verdict.ERROR
    lines = [run.failure] if run.failure else run.wrong or [f"exit status {run.exit_status}"]
    add_outcome(case, ELEMENTS[verdict], verdict, lines[0], "\n".join(lines))
