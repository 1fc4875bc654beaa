"""The kernel's taint is read, and only what the kernel itself met is trouble."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stand_in import stand_in

from kvmtest.host.facts.taint import WARN, read_taint, troubles_gained
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

TAINTED = "/proc/sys/kernel/tainted"


def test_the_taint_is_read(tmp_path: Path) -> None:
    assert read_taint(stand_in(tmp_path, {TAINTED: "12800\n"})) == 12800


@pytest.mark.parametrize("text", ["", "x", "-1"])
def test_a_taint_that_is_no_number_is_missing(tmp_path: Path, text: str) -> None:
    assert isinstance(read_taint(stand_in(tmp_path, {TAINTED: text})), Missing)


def test_no_proc_is_missing(tmp_path: Path) -> None:
    assert isinstance(read_taint(Tree(tmp_path)), Missing)


@pytest.mark.parametrize(
    ("before", "after", "letters"),
    [
        (0, 0, ""),
        (0, WARN, "W"),
        (WARN, WARN, ""),
        (WARN, WARN | 1 << 14, "L"),
        (0, 1 << 4 | 1 << 5 | 1 << 7, "MBD"),
        # What people and modules do is no trouble.
        (0, 1 | 1 << 1 | 1 << 2 | 1 << 6 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 40, ""),
        (WARN, 0, ""),
    ],
)
def test_only_trouble_that_is_new_counts(before: int, after: int, letters: str) -> None:
    assert "".join(word[0] for word in troubles_gained(before, after)) == letters


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_what_was_there_before_is_never_gained(before: int, after: int) -> None:
    assert troubles_gained(before, before) == []
    assert set(troubles_gained(before, after)) <= set(troubles_gained(0, after))


def test_an_unknown_taint_has_gained_nothing() -> None:
    assert troubles_gained(Missing("x"), WARN) == troubles_gained(0, Missing("x")) == []
