"""A probe is made and removed through the journal, in a stand-in of tracefs."""

import os
from pathlib import Path

import pytest

from kvmtest.host.changes.journal import Journal, JournalError
from kvmtest.host.changes.kprobes import KprobeEvent, ProbePool
from kvmtest.host.facts.tracefs import KPROBE_EVENTS, TRACING
from kvmtest.host.observe.trace import Hits
from kvmtest.host.tree import Tree

LINE = (
    "          kvmtest-127     [000] d..2.    58.186063: entry: "
    "(vmx_vcpu_run+0x0/0x8d0 [kvm_intel]) flags=0x4\n"
)


INSTANCE = f"{TRACING}/instances/kvmtest-entry"


class Tracefs(Journal):
    """A journal over a stand-in tracefs, which makes an instance's files with its directory."""

    def make_directory(self, name: str) -> None:
        super().make_directory(name)
        event = name.rpartition("kvmtest-")[2]
        files = ("trace_clock", "buffer_percent", "set_event_pid", "tracing_on")
        for file in (*files, f"events/kvmtest/{event}/enable"):
            path = self._tree.path(f"{name}/{file}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        os.mkfifo(self._tree.path(f"{name}/trace_pipe"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.path(f"{TRACING}/instances").mkdir(parents=True)
    tree.path(KPROBE_EVENTS).write_text("")
    return tree


def test_a_probe_is_made_with_its_undo_and_takes_the_hits_of_named_tasks(tree: Tree) -> None:
    journal = Tracefs.open(tree)
    with KprobeEvent(tree, journal, "entry", "kvm_intel:f", {"flags": "%si"}) as probe:
        assert tree.read(KPROBE_EVENTS) == "p:kvmtest/entry kvm_intel:f flags=%si:x64"
        assert tree.read(f"{INSTANCE}/events/kvmtest/entry/enable") == "1"
        assert tree.read(f"{INSTANCE}/set_event_pid") == str(os.getpid())
        probe.follow([1, 22])
        assert tree.read(f"{INSTANCE}/set_event_pid") == "1 22"
        with tree.path(f"{INSTANCE}/trace_pipe").open("w") as pipe:
            assert probe.read() == Hits()
            pipe.write(LINE + LINE[:50])
            pipe.flush()
            assert len(probe.read().hits) == 1
            pipe.write(LINE[50:] + LINE)
            pipe.flush()
            assert len(probe.read().hits) == 2
    assert [change.path for change in journal.changes[:2]] == [KPROBE_EVENTS, INSTANCE]
    journal.close()
    assert (tree.read(KPROBE_EVENTS) or "").endswith("\n-:kvmtest/entry")


def test_a_dry_run_lists_the_probe_and_reads_nothing(tree: Tree) -> None:
    journal = Journal.open(tree, dry_run=True)
    with KprobeEvent(tree, journal, "entry", "f", {}) as probe:
        probe.follow([1])
        assert probe.read() == Hits()
    assert [c.path for c in journal.changes][:2] == [KPROBE_EVENTS, INSTANCE]
    assert tree.read(KPROBE_EVENTS) == ""


def test_a_runs_probe_is_made_once_and_has_no_old_hits(tree: Tree) -> None:
    journal = Tracefs.open(tree)
    run = ProbePool(tree, journal)
    with journal.scope():
        first = run.get("entry", "kvm_intel:f", {"flags": "%si"})
        first.follow([1])
        first.record(on=False)
    assert tree.read(f"{INSTANCE}/tracing_on") == "0"
    assert tree.read(KPROBE_EVENTS) == "p:kvmtest/entry kvm_intel:f flags=%si:x64"
    assert tree.read(f"{INSTANCE}/set_event_pid") == "1"
    with tree.path(f"{INSTANCE}/trace_pipe").open("w") as pipe, journal.scope():
        pipe.write(LINE)
        pipe.flush()
        again = run.get("entry", "kvm_intel:f", {"flags": "%si"})
        assert again is first
        assert tree.read(f"{INSTANCE}/set_event_pid") == str(os.getpid())
        assert tree.read(f"{INSTANCE}/tracing_on") == "1"
        assert again.read() == Hits()
    run.close()
    journal.close()
    assert (tree.read(KPROBE_EVENTS) or "").endswith("\n-:kvmtest/entry")


def test_another_place_or_other_arguments_get_another_probe(tree: Tree) -> None:
    journal = Tracefs.open(tree)
    run = ProbePool(tree, journal)
    asked: list[tuple[str, str, dict[str, str]]] = [
        ("entry", "kvm_intel:f", {"flags": "%si"}),
        ("entry", "kvm_intel:f", {"flags": "%si", "ip": "%ip"}),
        ("entry", "kvm_intel:g", {"flags": "%si"}),
        ("exit", "kvm_intel:g", {"flags": "%si"}),
    ]
    with journal.scope():
        probes = [run.get(*each) for each in asked]
        assert [run.get(*each) for each in asked] == probes
    assert len(set(probes)) == 4
    assert [probe.event for probe in probes] == ["entry", "entry_2", "entry_3", "exit"]
    run.close()
    journal.close()
    written = (tree.read(KPROBE_EVENTS) or "").splitlines()
    assert written[1:4] == [
        "p:kvmtest/entry_2 kvm_intel:f flags=%si:x64 ip=%ip:x64",
        "p:kvmtest/entry_3 kvm_intel:g flags=%si:x64",
        "p:kvmtest/exit kvm_intel:g flags=%si:x64",
    ]
    undone = ["exit", "entry_3", "entry_2", "entry"]
    assert written[4:] == [f"-:kvmtest/{event}" for event in undone]


def test_a_runs_probe_that_was_refused_is_not_tried_again(tree: Tree) -> None:
    tree.path(INSTANCE).mkdir()
    with Tracefs.open(tree) as journal:
        run = ProbePool(tree, journal)
        for _ in range(2):
            with pytest.raises(JournalError, match="is there already"):
                run.get("entry", "kvm_intel:f", {})
        assert [change.path for change in journal.changes] == [KPROBE_EVENTS]
        run.close()
