"""The freeze_on_smi knob is written through a journal, and nothing else is."""

from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.facts.freeze_knob import PATHS, KnobError, find
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing


class Changes:
    """A journal that writes below a stand-in root and keeps the list."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.written: list[tuple[str, str]] = []

    def write(self, name: str, value: str) -> None:
        self.written.append((name, value))
        self.tree.path(name).write_text(value + "\n")


def written(tree: Tree, value: int) -> list[tuple[str, str]]:
    knob, journal = find(tree), Changes(tree)
    assert not isinstance(knob, Missing)
    try:
        write_knob(journal, knob, value)
    finally:
        assert (journal.written == []) == (value not in (0, 1))
    return journal.written


def test_one_path_is_written(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, {PATHS[1]: "1\n", PATHS[2]: "1\n"})
    assert written(tree, 0) == [(PATHS[1], "0")]


def test_a_value_that_the_kernel_refuses_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(KnobError, match="not 2"):
        written(stand_in(tmp_path, {PATHS[0]: "1\n"}), 2)
