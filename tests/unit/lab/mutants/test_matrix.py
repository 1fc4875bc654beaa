"""kvmtest/lab/mutants/matrix.py: only the owner's verdict decides a mutant's fate."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.judge import Verdict
from kvmtest.lab.mutants.matrix import (
    Fate,
    Row,
    cells,
    columns,
    differences,
    fate,
    markdown,
    survivors,
)
from kvmtest.lab.mutants.table import Mutant

MUTANT = Mutant("no-reload", "a line", "vmx.entry.toggled")
OTHER = Mutant("other", "a line", "any.soak")
FATES = {Verdict.FAIL: Fate.KILLED, Verdict.PASS: Fate.SURVIVED}
VERDICTS = st.dictionaries(
    st.sampled_from(["vmx.entry.toggled", "vmx.entry.fresh", "any.soak"]), st.sampled_from(Verdict)
)


@given(VERDICTS)
def test_a_mutant_s_fate_is_decided_by_its_owner_alone(verdicts: dict[str, Verdict]) -> None:
    said = verdicts.get(MUTANT.owner)
    expected = FATES.get(said, Fate.UNDECIDED) if said else Fate.UNDECIDED
    what, why = fate(MUTANT, verdicts)
    assert what is expected
    assert why.startswith("vmx.entry.toggled")


@given(VERDICTS)
def test_a_repair_is_noticed_where_its_owner_passes(verdicts: dict[str, Verdict]) -> None:
    opposite = {Fate.KILLED: Fate.SURVIVED, Fate.SURVIVED: Fate.KILLED}
    broken, _ = fate(MUTANT, verdicts)
    repaired, _ = fate(MUTANT, verdicts, Verdict.PASS)
    assert repaired is opposite.get(broken, Fate.UNDECIDED)


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ({MUTANT.owner: Verdict.FAIL}, "vmx.entry.toggled: FAIL"),
        (
            {MUTANT.owner: Verdict.FAIL, "any.soak": Verdict.FAIL, "a.b": Verdict.PASS},
            "vmx.entry.toggled: FAIL (and any.soak)",
        ),
        ({MUTANT.owner: Verdict.PASS, "any.soak": Verdict.FAIL}, "vmx.entry.toggled: PASS"),
        ({MUTANT.owner: Verdict.SKIP}, "vmx.entry.toggled is SKIP"),
        ({"any.soak": Verdict.FAIL}, "vmx.entry.toggled has not run"),
    ],
)
def test_the_reason_names_the_owner_and_who_else_failed(
    verdicts: dict[str, Verdict], reason: str
) -> None:
    assert fate(MUTANT, verdicts)[1] == reason


@given(VERDICTS, VERDICTS)
def test_two_runs_differ_exactly_where_a_verdict_does(
    stock: dict[str, Verdict], rebuilt: dict[str, Verdict]
) -> None:
    lines = differences(stock, rebuilt)
    differing = {n for n in stock.keys() | rebuilt.keys() if stock.get(n) != rebuilt.get(n)}
    assert {line.partition(":")[0] for line in lines} == differing
    assert len(lines) == len(differing)


def test_a_difference_says_what_was_and_what_is() -> None:
    assert differences({"a.b": Verdict.PASS}, {"c.d": Verdict.FAIL}) == [
        "a.b: PASS on the stock kernel, not run on the unmutated build",
        "c.d: not run on the stock kernel, FAIL on the unmutated build",
    ]


def row(mutant: Mutant, what: Fate, **verdicts: Verdict) -> Row:
    named = {name.replace("__", "."): verdict for name, verdict in verdicts.items()}
    return Row(mutant, what, "why", named)


ROWS = [
    row(MUTANT, Fate.KILLED, vmx__entry__toggled=Verdict.FAIL, any__soak=Verdict.PASS,
        tdx__x=Verdict.SKIP),
    row(OTHER, Fate.SURVIVED, vmx__entry__toggled=Verdict.INCONCLUSIVE, any__soak=Verdict.PASS),
    row(OTHER, Fate.UNDECIDED),
]  # fmt: skip


def test_survivors_are_those_that_nobody_noticed() -> None:
    assert survivors(ROWS) == [ROWS[1]]


def test_there_is_a_column_for_each_property_that_any_run_decided() -> None:
    assert columns(ROWS) == ["vmx.entry.toggled", "any.soak"]
    assert columns([]) == []


def test_the_owner_s_cell_is_in_brackets_and_what_did_not_run_is_empty() -> None:
    names = ["vmx.entry.toggled", "any.soak"]
    assert [cells(each, names) for each in ROWS] == [
        ["[F]", " · "], [" ? ", "[·]"], ["   ", "[ ]"],
    ]  # fmt: skip


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_a_letter_of_its_own(verdict: Verdict) -> None:
    letters = {v: cells(row(MUTANT, Fate.KILLED, a=v), ["a"])[0] for v in Verdict}
    assert len(set(letters.values())) == len(Verdict)
    assert len(letters[verdict]) == 3


def test_the_page_is_a_table_with_all_rows_as_wide_as_its_head() -> None:
    page = markdown(ROWS, "Debian's 6.12.117-1")
    lines = page.splitlines()
    assert lines[0] == "# Mutants of Debian's 6.12.117-1"
    assert "1. vmx.entry.toggled" in lines
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(cells_) for cells_ in table} == {5}
    assert [line[0].strip() for line in table[2:]] == ["no-reload", "other", "other"]
    assert page.endswith("|\n")
