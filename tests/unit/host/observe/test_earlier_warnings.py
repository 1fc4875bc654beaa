"""What warned before the run is known by the taint, and gets its once back where that can be."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stand_in import need_root, stand_in, write

from kvmtest.host.changes.journal import RECORD, Entry, Header, Journal, encode, restore
from kvmtest.host.observe.earlier_warnings import (
    CLEAR,
    EarlierWarnings,
    _debugfs,
    give_onces_back,
    read_taint,
    troubles_gained,
)
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

TAINTED = "/proc/sys/kernel/tainted"
LOCKDOWN = "/sys/kernel/security/lockdown"
WARN = 1 << 9


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return stand_in(tmp_path, {TAINTED: "0\n", CLEAR: "", "/var/lib/x": ""})


@pytest.fixture
def journal(tree: Tree) -> Iterator[Journal]:
    journal = Journal.open(tree)
    yield journal
    journal.close()


# Taint


def test_the_taint_is_read(tree: Tree) -> None:
    write(tree, TAINTED, "12800\n")
    assert read_taint(tree) == 12800


@pytest.mark.parametrize("text", ["", "x", "-1"])
def test_a_taint_that_is_no_number_is_missing(tree: Tree, text: str) -> None:
    write(tree, TAINTED, text)
    assert isinstance(read_taint(tree), Missing)


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


# Once


def test_a_warning_that_fired_gets_its_once_back(tree: Tree, journal: Journal) -> None:
    write(tree, TAINTED, f"{WARN}\n")
    assert give_onces_back(tree, journal) == EarlierWarnings(WARN, None)
    assert tree.read(CLEAR) == "1"


def test_it_is_done_also_where_no_warning_is_known(tree: Tree, journal: Journal) -> None:
    before = give_onces_back(tree, journal)
    assert (before.none_fired, before.not_given_back) == (True, None)
    assert tree.read(CLEAR) == "1"


def test_the_journal_lists_it_as_for_good_and_undoes_nothing(tree: Tree, journal: Journal) -> None:
    give_onces_back(tree, journal)
    assert CLEAR in tree.path(RECORD).read_text()
    write(tree, CLEAR, "")
    assert journal.close() == []
    (change,) = journal.changes
    assert change.sentence == f"write 1 to {CLEAR} (for good)"
    assert (change.new, change.undone, change.error) == ("1", False, None)
    assert tree.read(CLEAR) == ""
    assert not tree.exists(RECORD)


def test_the_end_of_a_scope_leaves_it(tree: Tree, journal: Journal) -> None:
    with journal.scope():
        give_onces_back(tree, journal)
    assert [change.undone for change in journal.changes] == [False]


def test_after_a_dead_run_nothing_is_undone_of_it_and_nothing_told(tree: Tree) -> None:
    header = Header(1, 1, None, "2026-01-02T03:04:05Z", "kvmtest run")
    entry = Entry(1, f"write 1 to {CLEAR} (for good)", "nothing", {})
    write(tree, RECORD, encode(header) + encode(entry))
    restored = restore(tree)
    assert (restored.undone, restored.failed, restored.from_pid) == ([], [], 1)
    assert tree.read(CLEAR) == ""
    assert not tree.exists(RECORD)


def test_a_dry_run_lists_it_and_writes_nothing(tree: Tree) -> None:
    journal = Journal.open(tree, dry_run=True)
    give_onces_back(tree, journal)
    assert [change.sentence for change in journal.changes] == [f"write 1 to {CLEAR} (for good)"]
    assert tree.read(CLEAR) == ""


def test_without_debugfs_it_is_not_given_back(tree: Tree, journal: Journal) -> None:
    tree.path(CLEAR).unlink()
    write(tree, TAINTED, f"{WARN}\n")
    before = give_onces_back(tree, journal)
    assert before.none_fired is False
    assert before.not_given_back is not None
    assert "mount" in before.not_given_back.remedy
    assert journal.changes == []


def test_a_refusal_under_lockdown_names_lockdown(tree: Tree, journal: Journal) -> None:
    write(tree, LOCKDOWN, "none [integrity] confidentiality\n")
    tree.path(CLEAR).unlink()
    tree.path(CLEAR).mkdir()
    before = give_onces_back(tree, journal)
    assert before.not_given_back is not None
    assert before.not_given_back.what == f"kernel lockdown (integrity) keeps {CLEAR} closed"


def test_a_refusal_without_lockdown_says_what_was_refused(tree: Tree, journal: Journal) -> None:
    tree.path(CLEAR).unlink()
    tree.path(CLEAR).mkdir()
    before = give_onces_back(tree, journal)
    assert before.not_given_back is not None
    assert CLEAR in before.not_given_back.what
    assert journal.changes == []


def test_debugfs_can_be_looked_at_without_a_mount_in_any_directory() -> None:
    need_root()
    mounts = Path("/proc/mounts").read_text()
    try:
        with _debugfs() as folder:
            assert (folder / Path(CLEAR).name).exists()
            assert Path("/proc/mounts").read_text() == mounts
    except OSError as error:
        pytest.skip(f"no debugfs here: {error.strerror}")
