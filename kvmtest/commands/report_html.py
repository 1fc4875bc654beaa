"""kvmtest report --html
=====================

Writes the page of one run, or the matrix of several with a page for each.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from kvmtest import named_file
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import EvidenceUnreadable, load
from kvmtest.evidence.file import MOST, write_to
from kvmtest.report.html.matrix_page import (
    MatrixRun,
    matrix_page,
    of_evidence,
    of_survey,
    unreadable,
)
from kvmtest.report.html.run_page import run_page
from kvmtest.report.html.source import source

from .lab_survey import load as load_survey
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
    rows = [of_survey(row) for path in surveys for row in load_survey(path).values()]
    write_to(page, matrix_page([*_reported(evidences, page), *rows]))


def _reported(evidences: Sequence[tuple[str, Path]], page: Path) -> Iterator[MatrixRun]:
    """Write the page of each run; give the rows that lead there."""
    folder = page.with_name(f"{page.stem}-runs")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise EnvironmentUnfit(
            f"can't make {folder}: {error.strerror}; choose another --html FILE"
        ) from None
    for number, (name, file) in enumerate(evidences, 1):
        try:
            evidence = load(file)
        except EvidenceUnreadable as error:
            yield unreadable(name, str(error))
            continue
        own = folder / f"{number}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[-80:].strip('-')}.html"
        write_to(own, run_page(evidence, source(file, own)))
        yield of_evidence(name, evidence, quote(f"{folder.name}/{own.name}"))


def _is_survey(path: Path) -> bool:
    """Whether a file has the rows of a survey, a list; evidence is an object."""
    try:
        return not path.is_dir() and named_file.read(path, MOST).lstrip().startswith(b"[")
    except OSError:
        return False
