"""One screen
==========

What a run ends with, made from its evidence: a sentence with the exit status, what needs attention
with its reason, a line for each property that was decided, and what was not decided, by reason. At
80 columns it has at most 38 lines; ``-v`` prints the tables of kvmtest.report.terminal instead.
"""

from collections.abc import Iterable, Sequence

from rich.text import Text

from kvmtest.errors import printable
from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import is_excused
from kvmtest.evidence.statements import SEPARATOR, power, statements, words
from kvmtest.findings import command
from kvmtest.judge import Verdict
from kvmtest.properties import PROPERTIES

from .heading import machine_line
from .sentence import OF_VMX, number_of, sentence, summary
from .terminal import STYLES, console, grouped
from .wrapping import WIDTH, headed, wrapped

__all__ = ["LINES", "screen", "show_screen"]

#: The most lines, at WIDTH: 40 with the two that ``make run`` prints before them.
LINES = 38

_KNOWN = "KNOWN"
_STYLES = {**{verdict.value: style for verdict, style in STYLES.items()}, _KNOWN: "yellow"}
_ATTENTION = (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE)
_INDENT = " " * 5
#: How many reasons why properties were not decided are told: with enough room, and without.
_REASONS, _FEW_REASONS = 6, 2
_SECOND_CPU = {p.id for p in PROPERTIES if "second-cpu" in p.asks}

Lines = list[Text]
Forms = Sequence[Lines]
"""A part of the screen: its full form, then ever shorter ones."""


def show_screen(
    evidence: Evidence, where: str = "", status: int | None = None, *, problems: bool = True
) -> None:
    """Print the screen to stdout; the parameters are those of :func:`screen`."""
    printer = console()
    for line in screen(evidence, where, status, width=printer.width, problems=problems):
        printer.print(line, soft_wrap=True)


def screen(
    evidence: Evidence,
    where: str = "",
    status: int | None = None,
    *,
    width: int = WIDTH,
    problems: bool = True,
) -> Lines:
    """Return the lines of the screen, which fit the width.

    ``where`` is the folder or file of the evidence, "" if none was kept. ``status`` is the exit
    status if it is not the evidence's. ``problems`` of the run are shown unless they were already.
    """
    page = _Page(evidence, where, max(width, 24))
    head = page.head(evidence.exit_status if status is None else status, problems=problems)
    parts = [page.attention(), page.decided(), page.undecided()]
    attention, decided, undecided = range(3)
    legend, known, foot = page.legend(), page.known(), page.foot()
    at = [0] * len(parts)

    def lines(*, airy: bool = True) -> Lines:
        first, second, last = (forms[chosen] for forms, chosen in zip(parts, at, strict=True))
        tight = [head, [*first, *second, *legend, *known], [*last, *foot]]
        loose = [head, first, [*second, *legend], known, last, foot]
        blocks = [block for block in (loose if airy else tight) if block]
        return [line for block in blocks for line in (*block, Text())][:-1]

    if width < WIDTH or len(lines()) <= LINES:
        return lines()
    for part in (undecided, decided, attention):
        while len(lines(airy=False)) > LINES and at[part] + 1 < len(parts[part]):
            at[part] += 1
    return lines(airy=False)


