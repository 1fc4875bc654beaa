"""The matrix of mutants
=====================

Which property failed on which mutant, as values and as a page. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kvmtest.evidence.compare import changed_verdicts
from kvmtest.judge import Verdict

from .table import Mutant

__all__ = [
    "LEGEND",
    "Fate",
    "Row",
    "cells",
    "columns",
    "differences",
    "fate",
    "letters",
    "markdown",
    "survivors",
]

Verdicts = Mapping[str, Verdict]

_DECIDED = (Verdict.PASS, Verdict.FAIL)
_LETTERS = {
    Verdict.PASS: "·", Verdict.FAIL: "F", Verdict.INCONCLUSIVE: "?", Verdict.ERROR: "E",
    Verdict.MEASURED: "m", Verdict.SKIP: " ",
}  # fmt: skip

#: The meaning of a row's letters.
LEGEND = ", ".join(f"{letter} {v}" for v, letter in _LETTERS.items() if letter.strip())


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Row:
    """One mutant's run: its fate, the reason, and the verdicts by property."""

    mutant: Mutant
    fate: Fate
    reason: str
    verdicts: Verdicts
    build_seconds: float = 0.0
    run_seconds: float = 0.0
    witnesses: tuple[str, ...] = ()
    """Those that spoke against a property, and not on the stock kernel."""

    is_unseen: bool = False
    """The leak that the mutant must show was looked for and not seen."""


def fate(mutant: Mutant, verdicts: Verdicts, wanted: Verdict = Verdict.FAIL) -> tuple[Fate, str]:
    """Return a mutant's fate by its owner's verdict, and the reason in words.

    A mutant is killed where its owner has the verdict ``wanted`` (PASS for a repair), survives
    where the owner decides otherwise, and is undecided where the owner decides nothing. Other
    properties' FAILs do not count: each must see its own faults.
    """
    verdict = verdicts.get(mutant.owner)
    if verdict is wanted:
        others = [p for p, v in verdicts.items() if v is Verdict.FAIL and p != mutant.owner]
        also = f" (and {', '.join(others)})" if others else ""
        return Fate.KILLED, f"{mutant.owner}: {verdict}{also}"
    if verdict in _DECIDED:
        return Fate.SURVIVED, f"{mutant.owner}: {verdict}"
    said = "has not run" if verdict is None else f"is {verdict}"
    return Fate.UNDECIDED, f"{mutant.owner} {said}"


def differences(stock: Verdicts, rebuilt: Verdicts) -> list[str]:
    """Say which properties differ between the stock kernel and the unmutated build."""
    return [
        f"{each.id}: {each.old or 'not run'} on the stock kernel, "
        f"{each.new or 'not run'} on the unmutated build"
        for each in changed_verdicts(stock, rebuilt)
    ]


def survivors(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of mutants whose owner did not notice them."""
    return [row for row in rows if row.fate is Fate.SURVIVED]


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the properties that some run decided, in their order."""
    names = dict.fromkeys(name for row in rows for name in row.verdicts)
    return [n for n in names if any(row.verdicts.get(n) in _DECIDED for row in rows)]


def letters(row: Row, names: Sequence[str]) -> str:
    """Return a row's letters, one for each property: F for FAIL, a dot for PASS, as LEGEND says."""
    return "".join(_LETTERS[row.verdicts.get(name, Verdict.SKIP)] for name in names)


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """Return a row's letters as a table's cells; the owner's in brackets."""
    return [
        f"[{letter}]" if name == row.mutant.owner else f" {letter} "
        for name, letter in zip(names, letters(row, names), strict=True)
    ]


def markdown(rows: Sequence[Row], kernel: str) -> str:
    """Return the matrix as a page."""
    names = columns(rows)
    lines = [
        f"# Mutants of {kernel}",
        "",
        f"{LEGEND}; in brackets the owner's.",
        "Seen by: the witnesses that spoke against some property, and not on the stock kernel.",
        "",
        *(f"{number}. {name}" for number, name in enumerate(names, 1)),
        "",
        _line("mutant", "fate", *map(str, range(1, len(names) + 1)), "seen by"),
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    lines += [_line(r.mutant.name, r.fate, *cells(r, names), ", ".join(r.witnesses)) for r in rows]
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
