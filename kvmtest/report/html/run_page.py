"""The page of one run
===================

What the page shows, chosen from evidence; templates/run.html says where.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmtest import __version__
from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.coding import encode
from kvmtest.evidence.counting import run_problem
from kvmtest.evidence.statements import Statement, power, statements, words
from kvmtest.findings import reference
from kvmtest.judge import Reading, Role, Scalar, Verdict, readings_against
from kvmtest.judge.leak import CONCLUDED
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES, Property
from kvmtest.report.heading import cpu_name, machine_words
from kvmtest.report.marks import NAMES, mark_of, mark_of_run
from kvmtest.report.repeat import command, command_of
from kvmtest.report.sentence import sentence, summary
from kvmtest.report.telling import telling

from .excess_figure import excess_figure
from .log_excerpt import dump_of
from .rendering import render
from .source import Source
from .windows_figure import WindowsFigure, windows_figure

__all__ = ["run_page"]

_ROWS = {row.id: row for row in PROPERTIES}
#: The marks that a reader must see first, in their order.
_WRONG = ("fail", "error", "inconclusive", "known")
#: The most readings whose lines of the log are shown.
_EXCERPTS = 4


class SameReadings(NamedTuple):
    """Equal readings as one row; ``others`` are how many more there are."""

    reading: Reading
    others: int

    @property
    def raw(self) -> Mapping[str, Scalar]:
        """The raw part of the first one, without the judge's own mark."""
        return {name: value for name, value in self.reading.raw.items() if name != CONCLUDED}


@dataclass(frozen=True, slots=True)
class WitnessPart:
    """What one witness said of a property, with its readings."""

    statement: Statement
    observes: str
    claims: Sequence[SameReadings]
    controls: Sequence[SameReadings]
    figures: Sequence[SameReadings]


@dataclass(frozen=True, slots=True)
class PropertyPart:
    """One property on the page. ``mark`` is its class, and ``anchor`` what links lead to."""

    result: Result
    anchor: str
    mark: str
    row: Property | None
    words: str
    witnesses: Sequence[WitnessPart]
    telling: Sequence[str]
    finding: str
    excerpt: Sequence[str]
    samples: int
    figure: WindowsFigure | None
    undrawn: str
    again: str

    @property
    def is_wrong(self) -> bool:
        """Whether the reader must see it first."""
        return self.mark in _WRONG


class Family(NamedTuple):
    """Properties whose ids begin alike."""

    name: str
    parts: Sequence[PropertyPart]


class Wanting(NamedTuple):
    """A property that wants something missing; its anchor, "" if that is at another place."""

    id: str
    anchor: str


class Undecided(NamedTuple):
    """A reason for SKIP, how to get what is missing, and the properties that want it."""

    what: str
    remedy: str
    wanting: Sequence[Wanting]


class Headline(NamedTuple):
    """The run in one sentence, its first word apart."""

    verdict: str
    words: str


class SameChanges(NamedTuple):
    """Equal changes of the host; ``undone`` is None where that was not recorded."""

    sentence: str
    times: int
    writes: int
    undone: bool | None


def run_page(evidence: Evidence, source: Source) -> str:
    """Return the page of one run. Raises EnvironmentUnfit if Jinja2 is missing."""
    return render("run.html", **_values(evidence, source))


def _values(evidence: Evidence, source: Source) -> Mapping[str, Any]:
    parts = list(_parts(evidence, source))
    decided = [part for part in parts if part.result.verdict is not Verdict.SKIP]
    about = {
        "evidence": evidence,
        "source": source,
        "machine": machine_words(evidence),
        "cpu": cpu_name(evidence),
        "build": _build(evidence),
        "version": __version__,
        "names": NAMES,
        "headline": Headline(*sentence(evidence).split(": ", 1)),
        "mark": mark_of_run(evidence),
        "summary": summary(evidence),
        "problem": run_problem(evidence),
        "again": command(evidence),
        "unmet": [each for each in evidence.requirements or () if not each.met],
    }
    wrong = sorted(
        (part for part in parts if part.is_wrong),
        key=lambda part: _WRONG.index(part.mark),
    )
    values = {
        **about,
        "parts": parts,
        "decided": decided,
        "families": _families(parts),
        "wrong": wrong,
        "power": power(r for r in evidence.results if r.verdict is Verdict.PASS),
        "excess": excess_figure(evidence.results),
        "anchors": {part.result.id: part.anchor for part in parts},
        "undecided": _undecided(parts),
        "changes": _changes(evidence),
        "host": encode(evidence.host),
        "kernel": encode(evidence.kernel),
        "of_machine": encode(evidence.machine),
    }
    return {**values, "mail": render("mail.txt", **values).strip() + "\n"}


