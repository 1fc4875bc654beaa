"""A CPU comes online again whatever happens, and what was bound to it is bound again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.changes.hotplug import bring_online, keep_bound, take_offline
from kvmtest.host.changes.journal import UNDO_KINDS, Journal, JournalError
from kvmtest.host.changes.journal.kinds import CommandError, Site
from kvmtest.host.changes.lock import process_start
from kvmtest.host.facts.hotplug import Bound, Task, is_online, switch
from kvmtest.host.tree import Tree

INTERRUPT = "/proc/irq/9/smp_affinity_list"
GONE = "/proc/irq/10/smp_affinity_list"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return stand_in(
        tmp_path,
        {switch(1): "1\n", INTERRUPT: "1\n", GONE: "1\n", "/sys/devices/system/cpu/online": "0-1"},
    )


@pytest.fixture
def child() -> Iterator[int]:
    """A process that sleeps, and may run on every CPU of ours."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def test_a_cpu_goes_and_comes_and_is_online_in_the_end(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        for _ in range(2):
            take_offline(journal, 1)
            assert not is_online(tree, 1)
            bring_online(journal, 1)
            assert is_online(tree, 1)
        take_offline(journal, 1)
    assert is_online(tree, 1)
    (change,) = journal.changes
    assert (change.old, change.writes, change.undone) == ("1", 5, True)


def test_a_cpu_without_a_switch_can_not_go(tree: Tree) -> None:
    with Journal.open(tree) as journal, pytest.raises(JournalError, match="cpu0/online"):
        take_offline(journal, 0)


def test_affinities_come_back_after_the_cpu(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    with Journal.open(tree) as journal:
        keep_bound(journal, Bound.of(tree))
        take_offline(journal, 1)
        # As the kernel does.
        tree.path(INTERRUPT).write_text("0-1\n")
        tree.path(GONE).unlink()
        for name in ("write", "affinities"):
            kind = UNDO_KINDS[name]

            def undo(
                site: Site, name: str = name, then: object = kind.undo, **rest: object
            ) -> None:
                order.append(name)
                assert callable(then)
                then(site, **rest)

            monkeypatch.setitem(UNDO_KINDS, name, kind._replace(undo=undo))  # type: ignore[arg-type]
    assert order == ["write", "affinities"]
    assert tree.read(INTERRUPT) == "1"
    assert not tree.exists(GONE)


def test_nothing_is_recorded_where_nothing_is_bound(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        keep_bound(journal, Bound())
        assert journal.changes == []


def test_a_thread_gets_its_cpus_back(tree: Tree, child: int) -> None:
    first, *others = sorted(os.sched_getaffinity(child))
    if not others:
        pytest.skip("needs two CPUs")
    start = process_start(child)
    assert start is not None
    with Journal.open(tree) as journal:
        keep_bound(journal, Bound(tasks=(Task(child, start, str(first)),)))
    assert os.sched_getaffinity(child) == {first}


def test_a_thread_that_got_an_ended_one_s_number_is_left_alone(tree: Tree, child: int) -> None:
    before, start = os.sched_getaffinity(child), process_start(child)
    assert start is not None
    with Journal.open(tree) as journal:
        keep_bound(journal, Bound(tasks=(Task(child, start - 1, str(min(before))),)))
    assert os.sched_getaffinity(child) == before


def test_what_can_not_be_bound_again_is_named_and_the_others_are(tree: Tree, child: int) -> None:
    start = process_start(child)
    tree.path(INTERRUPT).write_text("0-1\n")
    tree.path(GONE).unlink()
    tree.path(GONE).symlink_to("/proc/sys/kernel/ostype")
    with pytest.raises(CommandError, match=r"thread \d+ to CPU 8191: .* \(and 1 more\)"):
        UNDO_KINDS["affinities"].undo(
            Site(tree), tasks=[[child, start, "8191"]], files=[[GONE, "1"], [INTERRUPT, "1"]]
        )
    assert tree.read(INTERRUPT) == "1"
