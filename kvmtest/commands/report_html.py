"""kvmtest report --html
=====================

Writes the page of one run, or the matrix of several with a page for each.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from kvmtest import named_file
from kvmtest.evidence import load
from kvmtest.evidence.file import MOST, write_to
from kvmtest.report.html.matrix_page import matrix_pages
from kvmtest.report.html.run_page import run_page
from kvmtest.report.html.source import source
from kvmtest.report.matrix_run import of_survey

from .lab_survey import load as load_survey
from .matrix_rows import NamedRun, folder_beside, rows_of
from .named_runs import evidence_files

__all__ = ["run"]


def run(paths: Sequence[Path], page: Path) -> None:
    """Write the page of the runs that ``paths`` name. Raises EnvironmentUnfit.

    Of several runs the page is a matrix; evidence that can't be read has a row that says why.
    """
    surveys = [path for path in paths if _is_survey(path)]
    evidences = evidence_files([path for path in paths if path not in surveys])
    if len(evidences) == 1 and not surveys:
        ((_, file),) = evidences
        write_to(page, run_page(load(file), source(file, page)))
        return
    folder = folder_beside(page)
    named = [
        NamedRun(name, file, folder / f"{number}-{_as_file(name)}.html")
        for number, (name, file) in enumerate(evidences, 1)
    ]
    rows = rows_of(named, page)
    rows += [of_survey(row) for path in surveys for row in load_survey(path).values()]
    for each in matrix_pages(rows, page.name):
        write_to(page.with_name(each.name), each.html)


def _as_file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-80:].strip("-")


def _is_survey(path: Path) -> bool:
    """Whether a file has the rows of a survey, a list; evidence is an object."""
    try:
        return not path.is_dir() and named_file.read(path, MOST).lstrip().startswith(b"[")
    except OSError:
        return False
