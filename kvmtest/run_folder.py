"""The folder of a run
===================

The folder that ``-o`` names holds one run, never two: it is made, and reports and plots are written
beside evidence.json.
"""

import errno
import os
import sys
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.evidence import Evidence
from kvmtest.evidence.file import write_whole
from kvmtest.report.files import junit_of, ktap_of
from kvmtest.report.plots import pictures

__all__ = ["new_folder", "write_beside", "write_plots", "write_reports"]


def new_folder(path: Path) -> Path:
    """Create the folder, or take it if it is empty; raises UsageError otherwise."""
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


def write_reports(evidence: Evidence, output: Path, hostname: str = "") -> None:
    """Write ktap.txt and junit.xml; raises EnvironmentUnfit where they can't be written."""
    write_whole(output / "ktap.txt", ktap_of(evidence, hostname))
    write_whole(output / "junit.xml", junit_of(evidence, hostname))


def write_plots(evidence: Evidence, folder: Path) -> list[Path]:
    """Write ID.svg and ID.png for each result with windows, and return the files.

    Raises EnvironmentUnfit where matplotlib is missing, samples are broken, or a file can't be
    written.
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
    """Draw a run's plots beside its evidence; what hinders it is told, and costs no verdict."""
    try:
        write_plots(evidence, output)
    except Exception as error:
        print(f"kvmtest: no plots: {error}", file=sys.stderr)  # noqa: T201
