"""The folder of a run
===================

The folder that ``-o`` names holds one run: evidence, kernel log and reports.
"""

import errno
import os
import socket
from dataclasses import replace
from pathlib import Path

from kvmtest.errors import KvmtestError, UsageError
from kvmtest.evidence import Evidence, save
from kvmtest.evidence.file import EVIDENCE, write_whole
from kvmtest.missing import Missing
from kvmtest.record import Record
from kvmtest.report.files import junit_of, ktap_of
from kvmtest.report.junit import Attachments
from kvmtest.run_options import RunOptions

__all__ = [
    "attachments",
    "folder_of",
    "new_folder",
    "write_reports",
    "written",
]

KERNEL_LOG = "kernel.log"


def new_folder(path: Path) -> Path:
    """Create the folder, or use an empty one; raises UsageError otherwise."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = sorted(entry.name for entry in path.iterdir())
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(f"-o {path}: {error.strerror}; choose another folder") from None
    if held:
        what = "another run's files" if EVIDENCE in held else f"files ({held[0]})"
        raise UsageError(f"-o {path}: it holds {what}; choose a new folder, or empty this one")
    return path


def folder_of(options: RunOptions) -> Path | None:
    """Create and return the run's output folder; None for a dry run."""
    return new_folder(options.output) if options.output and not options.dry_run else None


def written(record: Record, output: Path | None) -> Record:
    """Write a run's files, if the run has a folder.

    Returns the record, with one more problem if a file could not be written.
    """
    if output is not None:
        try:
            _write(record, output)
        except KvmtestError as error:
            return replace(record, problems=[*record.problems, str(error)])
    return record


def _write(record: Record, output: Path) -> None:
    evidence = record.evidence
    records = () if isinstance(record.log, Missing) else record.log.records
    lines = [f"[{r.time_us / 1e6:12.6f}] {r.message}" for r in records]
    # The evidence comes first, in case space runs out: all else but the log follows from it.
    # A lab's machine is slow: the evidence is validated outside, by its reader.
    save(evidence, output / EVIDENCE, unchecked=record.machine.lab is not None)
    write_whole(output / KERNEL_LOG, "".join(line + "\n" for line in lines))
    # A lab's machine is slow: reports are made outside.
    if record.machine.lab is None:
        write_reports(evidence, output, socket.gethostname())


def write_reports(evidence: Evidence, output: Path, hostname: str = "") -> None:
    """Write ktap.txt and junit.xml; raises EnvironmentUnfit if one can't be written."""
    write_whole(output / "ktap.txt", ktap_of(evidence, hostname))
    junit = junit_of(evidence, hostname, attachments(output / EVIDENCE))
    write_whole(output / "junit.xml", junit)


def attachments(evidence: Path) -> Attachments:
    """Return the files of a run by their paths in the project of the CI job that runs this.

    GitLab takes paths from CI_PROJECT_DIR, where it starts jobs, and has no files outside.
    """
    project = Path(os.environ.get("CI_PROJECT_DIR") or ".").absolute()
    log = evidence.with_name(KERNEL_LOG)
    return Attachments(_in(project, evidence), _in(project, log) if log.exists() else "")


def _in(project: Path, path: Path) -> str:
    """Return the path from the project's folder; "" outside, or if it can't stand in the mark."""
    path = Path(os.path.normpath(path.absolute()))
    inside = str(path.relative_to(project)) if path.is_relative_to(project) else ""
    return inside if inside.isprintable() and "]]" not in inside else ""
