"""The matrix page
===============

Several runs on one page, a row a run and a column a property. Rows with the same verdicts are
folded to one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from kvmtest import __version__
from kvmtest.evidence import Evidence
from kvmtest.lab.survey import Surveyed
from kvmtest.properties import PROPERTIES
from kvmtest.report.heading import machine_words, model_name

from .marks import NAMES, mark_of_run, mark_of_verdict, marks_of
from .rendering import render

__all__ = ["MatrixRun", "matrix_page", "of_evidence", "of_survey", "unreadable"]

_ORDER = {row.id: number for number, row in enumerate(PROPERTIES)}
#: More machines are not offered as a filter: their names fill the screen.
_MOST_MACHINES = 8
_DECIDED = {name for name in NAMES if name != "skip"}


@dataclass(frozen=True, slots=True)
class MatrixRun:
    """One run: ``marks`` are its properties' marks, ``link`` leads to its own page, if it has one.

    ``failure`` says why there are no verdicts.
    """

    name: str
    kernel: str
    machine: str
    mark: str
    marks: Mapping[str, str]
    link: str = ""
    failure: str = ""

    @property
    def age(self) -> list[int]:
        """The numbers in the kernel's name, by which runs are sorted."""
        return [int(number) for number in re.findall(r"\d{1,9}", self.kernel)]


class Column(NamedTuple):
    """A property; ``differs``: its verdicts do."""

    id: str
    differs: bool


class Group(NamedTuple):
    """Runs with the same verdicts, which are neighbours in the order of the page."""

    runs: Sequence[MatrixRun]
    kernel: str
    machine: str
    machines: Sequence[int]

    @property
    def first(self) -> MatrixRun:
        """The run whose verdicts are shown for all."""
        return self.runs[0]

    @property
    def is_wrong(self) -> bool:
        """Whether a reader must see it."""
        marks = {self.first.mark, *self.first.marks.values()}
        return bool(self.first.failure) or bool(marks & {"fail", "error", "inconclusive"})


def of_evidence(name: str, evidence: Evidence, link: str) -> MatrixRun:
    """Return the row of a run."""
    lab = evidence.machine.lab
    host = evidence.machine.hostname or ""
    emulated = machine_words(evidence).partition(":")[0]
    machine = emulated if lab else f"{host}: {model_name(evidence)}".lstrip(": ")
    laid = evidence.modules_laid_over
    return MatrixRun(
        name=name,
        kernel=f"{evidence.kernel.release or 'unknown'}{f' with {laid}' if laid else ''}",
        machine=machine,
        mark=mark_of_run(evidence),
        marks=marks_of(evidence),
        link=link,
    )


def of_survey(row: Surveyed) -> MatrixRun:
    """Return the row of a survey's run, which has verdicts alone."""
    marks = {
        name: mark_of_verdict(verdict, is_known=name in row.known_defects)
        for name, verdict in row.verdicts.items()
    }
    found = set(marks.values())
    order = ("fail", "error", "pass", "known", "inconclusive")
    return MatrixRun(
        name=row.debian_version or row.version,
        kernel=row.release,
        machine=row.heading,
        mark=next((mark for mark in order if mark in found), "inconclusive"),
        marks=marks,
        failure=row.failure,
    )


def unreadable(name: str, failure: str) -> MatrixRun:
    """Return the row of a run whose evidence can't be read."""
    return MatrixRun(name, "unknown", "", "error", {}, failure=failure)


def matrix_page(runs: Iterable[MatrixRun]) -> str:
    """Return the page of several runs. Raises EnvironmentUnfit if Jinja2 is missing."""
    return render("matrix.html", **_values(list(runs)))


def _values(runs: Sequence[MatrixRun]) -> Mapping[str, Any]:
    columns = _columns(runs)
    machines = list(dict.fromkeys(sorted(run.machine for run in runs)))
    groups = _groups(runs, [column.id for column in columns], machines)
    wrong = sum(len(group.runs) for group in groups if group.is_wrong)
    return {
        "version": __version__,
        "names": NAMES,
        "runs": runs,
        "columns": columns,
        "groups": groups,
        "machines": machines if 1 < len(machines) <= _MOST_MACHINES else [],
        "wrong": wrong,
    }


def _columns(runs: Sequence[MatrixRun]) -> list[Column]:
    """Return the properties that any run decided, in the order of the table of properties."""
    found = {name for run in runs for name, mark in run.marks.items() if mark in _DECIDED}
    read = [run for run in runs if not run.failure]
    return [
        Column(
            name,
            len({run.marks.get(name, "none") for run in read}) > 1,
        )
        for name in sorted(found, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    ]


def _groups(
    runs: Sequence[MatrixRun], columns: Sequence[str], machines: Sequence[str]
) -> list[Group]:
    """Return the runs in their order, those with the same verdicts together.

    Runs of one kernel are put together wherever they stand; of several kernels only neighbours are,
    the oldest first, so that a group is a range of kernels.
    """

    def verdicts(run: MatrixRun) -> tuple[str, ...]:
        return (run.failure, run.mark, *(run.marks.get(name, "none") for name in columns))

    ordered = sorted(runs, key=lambda run: (run.machine, run.age, run.kernel, run.name))
    is_one_kernel = len({run.kernel for run in runs}) == 1
    if is_one_kernel:
        first = {verdicts(run): number for number, run in reversed(list(enumerate(ordered)))}
        ordered.sort(key=lambda run: first[verdicts(run)])

    def likeness(run: MatrixRun) -> tuple[str, ...]:
        return verdicts(run) if is_one_kernel else (run.machine, *verdicts(run))

    return [_group(list(members), machines) for _, members in groupby(ordered, key=likeness)]


def _group(runs: Sequence[MatrixRun], machines: Sequence[str]) -> Group:
    kernels = list(dict.fromkeys(run.kernel for run in runs))
    own = list(dict.fromkeys(run.machine for run in runs))
    return Group(
        runs,
        kernels[0] if len(kernels) == 1 else f"{kernels[0]} to {kernels[-1]}",
        own[0] if len(own) == 1 else f"{len(own)} machines",
        [machines.index(name) for name in own],
    )
