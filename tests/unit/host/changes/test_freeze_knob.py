"""The freeze_on_smi knob is written through a journal, and nothing else is."""

from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.changes.journal import Change, Journal
from kvmtest.host.facts.freeze_knob import PATHS, KnobError, find
from kvmtest.missing import Missing


def written(root: Path, files: dict[str, str], value: int) -> list[Change]:
    tree = stand_in(root, files)
    knob = find(tree)
    assert not isinstance(knob, Missing)
    with Journal.open(tree) as journal:
        if value in (0, 1):
            write_knob(journal, knob, value)
        else:
            with pytest.raises(KnobError, match=f"not {value}"):
                write_knob(journal, knob, value)
        return journal.changes


def test_one_path_is_written(tmp_path: Path) -> None:
    (change,) = written(tmp_path, {PATHS[1]: "1\n", PATHS[2]: "1\n"}, 0)
    assert (change.path, change.new) == (PATHS[1], "0")


def test_a_value_that_the_kernel_refuses_is_never_written(tmp_path: Path) -> None:
    assert written(tmp_path, {PATHS[0]: "1\n"}, 2) == []
