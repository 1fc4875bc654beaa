"""Files of reports
================

What stands beside evidence.json and is made from it alone: KTAP and JUnit.
"""

from pathlib import Path

from kvmtest.evidence import Evidence
from kvmtest.evidence.counting import run_problem
from kvmtest.evidence.file import write_whole

from .heading import facts, machine_words
from .junit import junit
from .ktap import ktap

__all__ = ["junit_of", "ktap_of", "write_reports"]


def ktap_of(evidence: Evidence, hostname: str = "") -> str:
    """Return a run as KTAP; ``hostname`` is that of evidence that has none of its own."""
    return ktap(
        evidence.results,
        machine_words(evidence),
        strict=evidence.strict,
        facts=facts(evidence, hostname),
        problem=run_problem(evidence),
    )


def junit_of(evidence: Evidence, hostname: str = "") -> str:
    """Return a run as JUnit; ``hostname`` is that of evidence that has none of its own."""
    known = facts(evidence, hostname)
    return junit(
        evidence.results,
        known.get("hostname", ""),
        machine_words(evidence),
        strict=evidence.strict,
        facts=known,
        problem=run_problem(evidence),
    )


def write_reports(evidence: Evidence, output: Path, hostname: str = "") -> None:
    """Write ktap.txt and junit.xml; raises EnvironmentUnfit where they can't be written."""
    write_whole(output / "ktap.txt", ktap_of(evidence, hostname))
    write_whole(output / "junit.xml", junit_of(evidence, hostname))
