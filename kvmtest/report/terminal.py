"""Terminal
========

The console, and tables for a person. Only a terminal gets colour.
"""

import os
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TextIO, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmtest.errors import printable
from kvmtest.evidence import Evidence, Required, Result
from kvmtest.evidence.compare import PropertyComparison
from kvmtest.evidence.counting import run_problem
from kvmtest.findings import reference
from kvmtest.judge import Verdict
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, Property

from .heading import cpu_name, machine_words
from .telling import would_be_seen

__all__ = [
    "console",
    "facts_table",
    "grouped",
    "kernels_table",
    "missing_table",
    "numbered_table",
    "properties_table",
    "property_table",
    "reasons_table",
    "show_evidence",
    "show_replay",
    "show_results",
    "summary",
]

STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold magenta",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.MEASURED: "bold cyan",
    Verdict.SKIP: "dim",
}
# Decided first, then what needs attention, then what does not apply.
ORDER = [Verdict.FAIL, Verdict.ERROR, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.MEASURED]
# Columns whose words must not be broken.
WHOLE = ("verdict", "recorded", "replayed", "property", "missing")
RANK = {verdict: at for at, verdict in enumerate([*ORDER, Verdict.SKIP])}
PIPE_WIDTH = 80
T = TypeVar("T", bound=Hashable)


def console(stream: TextIO | None = None) -> Console:
    """Return the console to print to; what is no terminal gets no colour and a fixed width."""
    stream = stream or sys.stdout
    return _Console(file=stream, width=_width(stream), highlight=False, soft_wrap=False)


def _width(stream: TextIO) -> int | None:
    """Return the stream's width; None leaves it to COLUMNS, or to rich."""
    if not stream.isatty():
        return PIPE_WIDTH
    if "COLUMNS" in os.environ:
        return None
    try:
        # rich would ask the standard streams, which may be of another terminal.
        return os.get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again; rich would exit with 1, the status of FAIL."""
        raise  # The BrokenPipeError that rich caught before this call.


def results_table(results: Sequence[Result]) -> Table:
    """Return verdict, property and reason; equal verdicts for equal reasons share a row."""
    table = _table("verdict", "property", "reason")
    ordered = sorted(results, key=lambda r: RANK[r.verdict])
    rows = grouped({r.id: (r.verdict, _short_reason(r)) for r in ordered})
    for (verdict, reason), ids in rows.items():
        mark = Text(verdict.value, STYLES[verdict])
        table.add_row(mark, Text("\n".join(ids)), _text(reason))
    return table


def _short_reason(result: Result) -> str:
    """Return the reason; only the first missing thing, as missing_table has them all."""
    skipped = result.verdict is Verdict.SKIP and result.missing
    reason = result.missing[0].what if skipped else result.reason
    seen = would_be_seen(result)
    if seen:
        reason = f"{reason}; {seen}"
    if result.is_known_failure:
        return f"known defect, see {reference(result.known_defect)}; {reason}"
    if result.known_defect:
        return f"a known defect does not show: see {reference(result.known_defect)}; {reason}"
    return reason


def missing_table(missing: Iterable[Missing]) -> Table:
    """Return each missing thing once, how to get it, and how many properties want it."""
    table = _table("missing here", "how to get it", "wanted by")
    for thing, count in Counter(missing).most_common():
        table.add_row(_text(thing.what), _text(thing.remedy), str(count))
    return table


def numbered_table(missing: Iterable[Missing]) -> Table:
    """Return missing things with their numbers, and how to get them."""
    table = _table("", "missing here", "how to get it")
    for number, thing in enumerate(missing, 1):
        table.add_row(str(number), _text(thing.what), _text(thing.remedy))
    return table


def reasons_table(head: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return what is not there for want of something, and the numbers of what is missing."""
    table = _table(head, "missing")
    for ids, numbers in rows:
        table.add_row(_text(ids), numbers)
    return table


def grouped(answers: Mapping[str, T]) -> dict[T, list[str]]:
    """Return the names that share an answer, by answer, both in their order."""
    groups: dict[T, list[str]] = {}
    for name, answer in answers.items():
        groups.setdefault(answer, []).append(name)
    return groups


