"""A fleet's KCIDB document
========================

Writes the runs of a fleet as one document for KernelCI's database, where kcidb-io is installed.
"""

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kvmtest.evidence import EvidenceUnreadable, load
from kvmtest.evidence.file import compile_schema, write_whole
from kvmtest.evidence.folder import runs
from kvmtest.report.kcidb import Part, joined, part

from .apart import apart, of_file

__all__ = ["DOCUMENT", "write_kcidb"]

DOCUMENT = "kcidb.json"

#: The runs whose tests are in memory at a time: 40 KB each.
_AT_ONCE = 400

NamedFile = tuple[str, Path]


def write_kcidb(folder: Path) -> None:
    """Write the document of the evidence below a fleet's folder; none if there is no evidence.

    Tells of evidence that can't be read on stderr. Raises EnvironmentUnfit if the document can't be
    written.
    """
    if find_spec("kcidb_io") is None:
        return
    # Processes that make parts inherit what is imported and compiled here.
    import_module("kcidb_io.schema")
    compile_schema()
    try:
        write_whole(folder / DOCUMENT, joined(_parts(list(runs(folder).items()))))
    except EvidenceUnreadable:
        (folder / DOCUMENT).unlink(missing_ok=True)


def _parts(files: Sequence[NamedFile]) -> Iterator[Part]:
    """Give the parts of runs in their order; raises EvidenceUnreadable if there is none."""
    unread = 0
    for at in range(0, len(files), _AT_ONCE):
        for made in apart(_part, files[at : at + _AT_ONCE], _left_out):
            if isinstance(made, Part):
                yield made
                continue
            unread += 1
            print(f"kvmtest: left out: {made}", file=sys.stderr)  # noqa: T201
    if unread == len(files):
        raise EvidenceUnreadable("no evidence can be read")


def _part(named: NamedFile) -> Part | str:
    name, file = named
    return part(name, load(file))


def _left_out(named: NamedFile, why: str) -> Part | str:
    _, file = named
    return of_file(file, why.partition("\n")[0])
