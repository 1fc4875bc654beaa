"""Rows of a matrix, from evidence
===============================

Reads the evidence of many runs, each checked against the schema, and writes the pages of those that
get one. What can't be read has a row that says why.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import load
from kvmtest.evidence.file import compile_schema, load_verdicts, write_whole
from kvmtest.report.html.run_page import run_page
from kvmtest.report.html.source import source
from kvmtest.report.matrix_run import MatrixRun, of_evidence, shared, unreadable

from .apart import apart, of_file

__all__ = ["PAGES", "NamedRun", "folder_beside", "rows_of"]

#: The most runs that get a page: those that are not good come first.
PAGES = 400
#: The most characters of a run's page; a larger one is left out.
_LONGEST_PAGE = 4 << 20
_KTAP = "ktap.txt"


class NamedRun(NamedTuple):
    """A run's name, its evidence, and where its page is written if it gets one."""

    name: str
    evidence: Path
    page: Path


def folder_beside(page: Path) -> Path:
    """Make the folder of all pages that belong to one; raises EnvironmentUnfit."""
    folder = page.with_name(f"{page.stem}-runs")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise EnvironmentUnfit(
            f"can't make {folder}: {error.strerror}; choose another --html FILE"
        ) from None
    return folder


def rows_of(runs: Sequence[NamedRun], page: Path) -> list[MatrixRun]:
    """Return the rows of runs in the matrix ``page``, and write their own pages.

    Of many runs, some have no page: their links lead to ktap.txt or evidence.json.
    """
    compile_schema()
    rows = apart(_row, runs, _unread)
    # Equal marks are one object in the process that made them.
    rows = [replace(row, marks=shared(row.marks)) for row in rows]
    chosen = _with_page(rows)
    written = dict(zip(chosen, _write([runs[at] for at in chosen]), strict=True))
    return [
        row if row.failure else replace(row, link=_link(run, page, has_page=written.get(at, False)))
        for at, (row, run) in enumerate(zip(rows, runs, strict=True))
    ]


def _row(run: NamedRun) -> MatrixRun:
    return of_evidence(run.name, load_verdicts(run.evidence), "")


def _unread(run: NamedRun, why: str) -> MatrixRun:
    return unreadable(run.name, of_file(run.evidence, why))


def _with_page(rows: Sequence[MatrixRun]) -> list[int]:
    """Return the places of the rows that get a page: what is wrong, then one of each likeness."""
    seen: set[tuple[str, int]] = set()
    rank = {}
    for at, row in enumerate(rows):
        likeness = row.mark, id(row.marks)
        rank[at] = (not row.is_wrong, likeness in seen, at)
        seen.add(likeness)
    readable = [at for at, row in enumerate(rows) if not row.failure]
    return sorted(readable, key=rank.__getitem__)[:PAGES]


def _write(runs: Sequence[NamedRun]) -> list[bool]:
    """Write the runs' pages; return which have one. Raises EnvironmentUnfit."""
    errors = apart(_error, runs, lambda _, why: None)
    if problem := next(filter(None, errors), None):
        raise EnvironmentUnfit(problem)
    return [error == "" for error in errors]


def _error(run: NamedRun) -> str | None:
    """Write a run's page; return why that can't be done, and None where the page is left out."""
    evidence = load(run.evidence)
    try:
        html = run_page(evidence, source(run.evidence, run.page))
        if len(html) > _LONGEST_PAGE:
            return None
        write_whole(run.page, html)
    except EnvironmentUnfit as error:
        return str(error)
    return ""


def _link(run: NamedRun, page: Path, *, has_page: bool) -> str:
    ktap = run.evidence.with_name(_KTAP)
    target = run.page if has_page else ktap if ktap.is_file() else run.evidence
    return quote(os.fsencode(os.path.relpath(target, page.parent)))