def show_results(
    screen: Console, results: Sequence[Result], required: Iterable[Required] = ()
) -> None:
    """Print the verdicts, what is missing for those undecided, and which ``required`` are unmet."""
    screen.print(results_table(results))
    screen.print()
    missing = [thing for result in results for thing in result.missing]
    if missing:
        screen.print(missing_table(missing))
        screen.print()
    unmet = [each for each in required if not each.met]
    for each in unmet:
        screen.print(_text(f"--require {each.text} is not met: {each.reason}"))
    if unmet:
        screen.print()


def show_evidence(evidence: Evidence) -> None:
    """Print a run's results as the run itself printed them."""
    screen = console()
    screen.print(facts_table(_head(evidence)))
    screen.print()
    show_results(screen, evidence.results, evidence.requirements or ())
    if problem := run_problem(evidence):
        screen.print(_text(problem))
    cut = " (the run was interrupted)" if evidence.kvmtest.interrupted else ""
    screen.print(f"{summary(evidence.results)}{cut}")


def _head(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Give the facts that identify the run."""
    yield "run", f"{evidence.kvmtest.started}, kvmtest {evidence.kvmtest.version}"
    hostname = evidence.machine.hostname or ""
    if evidence.machine.lab:
        yield "machine", machine_words(evidence)
        yield "CPU", f"{cpu_name(evidence)}{f', emulated on {hostname}' * bool(hostname)}"
    else:
        kind = f"{machine_words(evidence)}{f' {hostname}' * bool(hostname)}"
        yield "machine", f"{kind}: {cpu_name(evidence)}"
    yield "kernel", str(evidence.kernel.release or evidence.kernel.missing)


def show_replay(
    screen: Console,
    compared: Sequence[PropertyComparison],
    replayed: Sequence[Result],
    others: int,
) -> None:
    """Print recorded verdicts beside those of the same readings now; ``others`` were not judged."""
    table = _table("recorded", "replayed", "property", "reason")
    rows = zip(compared, replayed, strict=True)
    for each, now in sorted(rows, key=lambda row: RANK[row[1].verdict]):
        marks = (
            Text(verdict.value, STYLES[verdict]) for verdict in (each.old, each.new) if verdict
        )
        table.add_row(*marks, Text(now.id), _text(now.reason))
    screen.print(table)
    screen.print()
    different = [each.id for each in compared if each.is_changed]
    same = f"all {len(compared)} verdicts are the same" if compared else "nothing was judged"
    said = f"{len(different)} of {len(compared)} verdicts differ: {', '.join(different)}"
    left = f" ({others} SKIP or ERROR were not judged)" if others else ""
    screen.print(f"{said if different else same}{left}", soft_wrap=True)


def summary(results: Iterable[Result]) -> str:
    """Return how many there are of each verdict, e.g. "1 FAIL (1 known), 3 PASS, 29 SKIP"."""
    results = list(results)
    verdicts = [r.verdict for r in results]
    known = sum(r.is_known_failure for r in results)
    counts = [
        f"{verdicts.count(v)} {v}" + (f" ({known} known)" if known and v is Verdict.FAIL else "")
        for v in [*ORDER, Verdict.SKIP]
        if v in verdicts
    ]
    return ", ".join(counts) or "nothing was decided"


def properties_table() -> Table:
    """Return a line for each property, with its witnesses and its markers."""
    table = _table("property", "witnesses", "markers")
    ids, *others = table.columns
    ids.min_width = max(len(p.id) for p in PROPERTIES)
    for column in others:
        column.no_wrap, column.overflow = True, "ellipsis"
    for p in PROPERTIES:
        table.add_row(p.id, " ".join(p.witnesses), " ".join(p.markers))
    return table


def property_table(p: Property) -> Table:
    """Return all that is to know of a property."""
    rows = {
        "property": p.id,
        "claim": p.claim,
        "witnesses": ", ".join(p.witnesses),
        "markers": ", ".join(p.markers),
        "needs": ", ".join(p.asks),
        "source": p.source,
    }
    return facts_table((name, fact) for name, fact in rows.items() if fact)


def kernels_table(rows: Iterable[tuple[str, str, str]]) -> Table:
    """Return kernels on offer: release, version of the package, suites."""
    table = _table("kernel", "version", "suites")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def facts_table(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return two columns of facts; a Text is printable already."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in rows:
        table.add_row(name, _text(fact) if isinstance(fact, str) else fact)
    return table


def _text(text: str) -> Text:
    """Return text without markup or control characters."""
    return Text(printable(text, keep="\n"))


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in WHOLE)
    return table
