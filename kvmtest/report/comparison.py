"""Comparison
==========

What changed between two runs, or between the runs of two folders: for a person, and as JSON.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.change import Change
from kvmtest.evidence.compare import Comparison, Difference, PropertyComparison
from kvmtest.evidence.pairs import Pairs
from kvmtest.evidence.statements import SmmCount, Statement, statements, words
from kvmtest.findings import reference
from kvmtest.judge import Verdict

from .heading import machine_line
from .sentence import number_of
from .terminal import console, grouped
from .wrapping import WIDTH, headed, wrapped

__all__ = ["SCHEMA", "as_json", "lines", "show"]

#: Name and version of the JSON; a change that old readers would misread raises the number.
SCHEMA = "kvmtest-comparison/1"

_STYLES = {
    Change.REGRESSION: "bold red",
    Change.NEW_FAILURE: "bold red",
    Change.STILL_FAILING: "red",
    Change.DISAPPEARED: "bold yellow",
    Change.APPEARED: "yellow",
    Change.UNDECIDED: "yellow",
    Change.FIXED: "bold green",
    Change.NEW_PASS: "bold green",
    Change.SAME: "",
}
_BEST_FIRST = (Change.FIXED, Change.NEW_PASS, Change.SAME, *Change)
#: Has room for a word and the longest id, which are never broken.
_NARROWEST = 50
_INDENT = 5
_COLUMN = max(map(len, Change)) + 2
#: The most runs that a line names.
_NAMED = 8


@dataclass(frozen=True, slots=True)
class _Row:
    """A change that one or more pairs of runs show; ``first`` is one of them."""

    first: PropertyComparison
    names: Sequence[str]
    is_expected: bool


def show(pairs: Pairs, *, verbose: bool = False) -> None:
    """Print a comparison to stdout; ``verbose`` as of :func:`lines`."""
    screen = console()
    for line in lines(pairs, width=screen.width, verbose=verbose):
        screen.print(line, soft_wrap=True)


def lines(pairs: Pairs, *, width: int = WIDTH, verbose: bool = False) -> list[Text]:
    """Return the lines of a comparison; ``width`` is at least 50, and only longer words are broken.

    The reason of a PASS is cut to a line. ``verbose``: nothing is cut, and every other difference
    is told, numbers included.
    """
    page = _Page(pairs, max(width, _NARROWEST), is_cut=not verbose)
    blocks = [page.head(), *page.not_comparable(), *page.changes(), page.expected(), page.gaps()]
    if verbose:
        blocks += page.everything()
    return [line for block in blocks if block for line in (*block, Text())][:-1]


class _Page:
    """The parts of a comparison, as lines."""

    def __init__(self, pairs: Pairs, width: int, *, is_cut: bool) -> None:
        self._pairs = pairs
        self._width = width
        self._is_cut = is_cut
        self._rows = _rows(pairs)

    def head(self) -> list[Text]:
        """Return the outcome with the exit status, what was compared, and the counts."""
        status = self._pairs.status
        style = "bold green" if status == 0 else "bold red"
        told = headed(_sentence(self._pairs), status, self._width, style)
        every = self._pairs.comparisons.values()
        compared = self._pairs.compared.values()
        for title, facts in (
            ("old", [_kernel(each.old) for each in every]),
            ("new", [_kernel(each.new) for each in every]),
            ("on", [_machines(each) for each in every]),
            ("also", [str(besides) for each in compared for besides in each.besides]),
        ):
            distinct = list(dict.fromkeys(facts))
            for fact in distinct[:_NAMED]:
                told += self._titled(title, fact)
            if len(distinct) > _NAMED:
                told += self._titled(title, f"{len(distinct) - _NAMED} more")
        return told

    def not_comparable(self) -> Iterator[list[Text]]:
        """Give each pair that can't be compared, and why."""
        for name, reasons in self._pairs.not_comparable.items():
            told = self._wrapped(f"not comparable: {name}") if name else []
            for reason in reasons:
                told += self._wrapped(reason, _INDENT * bool(name))
            yield told

    def changes(self) -> Iterator[list[Text]]:
        """Give each change; those without one are folded to a line each."""
        folded: Counter[Change] = Counter()
        for row in self._rows:
            if _is_told(row.first):
                yield self._change(row)
            else:
                folded[row.first.change] += 1
        yield [Text(f"{word:<{_COLUMN}}{_properties(n)}") for word, n in folded.items()]

    def _change(self, row: _Row) -> list[Text]:
        each = row.first
        verdicts = f"{_verdict(each.before)} -> {_verdict(each.after)}"
        is_known = each.after is not None and each.after.is_known_failure
        tags = " (known)" * is_known + " (expected)" * row.is_expected
        style = "" if row.is_expected else _STYLES[each.change]
        line = Text.assemble((f"{each.change:<{_COLUMN}}", style), each.id)
        last = f"{verdicts}{tags}"
        gap = min(self._width, WIDTH) - len(line) - len(last)
        told = [line.append(" " * max(gap, 2) + last)] if gap > 1 else [line, self._at_end(last)]
        if row.names != [""]:
            of = f"; here {row.names[0]}" if len(row.names) > 1 else ""
            told += self._wrapped(f"in {_named(row.names)}{of}", _INDENT)
        sides = [("old", self._said(each.before)), ("new", self._said(each.after))]
        if sides[0][1] == sides[1][1]:
            sides = [("both", sides[0][1])]
        for title, texts in sides:
            for number, text in enumerate(texts):
                told += self._titled("" if number else title, text, _INDENT)
        return told

    def _said(self, result: Result | None) -> list[str]:
        """Return what a run says of a property: its witnesses' figures, and the reason."""
        if not result:
            return []
        finding = reference(result.known_defect)
        known = f"known defect, see {finding}" if result.is_known_failure else ""
        reason = result.reason
        if self._is_cut and result.verdict is Verdict.PASS:
            room = min(self._width, WIDTH) - 2 * _INDENT
            reason = textwrap.shorten(reason, room, placeholder=" …", break_on_hyphens=False)
        return [text for text in (words(result), known, reason) if text]

    def expected(self) -> list[Text]:
        """Return what became of each expected change."""
        told: list[Text] = []
        for each, why in self._pairs.expectations if self._pairs.compared else ():
            text = f"not as expected: {each}: {why}" if why else f"as expected: {each}"
            told += self._wrapped(text, style="bold red" if why else "")
        return told

    def gaps(self) -> list[Text]:
        """Return the runs that have no counterpart, or that show no lack of regressions."""
        told: list[Text] = []
        for why, names in grouped(self._pairs.gaps).items():
            told += self._wrapped(why if names == [""] else f"{_named(names)}: {why}")
        if self._pairs.only_new:
            told += self._wrapped(f"there is no old run of {_named(self._pairs.only_new)}")
        return told

    def everything(self) -> Iterator[list[Text]]:
        """Give every difference of each pair."""
        for name, compared in self._pairs.comparisons.items():
            told = [Text(name or "every difference", "bold")]
            for text in compared.lines(figures=True):
                told += self._wrapped(text, _INDENT)
            yield told

    def _titled(self, title: str, text: str, indent: int = 0) -> list[Text]:
        """Return a text behind a title."""
        told = self._wrapped(text, indent + _INDENT)
        told[0] = Text(f"{'':{indent}}{title:<{_INDENT}}{told[0].plain.lstrip()}")
        return told

    def _wrapped(self, text: str, indent: int = 0, *, style: str = "") -> list[Text]:
        return wrapped(text, self._width, " " * indent, style=style)

    def _at_end(self, text: str) -> Text:
        return Text(f"{text:>{min(self._width, WIDTH)}}")