def _build(evidence: Evidence) -> str:
    """Return which build of the kernel it is, and of which commit, as far as that is known."""
    kernel, lab = evidence.kernel, evidence.machine.lab
    built = (lab and lab.details and lab.details.kernel) or kernel.version_string or kernel.release
    commit = f"commit {kernel.commit}" if kernel.commit else ""
    return ", ".join(filter(None, (built or kernel.missing, commit)))


def _parts(evidence: Evidence, source: Source) -> Iterator[PropertyPart]:
    anchors: set[str] = set()
    for number, result in enumerate(evidence.results):
        is_usual = result.id in _ROWS and result.id not in anchors
        anchor = result.id if is_usual else f"result-{number}"
        anchors.add(anchor)
        figure, undrawn = _figure(result)
        yield PropertyPart(
            result=result,
            anchor=anchor,
            mark=mark_of(result, strict=evidence.strict),
            row=_ROWS.get(result.id),
            words=words(result),
            witnesses=[_witness(each) for each in statements(result)],
            telling=telling(result),
            finding=reference(result.known_defect) if result.known_defect else "",
            excerpt=list(_excerpt(result, source.log)),
            samples=sum(each.role is Role.SAMPLE for each in result.readings),
            figure=figure,
            undrawn=undrawn,
            again=command_of(evidence, result.id),
        )


def _figure(result: Result) -> tuple[WindowsFigure | None, str]:
    """Return the figure of a result's windows, or why there is none where there are samples."""
    try:
        return windows_figure(result), ""
    except (ArithmeticError, KeyError, ValueError) as error:
        return None, f"its samples can't be drawn ({error})"


def _witness(statement: Statement) -> WitnessPart:
    known = WITNESSES.get(statement.witness)
    return WitnessPart(
        statement,
        known.observes if known else "",
        _same(statement.claims),
        _same(statement.controls),
        _same(statement.figures),
    )


def _same(readings: Iterable[Reading]) -> list[SameReadings]:
    """Return equal readings as one, those that do not hold first."""
    found: dict[tuple[str, str], list[Reading]] = {}
    for each in sorted(readings, key=lambda each: each.role is Role.MEASURE or each.agrees):
        found.setdefault((str(each), each.remedy), []).append(each)
    return [SameReadings(same[0], len(same) - 1) for same in found.values()]


def _excerpt(result: Result, log: Sequence[str]) -> Iterator[str]:
    """Give the lines of the kernel log behind a FAIL: the dumps of VMCSs, and warnings."""
    if result.verdict is not Verdict.FAIL:
        return
    for each in readings_against(result.readings)[:_EXCERPTS]:
        if headlines := each.raw.get("headlines"):
            yield from str(headlines).splitlines()
        if base := each.raw.get("fs_base"):
            yield from dump_of(str(base), log)


def _families(parts: Sequence[PropertyPart]) -> list[Family]:
    """Return the properties by the first words of their ids, in the order of their first ones."""
    found: dict[str, list[PropertyPart]] = {}
    for part in parts:
        found.setdefault(part.result.id.rpartition(".")[0] or part.result.id, []).append(part)
    return [Family(name, each) for name, each in found.items()]


def _undecided(parts: Iterable[PropertyPart]) -> list[Undecided]:
    """Return the reasons for SKIP with the properties of each, the most frequent first."""
    found: dict[Missing, list[Wanting]] = {}
    for part in parts:
        if part.result.verdict is Verdict.SKIP:
            missing = dict.fromkeys(part.result.missing) or [Missing(part.result.reason)]
            for number, each in enumerate(missing):
                anchor = "" if number else part.anchor
                found.setdefault(each, []).append(Wanting(part.result.id, anchor))
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [Undecided(each.what, each.remedy, members) for each, members in ordered]


def _changes(evidence: Evidence) -> list[SameChanges]:
    found: dict[tuple[str, bool | None], list[int]] = {}
    for each in evidence.journal.changes:
        found.setdefault((each.sentence, each.undone), []).append(each.writes or 1)
    return [
        SameChanges(sentence, len(writes), sum(writes), undone)
        for (sentence, undone), writes in found.items()
    ]
