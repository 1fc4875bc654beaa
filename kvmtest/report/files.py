"""Files of reports
================

What stands beside evidence.json and is made from it alone: KTAP and JUnit.
"""

from pathlib import Path

from kvmtest.evidence import Evidence
from kvmtest.evidence.file import write_whole

from .junit import junit
from .ktap import ktap

__all__ = ["write_reports"]


def write_reports(evidence: Evidence, output: Path, hostname: str = "") -> None:
    """Write ktap.txt and junit.xml; raises EnvironmentUnfit where they can't be written."""
    results, name, strict = evidence.results, evidence.machine_name, evidence.strict
    write_whole(output / "ktap.txt", ktap(results, name, strict=strict))
    write_whole(output / "junit.xml", junit(results, hostname, name, strict=strict))