def _rows(pairs: Pairs) -> list[_Row]:
    """Return the changes, what needs attention first, each with the names of the runs."""
    found: dict[tuple[object, ...], tuple[PropertyComparison, list[str]]] = {}
    for name, compared in pairs.compared.items():
        for each in compared.properties:
            known = each.after and each.after.known_defect
            key = each.change, each.id, each.old, each.new, known
            found.setdefault(key, (each, []))[1].append(name)
    rows = (_Row(first, names, pairs.is_expected(first)) for first, names in found.values())
    order = list(Change)
    return sorted(rows, key=lambda row: (row.is_expected, order.index(row.first.change)))


def _is_told(each: PropertyComparison) -> bool:
    """Whether a property has lines of its own: it changed, or it fails still."""
    return each.is_changed or each.change is Change.STILL_FAILING


def _sentence(pairs: Pairs) -> str:
    """Return the outcome, which begins with a word for it."""
    is_one = "" in pairs.comparisons or "" in pairs.unread
    runs = len(pairs.comparisons) + len(pairs.unread) + len(pairs.only_old)
    if lost := pairs.regressions:
        hit = len({name for name, _ in lost})
        where = "" if is_one else f" in {hit} of {number_of(runs, 'run')}"
        return f"REGRESSION: {_properties(len({each.id for _, each in lost}))}{where}"
    if refused := pairs.not_comparable:
        differ = "formats" if pairs.unread else "machines"
        where = f"{len(refused)} of {number_of(runs, 'run')}: " if not is_one else ""
        return f"NOT COMPARABLE: {where}the {differ} differ"
    if pairs.unmet:
        return f"NOT AS EXPECTED: {', '.join(map(str, pairs.unmet))}"
    if pairs.status:
        silent = f"{len(pairs.gaps)} of {number_of(runs, 'run')} can't show that nothing regressed"
        return f"UNDECIDED: {pairs.gaps.get('', 'there is nothing') if is_one else silent}"
    counts = Counter(
        each.change for compared in pairs.compared.values() for each in compared.properties
    )
    told = [f"{counts[word]} {word}" for word in dict.fromkeys(_BEST_FIRST) if counts[word]]
    return f"NO REGRESSION: {', '.join(told)}"


