"""WARN_ON_ONCE gets its once back where the kernel permits it, and the journal says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stand_in import need_root, stand_in, write

from kvmtest.host.changes.clear_warn_once import (
    CLEAR,
    EarlierWarnings,
    _debugfs,
    clear_warn_once,
)
from kvmtest.host.changes.journal import RECORD, Entry, Header, Journal, encode, restore
from kvmtest.host.tree import Tree

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


def test_a_warning_that_fired_can_fire_again(tree: Tree, journal: Journal) -> None:
    write(tree, TAINTED, f"{WARN}\n")
    assert clear_warn_once(tree, journal) == EarlierWarnings(WARN, None)
    assert tree.read(CLEAR) == "1"


def test_it_is_done_also_where_no_warning_is_known(tree: Tree, journal: Journal) -> None:
    before = clear_warn_once(tree, journal)
    assert (before.none_fired, before.not_cleared) == (True, None)
    assert tree.read(CLEAR) == "1"


def test_the_journal_lists_it_as_for_good_and_undoes_nothing(tree: Tree, journal: Journal) -> None:
    clear_warn_once(tree, journal)
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
        clear_warn_once(tree, journal)
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
    clear_warn_once(tree, journal)
    assert [change.sentence for change in journal.changes] == [f"write 1 to {CLEAR} (for good)"]
    assert tree.read(CLEAR) == ""


def test_without_debugfs_it_is_not_cleared(tree: Tree, journal: Journal) -> None:
    tree.path(CLEAR).unlink()
    write(tree, TAINTED, f"{WARN}\n")
    before = clear_warn_once(tree, journal)
    assert before.none_fired is False
    assert before.not_cleared is not None
    assert "mount" in before.not_cleared.remedy
    assert journal.changes == []


def test_a_refusal_under_lockdown_names_lockdown(tree: Tree, journal: Journal) -> None:
    write(tree, LOCKDOWN, "none [integrity] confidentiality\n")
    tree.path(CLEAR).unlink()
    tree.path(CLEAR).mkdir()
    before = clear_warn_once(tree, journal)
    assert before.not_cleared is not None
    assert before.not_cleared.what == f"kernel lockdown (integrity) keeps {CLEAR} closed"


def test_a_refusal_without_lockdown_says_what_was_refused(tree: Tree, journal: Journal) -> None:
    tree.path(CLEAR).unlink()
    tree.path(CLEAR).mkdir()
    before = clear_warn_once(tree, journal)
    assert before.not_cleared is not None
    assert CLEAR in before.not_cleared.what
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
