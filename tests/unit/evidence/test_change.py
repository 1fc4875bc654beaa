"""Each pair of verdicts has its word."""

import itertools
from pathlib import Path

import pytest

from kvmtest.evidence.change import CHANGES, Change, Kind
from kvmtest.judge import Verdict

P, F = Verdict.PASS, Verdict.FAIL
UNDECIDED = (Verdict.INCONCLUSIVE, Verdict.SKIP, Verdict.ERROR, Verdict.MEASURED)

#: Old and new verdict by letters, u for each that decides nothing and - for no result, as KernelCI
#: has them, but for the last line.
EXPECTED = {
    "regression": "PF Pu",
    "fixed": "FP",
    "newFailure": "-F uF",
    "stillFailing": "FF",
    "newPass": "-P uP",
    "appeared": "-u",
    "disappeared": "P- F- u-",
    "same": "PP",
    "undecided": "Fu uu",
}


def verdicts(letter: str) -> tuple[Verdict | None, ...]:
    return {"P": (P,), "F": (F,), "u": UNDECIDED, "-": (None,)}[letter]


PAIRS = [
    (old, new, word)
    for word, pairs in EXPECTED.items()
    for pair in pairs.split()
    for old, new in itertools.product(*map(verdicts, pair))
]


@pytest.mark.parametrize(("old", "new", "word"), PAIRS)
def test_a_pair_of_verdicts_has_the_word_that_kernelci_gives_it(
    old: Verdict | None, new: Verdict | None, word: str
) -> None:
    assert Change.of(old, new) == word


def test_no_pair_is_left_out() -> None:
    every = set(itertools.product([*Verdict, None], repeat=2)) - {(None, None)}
    assert {(old, new) for old, new, _ in PAIRS} == every
    assert len(PAIRS) == len(every)
    assert set(EXPECTED) == set(Change)


def test_the_table_has_each_pair_of_kinds_and_no_other() -> None:
    assert set(CHANGES) == set(itertools.product(Kind, repeat=2)) - {(Kind.NO_RESULT,) * 2}


def test_only_a_pass_makes_a_pass_or_a_fix() -> None:
    better = (Change.FIXED, Change.NEW_PASS, Change.SAME)
    assert {new for _, new, word in PAIRS if word in better} == {P}


def test_a_pass_that_is_no_longer_one_is_never_a_mere_change() -> None:
    words = {word for old, new, word in PAIRS if old is P and new is not P}
    assert words == {Change.REGRESSION, Change.DISAPPEARED}


def test_the_manual_has_the_same_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "compare.md"
    table = page.read_text().partition("| old |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[2:6]] for row in table.splitlines()[2:]]
    assert rows == [[CHANGES.get((old, new), "") for new in Kind] for old in Kind]
