"""Runs of a matrix
================

What a matrix keeps of one run: its kernel, its machine, and what became of each property.

Evidence may come from a host that nobody trusts, and there may be ten thousand of it: each part of
a row is bounded, and equal marks are kept once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

from kvmtest.errors import printable
from kvmtest.evidence import Evidence
from kvmtest.evidence.counting import run_problem
from kvmtest.lab.survey import Surveyed
from kvmtest.properties import PROPERTIES

from .heading import machine_words, model_name
from .marks import NAMES, mark_of, mark_of_run, mark_of_verdict, marks_of

__all__ = [
    "LONGEST_LINE",
    "ORDER",
    "MatrixRun",
    "cut",
    "of_evidence",
    "of_survey",
    "shared",
    "unreadable",
]

#: The places of properties in their table.
ORDER = {row.id: number for number, row in enumerate(PROPERTIES)}
#: The marks of a run that fails, and those that a reader must see.
_FAILING = frozenset(("fail", "error"))
_BAD = _FAILING | {"inconclusive"}

#: The most characters of a name, and of a line.
LONGEST_NAME, LONGEST_LINE = 120, 400
#: The most lines about what is wrong.
_MOST_LINES = 8
#: The most properties of a run that this kvmtest does not know, and the longest id of one.
_MOST_UNKNOWN, _LONGEST_ID = 32, 64


@dataclass(frozen=True, slots=True)
class MatrixRun:
    """One run: ``marks`` are its properties' marks, ``link`` leads to its own page, if it has one.

    ``machine`` is its hostname and ``model``, or ``model`` alone. ``failure`` says why there are no
    verdicts. ``wrong`` are lines about what is not good. ``seconds`` is how long its checks took.
    """

    name: str
    kernel: str
    machine: str
    mark: str
    marks: Mapping[str, str]
    link: str = ""
    failure: str = ""
    model: str = ""
    wrong: Sequence[str] = ()
    exit_status: int | None = None
    started: str = ""
    seconds: float = 0.0

    @property
    def age(self) -> list[int]:
        """The numbers in the kernel's name, by which runs are sorted."""
        return [int(number) for number in re.findall(r"\d{1,9}", self.kernel)]

    @property
    def has_page(self) -> bool:
        """Whether the link leads to a page that has a place for each property."""
        return self.link.endswith(".html")

    @property
    def fails(self) -> bool:
        """Whether the run fails, as its exit status says, or a verdict that it should have told."""
        told = not _FAILING.isdisjoint(self.marks.values())
        return bool(self.failure) or self.mark != "pass" or told

    @property
    def is_wrong(self) -> bool:
        """Whether a reader must see it."""
        return bool(self.failure) or not _BAD.isdisjoint((self.mark, *self.marks.values()))


def of_evidence(name: str, evidence: Evidence, link: str) -> MatrixRun:
    """Return the row of a run."""
    lab = evidence.machine.lab
    host = evidence.machine.hostname or ""
    model = machine_words(evidence).partition(":")[0] if lab else model_name(evidence)
    machine = model if lab else f"{host}: {model}".lstrip(": ")
    laid = evidence.modules_laid_over
    return MatrixRun(
        name=name,
        kernel=cut(f"{evidence.kernel.release or 'unknown'}{f' with {laid}' if laid else ''}"),
        machine=cut(machine),
        mark=mark_of_run(evidence),
        marks=shared(marks_of(evidence)),
        link=link,
        model=cut(model),
        wrong=tuple(islice(_wrong(evidence), _MOST_LINES)),
        exit_status=evidence.exit_status,
        started=cut(evidence.kvmtest.started),
        seconds=sum(each.seconds for each in evidence.results),
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
        marks=shared(marks),
        failure=row.failure,
    )


def unreadable(name: str, failure: str) -> MatrixRun:
    """Return the row of a run whose evidence can't be read."""
    return MatrixRun(name, "unknown", "", "error", {}, failure=cut(failure, LONGEST_LINE))


def shared(marks: Mapping[str, str]) -> Mapping[str, str]:
    """Return equal marks as one object, in the order of the table of properties.

    Of properties that this kvmtest does not know, a few are kept.
    """
    unknown = sorted(name for name in marks if name not in ORDER and len(name) <= _LONGEST_ID)
    known = sorted((name for name in marks if name in ORDER), key=ORDER.__getitem__)
    return _shared(tuple((name, marks[name]) for name in known + unknown[:_MOST_UNKNOWN]))


def cut(text: str, most: int = LONGEST_NAME) -> str:
    """Return text in one line of at most ``most`` characters, without what a terminal obeys."""
    # What is cut away is not looked at: it may be megabytes.
    line = printable(" ".join(text[: 2 * most].split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _wrong(evidence: Evidence) -> Iterator[str]:
    """Give a line for the run's own problem, and for each property that is not good."""
    if problem := run_problem(evidence):
        yield cut(problem, LONGEST_LINE)
    for each in evidence.results:
        mark = mark_of(each, strict=evidence.strict)
        if mark in _BAD:
            yield cut(f"{each.id}: {NAMES[mark]}: {each.reason}", LONGEST_LINE)


@cache
def _shared(marks: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(marks)
