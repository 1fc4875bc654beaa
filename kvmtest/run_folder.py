"""The folder of a run
===================

The folder that ``-o`` names holds one run: evidence, kernel log, reports and plots.
"""

import errno
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.evidence import Evidence, save
from kvmtest.evidence.file import write_whole
from kvmtest.missing import Missing
from kvmtest.record import Record
from kvmtest.report.files import junit_of, ktap_of
from kvmtest.report.plots import pictures
from kvmtest.run_options import RunOptions

__all__ = [
    "folder_of",
    "new_folder",
    "write_beside",
    "write_plots",
    "write_reports",
    "written",
]


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
        what = "another run's files" if "evidence.json" in held else f"files ({held[0]})"
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
    evidence = record.evidence()
    records = () if isinstance(record.log, Missing) else record.log.records
    lines = [f"[{r.time_us / 1e6:12.6f}] {r.message}" for r in records]
    # The evidence comes first, in case space runs out: all else but the log follows from it.
    # A lab's machine is slow: the evidence is validated outside, by its reader.
    save(evidence, output / "evidence.json", unchecked=record.machine.lab is not None)
    write_whole(output / "kernel.log", "".join(line + "\n" for line in lines))
    # A lab's machine is slow: reports and plots are made outside.
    if record.machine.lab is None:
        write_reports(evidence, output, socket.gethostname())
        write_beside(evidence, output)


def write_reports(evidence: Evidence, output: Path, hostname: str = "") -> None:
    """Write ktap.txt and junit.xml; raises EnvironmentUnfit if one can't be written."""
    write_whole(output / "ktap.txt", ktap_of(evidence, hostname))
    write_whole(output / "junit.xml", junit_of(evidence, hostname))


def write_plots(evidence: Evidence, folder: Path) -> list[Path]:
    """Write ID.svg and ID.png for each result with windows, and return the files.

    Raises EnvironmentUnfit if matplotlib is missing, samples are broken, or writing fails.
    """
    drawn = pictures(evidence)
    try:
        if drawn:
            folder.mkdir(parents=True, exist_ok=True)
        for name, data in drawn.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise EnvironmentUnfit(
            f"can't write plots to {folder}: {error.strerror}; choose another folder"
        ) from None
    return [folder / name for name in drawn]


def write_beside(evidence: Evidence, output: Path) -> None:
    """Draw a run's plots beside its evidence; a failure is printed and changes no verdict."""
    try:
        write_plots(evidence, output)
    except Exception as error:
        print(f"kvmtest: no plots: {error}", file=sys.stderr)  # noqa: T201
