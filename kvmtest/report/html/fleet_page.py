"""The pages of a fleet
====================

A row a host and a column a kernel. Hosts with the same outcome are folded to one row. A small fleet
is one page, with a row a run and a column a property below; a large one has pages of hosts, and for
each kernel those of properties.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmtest import __version__
from kvmtest.report.fleet_run import FleetRun, by_host, kernels
from kvmtest.report.marks import NAMES

from .matrix_page import LARGE, MOST_MACHINES, ROWS, Page, Rows, matrix_pages, pages_of
from .rendering import render

__all__ = ["fleet_pages"]

#: The most hosts of one page; more have pages of their own.
_HOSTS = 100
#: The most runs without a result, or not good, that are told one by one.
_TOLD = 100
#: The marks that a reader must see, the worst first.
_BAD = ("fail", "error", "inconclusive")


class Count(NamedTuple):
    """A mark, and how many properties of a run have it."""

    mark: str
    number: int


class Outcome(NamedTuple):
    """A run in its cell: a word if there are no verdicts, else counts of marks."""

    word: str
    counts: tuple[Count, ...] = ()
    link: str = ""
    times: int = 1


class Cell(NamedTuple):
    """The runs of one kernel on a host; ``mark`` is that of the worst."""

    mark: str
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host: its machine and a cell a kernel, None where the plan has no run of it."""

    name: str
    machine: str
    cells: Sequence[Cell | None]
    place: str
    is_wrong: bool
    likeness: object
    """Equal where rows may be folded to one."""


class Told(NamedTuple):
    """What is not good in one run, or why a host has none of several kernels."""

    host: str
    kernels: str
    link: str
    lines: Sequence[str]


class HostGroup(NamedTuple):
    """Hosts with the same outcomes, and the cells of all."""

    hosts: Sequence[HostRow]
    cells: Sequence[Cell | None]

    @property
    def first(self) -> HostRow:
        """The host whose outcomes are shown for all."""
        return self.hosts[0]


def fleet_pages(runs: Sequence[FleetRun], page: str, folder: str) -> Iterator[Page]:
    """Give the pages of a fleet: ``page``, and those of a large one in ``folder``.

    Links of runs are relative to the folder of ``page``. Raises EnvironmentUnfit if Jinja2 is
    missing.
    """
    names, hosts = kernels(runs), list(by_host(runs).items())
    is_large = len(hosts) > _HOSTS or len(runs) > LARGE
    parts = list(pages_of(hosts, "hosts.html", _HOSTS if is_large else len(hosts) or 1))
    rows = [
        [
            _row(host, mine, names, f"{folder}/{here.name}#h{at}" if is_large else "")
            for at, (host, mine) in enumerate(part)
        ]
        for here, part in parts
    ]
    machines = sorted({row.machine for part in rows for row in part})
    if not 1 < len(machines) <= MOST_MACHINES:
        machines = []
    wrong = [each for each in runs if each.is_wrong]
    told = _told(wrong)
    pages = [f"{folder}/kernel-{number}.html" for number in range(len(names))]
    values = {
        "version": __version__,
        "names": NAMES,
        "kernels": list(zip(names, pages if is_large else [""] * len(pages), strict=True)),
        "machines": machines,
        "places": {name: at for at, name in enumerate(machines)},
        "hosts": len(hosts),
        "count": len(runs),
        "wrong": len(wrong),
        "is_large": is_large,
        "told": told[:_TOLD],
        "untold": len(told) - _TOLD,
        "gaps": Counter(each.gap for each in runs if each.gap),
        "listed": [(part[0], part[-1]) for part in rows if is_large],
        "table": None if is_large else Rows.of([each.run for each in runs]),
        "prefix": "",
    }
    groups = _groups(row for part in rows for row in part)
    for here, shown in pages_of(groups, page, ROWS):
        yield Page(here.name, render("fleet.html", **values, groups=shown, pages=here))
    if not is_large:
        return
    up = "../"
    back = f"{up}{page}"
    for (here, _), part in zip(parts, rows, strict=True):
        own = {"rows": part, "pages": here, "prefix": up, "back": back}
        html = render("hosts.html", **{**values, **own})
        yield Page(f"{folder}/{here.name}", html)
    for name, first in zip(names, pages, strict=True):
        of_kernel = [each.run for each in runs if each.kernel == name]
        yield from matrix_pages(of_kernel, first, heading=name, prefix=up, back=back)


def _told(wrong: Iterable[FleetRun]) -> list[Told]:
    """Return what is to be told of runs that are not good; runs without evidence come first."""
    gaps: dict[tuple[str, str], list[str]] = {}
    told = []
    for each in wrong:
        if each.gap:
            gaps.setdefault((each.host, each.run.failure), []).append(each.kernel)
        else:
            lines = [each.run.failure] if each.run.failure else each.run.wrong
            told.append(Told(each.run.name, each.kernel, each.run.link, lines))
    missing = [
        Told(host, ", ".join(dict.fromkeys(names)), "", [failure])
        for (host, failure), names in gaps.items()
    ]
    return missing + told


def _row(host: str, runs: Iterable[FleetRun], names: Sequence[str], place: str) -> HostRow:
    mine: dict[str, list[FleetRun]] = {name: [] for name in names}
    for each in runs:
        mine[each.kernel].append(each)
    listed = [each for of_kernel in mine.values() for each in of_kernel]
    machine = next((each.run.machine for each in listed if each.run.machine), "")
    cells = [_cell(of_kernel) if of_kernel else None for of_kernel in mine.values()]
    # What is not good is alike only if the same properties are.
    likeness = tuple(
        (each.kernel, _outcome(each)._replace(link=""), each.is_wrong and id(each.run.marks))
        for each in listed
    )
    return HostRow(host, machine, cells, place, any(e.is_wrong for e in listed), likeness)


def _cell(runs: Sequence[FleetRun]) -> Cell:
    marks = [_mark(each) for each in runs]
    worst = next((mark for mark in _BAD if mark in marks), marks[0])
    return Cell(worst, [_outcome(each) for each in runs])


def _mark(each: FleetRun) -> str:
    """Return the class of a run: "error" where there are no verdicts."""
    if each.gap or each.run.failure:
        return "error"
    marks = {each.run.mark, *each.run.marks.values()}
    return next((mark for mark in _BAD if mark in marks), each.run.mark)


def _outcome(each: FleetRun) -> Outcome:
    run = each.run
    if each.gap or run.failure:
        return Outcome(each.gap or "unreadable")
    counts = Counter(run.marks.values())
    shown = [run.mark, *(mark for mark in _BAD if counts[mark] and mark != run.mark)]
    return Outcome("", tuple(Count(mark, counts[mark]) for mark in shown), run.link)


def _groups(rows: Iterable[HostRow]) -> list[HostGroup]:
    """Return the hosts with the same outcomes together, those that are not good first."""
    found: dict[tuple[Any, ...], list[HostRow]] = {}
    for row in rows:
        found.setdefault((not row.is_wrong, row.machine, row.likeness), []).append(row)
    return [
        HostGroup(hosts, [cell and _folded(cell) for cell in hosts[0].cells])
        for _, hosts in sorted(found.items(), key=lambda item: item[0][:2])
    ]


def _folded(cell: Cell) -> Cell:
    """Return a cell in which equal runs are counted, and nothing links to a single one."""
    times = Counter(outcome._replace(link="") for outcome in cell.outcomes)
    return Cell(cell.mark, [each._replace(times=count) for each, count in times.items()])
