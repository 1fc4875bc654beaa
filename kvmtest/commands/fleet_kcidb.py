"""A fleet's KCIDB document
========================

Writes the runs of a fleet as one document for KernelCI's database, where kcidb-io is installed.
"""

from importlib.util import find_spec
from pathlib import Path

from kvmtest.evidence import EvidenceUnreadable
from kvmtest.evidence.file import write_whole
from kvmtest.report.kcidb import kcidb

from .named_runs import NamedRuns

__all__ = ["DOCUMENT", "write_kcidb"]

DOCUMENT = "kcidb.json"


def write_kcidb(folder: Path) -> None:
    """Write the document of the evidence below a fleet's folder; none if there is no evidence.

    Raises EnvironmentUnfit if it can't be written.
    """
    if find_spec("kcidb_io") is None:
        return
    try:
        runs = NamedRuns([folder])
        named = ((str(Path(name).relative_to(folder)), evidence) for name, evidence in runs)
        write_whole(folder / DOCUMENT, kcidb(named))
    except EvidenceUnreadable:
        (folder / DOCUMENT).unlink(missing_ok=True)
