"""KVM's tracepoints are turned on and off through the journal, and their events read."""

import os
from pathlib import Path

import pytest
from support.watched_host import TIDS, Kernel, watched_host

from kvmtest.host.changes.journal import JournalError
from kvmtest.host.changes.kvm_events import KvmEvents
from kvmtest.host.facts.tracefs import TRACING
from kvmtest.host.observe.trace import TracingError
from kvmtest.host.tree import Tree

INSTANCE = f"{TRACING}/instances/kvmtest-watch"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return watched_host(tmp_path).tree


def test_events_are_recorded_of_the_tasks_that_are_followed(tree: Tree) -> None:
    with Kernel.open(tree) as journal, KvmEvents(tree, journal, TIDS) as events:
        assert tree.read(f"{INSTANCE}/set_event_pid") == "78 79"
        assert tree.read(f"{INSTANCE}/events/kvm/kvm_entry/enable") == "1"
        assert tree.read(f"{INSTANCE}/events/kvm/kvm_exit/enable") == "1"
        assert tree.read(f"{INSTANCE}/trace_clock") == "mono"
        assert events.read() == []
        events.record(on=True)
        assert {(each.event, each.pid, each.vcpu) for each in events.read()} == {
            (event, tid, tid - TIDS[0]) for event in ("kvm_entry", "kvm_exit") for tid in TIDS
        }
        events.follow([TIDS[1]])
        assert tree.read(f"{INSTANCE}/set_event_pid") == "79"
    assert not tree.exists(INSTANCE)


def test_an_event_in_two_parts_is_one(tree: Tree) -> None:
    line = b" CPU-78  [000] d..2. 1.000002: kvm_exit: vcpu 0 reason HLT rip 0x1\n"
    with Kernel.open(tree) as journal, KvmEvents(tree, journal, TIDS) as events:
        fd = os.open(tree.path(f"{INSTANCE}/trace_pipe"), os.O_WRONLY)
        os.write(fd, line[:20])
        assert events.read() == []
        os.write(fd, line[20:])
        os.close(fd)
        (event,) = events.read()
        assert (event.time_us, event.exit_reason) == (1_000_002, "HLT")


def test_a_kernel_without_them_is_refused(tree: Tree) -> None:
    class Without(Kernel):
        def make_directory(self, name: str) -> None:
            super().make_directory(name)
            self._tree.path(f"{name}/events/kvm/kvm_exit/enable").unlink()

    with Without.open(tree) as journal, pytest.raises(JournalError, match="kvm_exit/enable"):
        KvmEvents(tree, journal, TIDS)


def test_a_trace_that_is_gone_is_named(tree: Tree) -> None:
    class Gone(Kernel):
        def make_directory(self, name: str) -> None:
            super().make_directory(name)
            self._tree.path(f"{name}/trace_pipe").unlink()

    with Gone.open(tree) as journal, pytest.raises(TracingError, match="can't be opened"):
        KvmEvents(tree, journal, TIDS)