class _Page:
    """The parts of the screen, each wrapped to the width."""

    def __init__(self, evidence: Evidence, where: str, width: int) -> None:
        self._evidence = evidence
        self._where = where
        self._more = f"kvmtest report {where} -v" if where else "run with -v"
        self._width = width
        results = evidence.results
        self._known = [r for r in results if is_excused(r, strict=evidence.strict)]
        rest = [r for r in results if r not in self._known]
        self._broken = sorted(
            (r for r in rest if r.verdict in _ATTENTION), key=lambda r: _ATTENTION.index(r.verdict)
        )
        self._decided = [r for r in rest if r.verdict in (Verdict.PASS, Verdict.MEASURED)]
        self._skipped = [r for r in rest if r.verdict is Verdict.SKIP]
        self._column = self._best_column([*self._decided, *self._broken, *self._known])

    def head(self, status: int, *, problems: bool) -> Lines:
        """Return the sentence with the exit status, the machine, what counts, and problems."""
        evidence = self._evidence
        said = sentence(evidence)
        style = _STYLES.get(said.partition(":")[0], "bold yellow")
        lines = headed(said, status, self._width, style)
        lines += self._wrapped(machine_line(evidence))
        if laid := evidence.modules_laid_over:
            lines += self._wrapped(f"KVM laid over the kernel's own: {laid}")
        lines += self._wrapped(summary(evidence))
        failures = [f"not undone: {line}" for line in evidence.journal.failures]
        for problem in [*failures, *(evidence.kvmtest.problems or ())] * problems:
            lines += self._wrapped(problem, style="bold red")
        for each in evidence.requirements or ():
            if not each.met:
                lines += self._wrapped(
                    f"--require {each.text} is not met: {each.reason}", style="bold"
                )
        return lines

    def attention(self) -> Forms:
        """Return what is broken or undecided: in full, then ever more of it without reasons."""
        full = [[*self._line(r), *self._reason(r)] for r in self._broken]
        short = [self._line(r)[:1] for r in self._broken]
        forms = [_flat(full)]
        for at in reversed(range(len(full))):
            said = f"the reasons of the last {len(full) - at}: {self._more}"
            forms.append([*_flat(full[:at]), *_flat(short[at:]), *self._wrapped(said, _INDENT)])
        return [*forms, self._ids(self._broken)]

    def decided(self) -> Forms:
        """Return what passed or was measured: a line each, or of ever more the id alone."""
        found = self._decided
        lines = [self._line(r) for r in found]
        return [[*_flat(lines[:at]), *self._ids(found[at:])] for at in range(len(found), -1, -1)]

    def legend(self) -> Lines:
        """Return what the figures of leaks mean."""
        lines: Lines = []
        leaks = any(s.worst for r in self._evidence.results for s in statements(r))
        seen = power(r for r in self._decided if r.verdict is Verdict.PASS)
        if leaks:
            told = (
                'leak: events per SMI with freeze on ("off": off again), of those with freeze off'
            )
            lines += self._wrapped(told, style="dim")
        if seen:
            lines += self._wrapped(f"would be seen: {seen}", style="dim")
        return lines

    def known(self) -> Lines:
        """Return the known defects that show, and those that don't."""
        lines: Lines = []
        for result in self._known:
            lines += self._line(result)
            lines += self._wrapped(f"known defect: {_finding(result)}", _INDENT)
        for result in self._decided:
            if result.known_defect:
                said = f"{result.id}: a known defect does not show: {_finding(result)}"
                lines += self._wrapped(said)
        return lines

    def undecided(self) -> Forms:
        """Return the reasons why properties were not decided, or a witness was not asked."""
        reasons = {r.id: ("", *_missing(r)) for r in self._skipped}
        rows = grouped(reasons)
        for result in (*self._decided, *self._broken, *self._known):
            for each in dict.fromkeys(result.absences):
                why = (f"{each.witness} not asked: ", each.missing.what, each.missing.remedy)
                rows.setdefault(why, []).append(result.id)
        ordered = sorted(rows.items(), key=lambda row: -len(row[1]))
        return [self._rows(ordered, most) for most in (_REASONS, _FEW_REASONS)]

    def _rows(self, rows: Sequence[tuple[tuple[str, str, str], list[str]]], most: int) -> Lines:
        """Return for each reason how many properties it concerns, and of which areas."""
        if not rows:
            return []
        if len(rows) == most + 1:
            most += 1  # One more takes as much room as saying that there is one more.
        lines = [Text("Not decided:" if self._skipped else "Not asked:", "bold")]
        areas = [_areas(ids) for _, ids in rows]
        wide = max(map(len, areas[:most]))
        for ((who, what, remedy), ids), area in zip(rows[:most], areas, strict=False):
            line = f"{len(ids):>4} {area:<{wide}}  {who}"
            room = self._width - len(line)
            both = f"{what}; {remedy}"
            lines.append(Text(line + _cut(both if remedy and len(both) <= room else what, room)))
        if len(rows) > most:
            more = number_of(len(rows) - most, "more reason")
            lines.append(Text(f"     and {more}: {self._more}"))
        return lines

    def foot(self) -> Lines:
        """Return what became of the host's changes, what to do next, and where the evidence is."""
        journal, where = self._evidence.journal, self._where
        undone = "all undone" if not journal.failures else f"{len(journal.failures)} NOT UNDONE"
        changes = f"{number_of(len(journal.changes), 'change')}, {undone}."
        host = f"Host: {changes if journal.changes else 'nothing changed.'}"
        kept = f"Evidence: {where or 'not kept (-o DIR keeps it).'}"
        following = self._next()
        lines = [host, kept, f"Next: {following}" if following else ""]
        both = f"{host} {kept}"
        if len(both) <= min(self._width, WIDTH):
            lines = [both, lines[2]]
        return [Text(printable(line)) for line in lines if line]

    def _next(self) -> str:
        lab = self._evidence.machine.lab
        if lab:
            cpus = lab.details and lab.details.cpus
            alone = cpus == 1 and any(r.id in _SECOND_CPU for r in self._skipped)
            return "kvmtest lab run --cpus 2" if alone else ""
        skipped = [r for r in self._skipped if r.id.startswith(OF_VMX)]
        decided = (*self._decided, *self._broken, *self._known)
        none = skipped and not any(r.id.startswith(OF_VMX) for r in decided)
        return "kvmtest lab run, for the properties of VMX" if none else ""

    def _line(self, result: Result) -> Lines:
        """Return a result's verdict, id and what its witnesses said, on one line if they fit."""
        mark = self._mark(result)
        line = Text.assemble((mark, _STYLES[mark.strip()]), result.id)
        said = printable(words(result))
        if not said:
            return [line]
        last = self._width - len(said)
        if len(line) < last:
            begin = min(max(self._column, len(line) + 2), last)
            return [line.append(" " * (begin - len(line))).append(said)]
        lines = [line]
        for each in said.split(SEPARATOR):
            longer = f"{lines[-1].plain}{SEPARATOR}{each}"
            if len(lines) > 1 and len(longer) <= self._width:
                lines[-1] = Text(longer)
            else:
                lines += self._wrapped(each, _INDENT)
        return lines

    def _best_column(self, results: Iterable[Result]) -> int:
        """Return the column at which most results can have what their witnesses said."""
        spans = [
            (len(self._mark(r)) + len(r.id) + 2, self._width - len(said))
            for r in results
            if (said := words(r))
        ]
        columns = sorted({first for first, _ in spans})
        fits = {c: sum(first <= c <= last for first, last in spans) for c in columns}
        return max(columns, key=lambda c: fits[c], default=0)

    def _mark(self, result: Result) -> str:
        return f"{_KNOWN if result in self._known else result.verdict.value} "

    def _reason(self, result: Result) -> Lines:
        known = result.known_defect and f"known defect, {_finding(result)}; "
        return self._wrapped(f"{known}{result.reason}", _INDENT)

    def _ids(self, results: Sequence[Result]) -> Lines:
        """Return the ids of results behind their verdicts."""
        by_verdict = grouped({r.id: self._mark(r) for r in results})
        lines: Lines = []
        for mark, ids in by_verdict.items():
            told = self._wrapped(mark + " ".join(ids), hanging=_INDENT)
            told[0].stylize(_STYLES[mark.strip()], 0, len(mark))
            lines += told
        return lines

    def _wrapped(self, text: str, indent: str = "", *, hanging: str = "", style: str = "") -> Lines:
        return wrapped(text, self._width, indent, hanging=hanging, style=style)


def _flat(blocks: Iterable[Lines]) -> Lines:
    return [line for block in blocks for line in block]


def _cut(text: str, room: int) -> str:
    """Return text that ends with dots where there is no room, after a whole word."""
    text = printable(" ".join(text.split()))
    if len(text) <= room:
        return text
    return f"{text[: max(room, 1) - 1].rpartition(' ')[0].rstrip(' ,;:(')}…"


def _areas(ids: Iterable[str]) -> str:
    """Return the first words of ids, at most three."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in ids))
    return " ".join(names if len(names) <= 3 else [*names[:2], "…"])


def _missing(result: Result) -> tuple[str, str]:
    """Return what a property lacks first, and how to get that."""
    first = result.missing[0] if result.missing else None
    return (first.what, first.remedy) if first else (result.reason, "")


def _finding(result: Result) -> str:
    return command(result.known_defect) or result.known_defect
