"""kvmtest/fleet/ledger.py: what a lane did outlives its process."""

import itertools
from pathlib import Path

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.course import Boot, Ended, Ending, Fact, Restore, Resumed, Run
from kvmtest.fleet.ledger import Entry, Ledger, entries

FACTS: list[Fact] = [
    Boot("6.12"),
    Ended(Ending.DONE),
    Run("6.12", 2, 1),
    Ended(Ending.DONE, status=1),
    Boot("6.1"),
    Ended(Ending.LOST, "no answer\nfor 900 s"),
    Restore(),
    Resumed(),
]


def written(path: Path, *facts: Fact) -> None:
    clock = itertools.count(1764480000.0, 0.5)
    with Ledger(path, lambda: next(clock)) as ledger:
        for fact in facts:
            ledger.write(fact)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path / "ledger", *FACTS)
    assert entries(tmp_path / "ledger") == [
        Entry(1764480000 + number / 2, fact) for number, fact in enumerate(FACTS)
    ]
    assert entries(tmp_path / "none") == []


def test_the_form_is_that_of_the_module(tmp_path: Path) -> None:
    written(tmp_path / "ledger", *FACTS)
    assert (tmp_path / "ledger").read_text().splitlines() == [
        '{"at": 1764480000.0, "boot": "6.12"}',
        '{"at": 1764480000.5, "ended": "done"}',
        '{"at": 1764480001.0, "run": ["6.12", 2, 1]}',
        '{"at": 1764480001.5, "ended": "done", "status": 1}',
        '{"at": 1764480002.0, "boot": "6.1"}',
        '{"at": 1764480002.5, "ended": "lost", "why": "no answer\\nfor 900 s"}',
        '{"at": 1764480003.0, "restore": true}',
        '{"at": 1764480003.5, "resumed": true}',
    ]


@pytest.mark.parametrize("cut", range(1, 38))
def test_a_line_that_was_cut_short_is_no_entry(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger"
    written(path, *FACTS)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [entry.fact for entry in entries(path)] == FACTS[:-1]
    written(path, Resumed())
    assert [entry.fact for entry in entries(path)] == FACTS


@pytest.mark.parametrize(
    "line", ["{}", "[]", '{"at": 1}', '{"at": 1, "run": ["a"]}', '{"at": 1, "ended": "x"}', "\xff"]
)
def test_a_line_that_somebody_changed_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger"
    written(path, *FACTS[:2])
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(EnvironmentUnfit, match=r"ledger:3: this is no entry of a ledger"):
        entries(path)


def test_a_ledger_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match=r"can't write .*No such file"):
        Ledger(tmp_path / "none" / "ledger")
    with Ledger(tmp_path / "ledger") as ledger:
        ledger._fd, own = 1 << 20, ledger._fd
        with pytest.raises(EnvironmentUnfit, match=r"can't write .*; free some space"):
            ledger.write(Restore())
        ledger._fd = own