def _kernel(evidence: Evidence) -> str:
    laid = evidence.modules_laid_over
    over = f" with {laid} laid over its own" if laid else ""
    return f"Linux {evidence.kernel.release or 'unknown'}{over}"


def _machines(compared: Comparison) -> str:
    names = dict.fromkeys(machine_line(each) for each in (compared.old, compared.new))
    return " -> ".join(names)


def _verdict(result: Result | None) -> str:
    return result.verdict.value if result else "no result"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return f"{', '.join(names[:_NAMED])}{f' and {more} more' * (more > 0)}"


def _properties(count: int) -> str:
    return number_of(count, "property", "properties")


def as_json(pairs: Pairs) -> dict[str, Any]:
    """Return a comparison as a JSON object."""
    return {
        "schema": SCHEMA,
        "exit_status": pairs.status,
        "runs": [
            *(_compared(name, each, pairs) for name, each in pairs.comparisons.items()),
            *(
                {"name": name, "comparable": False, "not_comparable": [why]}
                for name, why in pairs.unread.items()
            ),
        ],
        "only_old": list(pairs.only_old),
        "only_new": list(pairs.only_new),
        "expected": [
            {"text": str(each), "met": not why, "reason": why} for each, why in pairs.expectations
        ],
    }


def _compared(name: str, compared: Comparison, pairs: Pairs) -> dict[str, Any]:
    is_comparable = name in pairs.compared
    counts = Counter(each.change for each in compared.properties)
    return {
        "name": name,
        "comparable": is_comparable,
        "not_comparable": pairs.not_comparable.get(name, []),
        "gap": pairs.gaps.get(name, ""),
        "old": _run(compared.old),
        "new": _run(compared.new),
        "differences": [_difference(each) for each in compared.about],
        "counts": {word: counts[word] for word in Change},
        "properties": [
            {
                "id": each.id,
                "change": each.change,
                "expected": pairs.is_expected(each),
                "old": _result(each.before),
                "new": _result(each.after),
                "differences": [_difference(d) for d in each.differences],
            }
            for each in compared.properties
        ]
        if is_comparable
        else [],
    }


def _run(evidence: Evidence) -> dict[str, Any]:
    return {
        "kernel": evidence.kernel.release,
        "machine": evidence.machine_name,
        "kvmtest": evidence.kvmtest.version,
        "started": evidence.kvmtest.started,
        "interrupted": evidence.kvmtest.interrupted,
        "exit_status": evidence.exit_status,
    }


def _result(result: Result | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "verdict": result.verdict,
        "reason": result.reason,
        "known_defect": result.known_defect,
        "said": words(result),
        "witnesses": [_witness(each) for each in statements(result)],
    }


def _witness(said: Statement) -> dict[str, Any]:
    """Return the figures of a witness."""
    return {
        "witness": said.witness,
        "claims": len(said.claims),
        "held": said.held,
        "controls": len(said.controls),
        "controls_held": said.controls_held,
        "doubt": said.doubt,
        "absent": [str(each.missing) for each in said.absences],
        "per_smi": [_per_smi(each) for each in said.counts],
    }


def _per_smi(count: SmmCount) -> dict[str, Any]:
    return {
        "counter": count.counter,
        "state": count.state,
        "holds": count.holds,
        "freeze_off": count.off and count.off._asdict(),
        "freeze_on": count.on and count.on._asdict(),
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {"name": difference.name, "old": difference.old, "new": difference.new}
