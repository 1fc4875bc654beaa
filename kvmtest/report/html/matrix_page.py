"""The matrix page
===============

Several runs on one page, a row a run and a column a property. Rows with the same verdicts are
folded to one. Many runs have lists of names in place of folded rows, and more pages if need be.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from kvmtest import __version__
from kvmtest.report.marks import NAMES
from kvmtest.report.matrix_run import ORDER, MatrixRun

from .rendering import render

__all__ = [
    "LARGE",
    "MOST_MACHINES",
    "ROWS",
    "Page",
    "Rows",
    "matrix_page",
    "matrix_pages",
    "pages_of",
]

#: More runs have their names alone in place of folded rows.
LARGE = 200
#: The most folded rows of a page.
ROWS = 200
#: More machines are not offered as a filter: their names fill the screen.
MOST_MACHINES = 8
#: The most columns for properties that this kvmtest does not know.
_MOST_UNKNOWN = 16
_DECIDED = {name for name in NAMES if name != "skip"}

Verdicts = tuple[str, ...]


class Page(NamedTuple):
    """A page's file, and what it holds."""

    name: str
    html: str


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
        return self.first.is_wrong


@dataclass(frozen=True, slots=True)
class Rows:
    """The table of several runs; ``machines`` are those that can be chosen.

    ``unknown`` is how many columns are left out: properties that this kvmtest does not know.
    """

    columns: Sequence[Column]
    unknown: int
    groups: Sequence[Group]
    machines: Sequence[str]
    is_large: bool
    wrong: int

    @classmethod
    def of(cls, runs: Sequence[MatrixRun], *, is_large: bool = False) -> "Rows":
        """Return the table of runs, in which those that are not good come first if it is large."""
        columns, unknown = _columns(runs)
        machines = list(dict.fromkeys(sorted(run.machine for run in runs)))
        groups = _groups(runs, [column.id for column in columns], machines)
        if is_large:
            groups.sort(key=lambda group: not group.is_wrong)
        return cls(
            columns,
            unknown,
            groups,
            machines if 1 < len(machines) <= MOST_MACHINES else [],
            is_large,
            sum(len(group.runs) for group in groups if group.is_wrong),
        )


def matrix_page(runs: Iterable[MatrixRun]) -> str:
    """Return the page of a few runs. Raises EnvironmentUnfit if Jinja2 is missing."""
    (page,) = matrix_pages(list(runs), "matrix", most=1 << 30)
    return page.html


def matrix_pages(
    runs: Sequence[MatrixRun],
    name: str,
    *,
    heading: str = "",
    prefix: str = "",
    back: str = "",
    most: int = ROWS,
) -> Iterator[Page]:
    """Give the pages of several runs, the first of which is called ``name``.

    ``heading`` says which runs they are. Links of runs begin with ``prefix``, and ``back`` leads to
    the page above. Raises EnvironmentUnfit if Jinja2 is missing.
    """
    rows = Rows.of(runs, is_large=len(runs) > LARGE)
    for here, part in pages_of(rows.groups, name, most):
        values = {
            "version": __version__,
            "names": NAMES,
            "count": len(runs),
            "wrong": rows.wrong,
            "rows": rows,
            "groups": part,
            "pages": here,
            "heading": heading,
            "prefix": prefix,
            "back": back,
        }
        yield Page(here.name, render("matrix.html", **values))


class Paged(NamedTuple):
    """A page among those of one table: their files in order, and the place of this one."""

    names: Sequence[str]
    at: int

    @property
    def name(self) -> str:
        """This page's file."""
        return self.names[self.at]


def pages_of(items: Sequence[Any], name: str, most: int) -> Iterator[tuple[Paged, Sequence[Any]]]:
    """Give the pages of a table of many items, ``most`` on each: at least one, called ``name``."""
    stem = name.removesuffix(".html")
    starts = range(0, max(len(items), 1), most)
    names = [name, *(f"{stem}-{number}.html" for number in range(2, len(starts) + 1))]
    for at, start in enumerate(starts):
        yield Paged(names, at), items[start : start + most]


def _columns(runs: Sequence[MatrixRun]) -> tuple[list[Column], int]:
    """Return the properties that any run decided, in the order of the table of properties.

    Of those that this kvmtest does not know, the most frequent; and how many more there are.
    """
    alike = Counter(tuple(run.marks.items()) for run in runs if not run.failure)
    found: Counter[str] = Counter()
    for marks, count in alike.items():
        found.update({name: count for name, mark in marks if mark in _DECIDED})
    unknown = sorted((-count, name) for name, count in found.items() if name not in ORDER)
    names = [*sorted((name for name in found if name in ORDER), key=ORDER.__getitem__)]
    names += sorted(name for _, name in unknown[:_MOST_UNKNOWN])
    different = [dict(marks) for marks in alike]
    return [
        Column(name, len({marks.get(name, "none") for marks in different}) > 1) for name in names
    ], max(len(unknown) - _MOST_UNKNOWN, 0)


def _groups(
    runs: Sequence[MatrixRun], columns: Sequence[str], machines: Sequence[str]
) -> list[Group]:
    """Return the runs in their order, those with the same verdicts together.

    Runs of one kernel are put together wherever they stand; of several kernels only neighbours are,
    the oldest first, so that a group is a range of kernels.
    """
    known: dict[int, Verdicts] = {}

    def verdicts(run: MatrixRun) -> Verdicts:
        # Runs with equal marks share them: ten thousand runs have a hundred different ones.
        marks = known.get(id(run.marks))
        if marks is None:
            marks = tuple(run.marks.get(name, "none") for name in columns)
            known[id(run.marks)] = marks
        return (run.failure, run.mark, *marks)

    ordered = sorted(runs, key=lambda run: (run.machine, run.age, run.kernel, run.name))
    is_one_kernel = len({run.kernel for run in runs}) == 1
    if is_one_kernel:
        first = {verdicts(run): number for number, run in reversed(list(enumerate(ordered)))}
        ordered.sort(key=lambda run: first[verdicts(run)])

    def likeness(run: MatrixRun) -> Verdicts:
        return verdicts(run) if is_one_kernel else (run.machine, *verdicts(run))

    places = {name: at for at, name in enumerate(machines)}
    return [_group(list(members), places) for _, members in groupby(ordered, key=likeness)]


def _group(runs: Sequence[MatrixRun], machines: Mapping[str, int]) -> Group:
    kernels = list(dict.fromkeys(run.kernel for run in runs))
    own = list(dict.fromkeys(run.machine for run in runs))
    return Group(
        runs,
        kernels[0] if len(kernels) == 1 else f"{kernels[0]} to {kernels[-1]}",
        own[0] if len(own) == 1 else f"{len(own)} machines",
        [machines[name] for name in own] if len(machines) <= MOST_MACHINES else [],
    )
