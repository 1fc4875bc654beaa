"""Markdown
========

A run, or several, as GitHub's job summaries take them: GitHub Flavored Markdown of less than 1 MiB.
What evidence says is text there, whatever it holds: no markup, no link, no picture.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from kvmtest.errors import printable
from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import fails, is_excused
from kvmtest.evidence.statements import power, words
from kvmtest.findings import reference
from kvmtest.judge import Verdict

from .heading import machine_line
from .sentence import number_of, sentence, summary
from .telling import telling
from .terminal import grouped

__all__ = ["markdown", "markdown_of_runs"]

#: The most bytes of a summary. GitHub takes 1 MiB from a step, which may have other things to say.
_MOST = 512 * 1024
#: The most characters of a line of text.
_LINE = 1000
_KNOWN = "KNOWN"
_BROKEN = (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE)
_TABLE = "| verdict | property | what its witnesses said |\n|---|---|---|"
_RUNS = "| | exit | run | kernel | machine | properties |\n|---|---|---|---|---|---|"
# Markup, the beginning of a list, and what would make a link or a picture of a few letters.
_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&@$]|^[-+=0-9]|:(?=\S)|\bwww(?=\.)")

Block = str
"""Lines that belong together; blank lines stand between blocks."""


def markdown(evidence: Evidence) -> str:
    """Return a run: how it ended, what needs attention with its readings, and the rest folded."""
    known = [r for r in evidence.results if is_excused(r, strict=evidence.strict)]
    rest = [r for r in evidence.results if not is_excused(r, strict=evidence.strict)]
    broken = [r for verdict in _BROKEN for r in rest if r.verdict is verdict]
    decided = [r for r in rest if r.verdict in (Verdict.PASS, Verdict.MEASURED)]
    skipped = [r for r in rest if r.verdict is Verdict.SKIP]
    blocks = [
        f"### {_text(sentence(evidence))}",
        f"{_text(machine_line(evidence))}<br>\nexit {evidence.exit_status}: {summary(evidence)}",
        *_problems(evidence),
    ]
    if broken:
        blocks += [_table(_row(r.verdict, r) for r in broken), *map(_why, broken)]
    if known:
        blocks += [_table(_row(_KNOWN, r) for r in known), *map(_why, known)]
    if decided:
        seen = power(r for r in decided if r.verdict is Verdict.PASS)
        title = f"{number_of(len(decided), 'property', 'properties')} decided"
        blocks.append(_folded(title, _table(_row(r.verdict, r) for r in decided)))
        if seen:
            blocks.append(_text(f"would be seen: {seen}"))
    if skipped:
        blocks.append(_folded(f"{len(skipped)} not decided", "\n".join(_reasons(skipped))))
    return _fitting(blocks)


def markdown_of_runs(runs: Iterable[tuple[str, Evidence]]) -> str:
    """Return a table of runs, each with its name, and which properties fail in which of them."""
    rows: list[tuple[int, str]] = []
    failing: dict[tuple[Verdict, str], list[str]] = {}
    for name, evidence in runs:
        rows.append((evidence.exit_status, _run(name, evidence)))
        for result in evidence.results:
            if fails(result, strict=evidence.strict):
                failing.setdefault((result.verdict, result.id), []).append(name)
    ended = sum(status == 0 for status, _ in rows)
    # What did not end with 0 comes first: a long table is cut.
    table = [row for _, row in sorted(rows, key=lambda row: row[0] == 0)]
    told = [
        f"* {verdict} `{property_id}` in {number_of(len(names), 'run')}: {_names(names)}"
        for (verdict, property_id), names in failing.items()
    ]
    head = f"### {ended} of {number_of(len(rows), 'run')} ended with 0"
    return _fitting([head, *(["\n".join(told)] if told else []), *_tables(_RUNS, table)])


def _problems(evidence: Evidence) -> list[Block]:
    failures = [f"not undone: {line}" for line in evidence.journal.failures]
    unmet = [
        f"--require {each.text} is not met: {each.reason}"
        for each in evidence.requirements or ()
        if not each.met
    ]
    lines = [*failures, *(evidence.kvmtest.problems or ()), *unmet]
    return ["\n".join(f"* {_text(line)}" for line in lines)] if lines else []


def _row(mark: str, result: Result) -> str:
    return f"| {mark} | `{result.id}` | {_text(words(result))} |"


def _table(rows: Iterable[str]) -> Block:
    return "\n".join([_TABLE, *rows])


def _tables(head: str, rows: Sequence[str]) -> Iterator[Block]:
    """Give tables of a hundred rows, each a block that may be left out."""
    for first in range(0, len(rows), 100):
        yield "\n".join([head, *rows[first : first + 100]])


def _why(result: Result) -> Block:
    """Return the reason and the readings behind a result, as they are."""
    known = f"known defect, {reference(result.known_defect)}" if result.known_defect else ""
    lines = [f"{result.id}: {result.reason}", known, *telling(result), *result.detail.splitlines()]
    return _as_it_is(_line(line) for line in lines if line)


def _as_it_is(lines: Iterable[str]) -> Block:
    """Return lines as a block of code, with a fence that is not among them."""
    text = "\n".join(lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _folded(title: str, block: Block) -> Block:
    return f"<details><summary>{title}</summary>\n\n{block}\n\n</details>"


def _reasons(skipped: Iterable[Result]) -> Iterator[str]:
    for reason, ids in grouped({r.id: r.reason for r in skipped}).items():
        yield f"* {', '.join(f'`{each}`' for each in ids)}: {_text(reason)}"


def _run(name: str, evidence: Evidence) -> str:
    cells = [
        sentence(evidence).partition(":")[0],
        str(evidence.exit_status),
        name,
        evidence.kernel.release or "unknown",
        machine_line(evidence),
        summary(evidence),
    ]
    return f"| {' | '.join(map(_text, cells))} |"


def _names(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return _text(", ".join(names[:most])) + (f" and {more} more" if more > 0 else "")


def _fitting(blocks: Sequence[Block]) -> str:
    """Return as many blocks as fit, and how many do not."""
    told: list[Block] = []
    room = _MOST
    for block in blocks:
        room -= len(block.encode(errors="replace")) + 2
        if room < 0:
            told.append(f"{number_of(len(blocks) - len(told), 'part')} more: see the evidence.")
            break
        told.append(block)
    return "\n\n".join(told) + "\n"


def _text(text: str) -> str:
    """Return text on one line, with character references for what Markdown takes for markup."""
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), _line(text))


def _line(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _LINE else f"{text[: _LINE - 1]}…"
