"""Hits are parsed from the trace as it is, and a probe is made and removed through the journal."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.stand_in import as_nobody, stand_in

from kvmtest.host.changes.journal import Journal, JournalError
from kvmtest.host.observe.tracing import (
    KPROBE_EVENTS,
    TRACING,
    Hit,
    Hits,
    KprobeEvent,
    RunProbe,
    TracingError,
    hidden,
    parse_hits,
)
from kvmtest.host.tree import Tree

LINE = (
    "          kvmtest-127     [000] d..2.    58.186063: entry: "
    "(vmx_vcpu_run+0x0/0x8d0 [kvm_intel]) flags=0x4\n"
)
HEADING = "# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"


def test_a_hit_has_task_cpu_time_and_arguments() -> None:
    hits = parse_hits(HEADING + LINE, "entry")
    assert hits == Hits((Hit(127, 0, 58_186_063, {"flags": 4}, "vmx_vcpu_run"),))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "     <...>-9     [011] ..... 12345.000001: entry: (f+0x4/0x8) flags=0x0 vcpu=0xff",
            Hit(9, 11, 12345_000001, {"flags": 0, "vcpu": 255}, "f"),
        ),
        (
            " qemu-4 [x]-77  (   70) [003] d..1 1.000000: entry: (f <- g) a=0x8000000000000000",
            Hit(77, 3, 1_000000, {"a": 1 << 63}, "f"),
        ),
        (" CPU 0/KVM-77 [003] 1.000000: entry: (f+0x0/0x1)", Hit(77, 3, 1_000000, {}, "f")),
    ],
)
def test_a_hit_is_read_in_every_form_of_the_trace(line: str, expected: Hit) -> None:
    assert parse_hits(line + "\n", "entry").hits == (expected,)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1))
@example("a\x0bb\x85c\u2028d")
def test_a_task_may_have_any_name(name: str) -> None:
    text = f"{name}-12 [001] d..2. 1.000002: entry: (f+0x0/0x1) flags=0x1\n"
    if name.startswith("#"):
        return
    assert parse_hits(text, "entry").hits == (Hit(12, 1, 1_000002, {"flags": 1}, "f"),)


def test_lost_events_are_told() -> None:
    assert parse_hits(LINE + "CPU:1 [LOST 5 EVENTS]\n" + LINE, "entry").lost
    assert parse_hits("CPU:0 [LOST EVENTS]\n", "entry") == Hits((), True)
    assert not parse_hits(LINE, "entry").lost
    assert (Hits((), True) + Hits()).lost


def test_other_events_are_left_out() -> None:
    assert parse_hits(LINE.replace("entry:", "exit:"), "entry") == Hits()


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "x-1 [0] entry: ()",
        LINE.replace("58.", "58,"),
        *(LINE.replace("0x4", value) for value in ("1x4", "4", "(fault)", "0x", "0x\u0664")),
    ],
)
def test_what_is_no_line_of_a_trace_is_refused(line: str) -> None:
    with pytest.raises(TracingError, match="is no line of a trace"):
        parse_hits(line, "entry")


# Whether probes can be placed

MOUNTED = {"/proc/mounts": f"tracefs {TRACING} tracefs rw 0 0\n"}
LOCKDOWN = "/sys/kernel/security/lockdown"
CONFIDENTIAL = {LOCKDOWN: "none integrity [confidentiality]\n"}


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        (MOUNTED | CONFIDENTIAL, "kernel lockdown (confidentiality)", "reboot"),
        (
            MOUNTED | CONFIDENTIAL | {KPROBE_EVENTS: ""},
            "kernel lockdown (confidentiality)",
            "reboot",
        ),
        (
            MOUNTED | {"/proc/cmdline": "lockdown=confidentiality"},
            "tracefs is mounted and empty",
            "boot without lockdown=confidentiality",
        ),
        (MOUNTED | {f"{TRACING}/README": ""}, "tracefs is without it", "CONFIG_KPROBE_EVENTS"),
        ({}, "tracefs is not mounted there", "mount -t tracefs"),
        (MOUNTED | {LOCKDOWN: "[none]"}, "tracefs is mounted and empty", "lockdown"),
    ],
)
def test_why_no_probe_can_be_placed(
    tmp_path: Path, files: dict[str, str], what: str, remedy: str
) -> None:
    tree = stand_in(tmp_path, files)
    tree.path(TRACING).mkdir(parents=True, exist_ok=True)
    missing = hidden(tree)
    assert missing is not None
    assert what in missing.what
    assert remedy in missing.remedy
    assert ("mount " in missing.remedy) is ("not mounted" in missing.what)


def test_tracefs_that_shows_kprobe_events_hides_nothing(tmp_path: Path) -> None:
    integrity = {LOCKDOWN: "none [integrity] confidentiality", KPROBE_EVENTS: ""}
    assert hidden(stand_in(tmp_path, MOUNTED | integrity)) is None


def test_tracefs_that_may_not_be_read_asks_for_root(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, MOUNTED | {KPROBE_EVENTS: ""})
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    tree.path(TRACING).chmod(0o700)
    with as_nobody():
        missing = hidden(tree)
    assert missing is not None
    assert missing.remedy == "run as root"


# The probe, in a stand-in of tracefs

INSTANCE = f"{TRACING}/instances/kvmtest-entry"


class Tracefs(Journal):
    """A journal over a stand-in tracefs, which makes an instance's files with its directory."""

    def make_directory(self, name: str) -> None:
        super().make_directory(name)
        event = name.rpartition("kvmtest-")[2]
        files = ("trace_clock", "buffer_percent", "set_event_pid", f"events/kvmtest/{event}/enable")
        for file in files:
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
    run = RunProbe(tree, journal)
    with journal.scope():
        first = run.get("entry", "kvm_intel:f", {"flags": "%si"})
        first.follow([1])
    assert tree.read(KPROBE_EVENTS) == "p:kvmtest/entry kvm_intel:f flags=%si:x64"
    assert tree.read(f"{INSTANCE}/set_event_pid") == "1"
    with tree.path(f"{INSTANCE}/trace_pipe").open("w") as pipe, journal.scope():
        pipe.write(LINE)
        pipe.flush()
        again = run.get("entry", "kvm_intel:f", {"flags": "%si"})
        assert again is first
        assert tree.read(f"{INSTANCE}/set_event_pid") == str(os.getpid())
        assert again.read() == Hits()
    run.close()
    journal.close()
    assert (tree.read(KPROBE_EVENTS) or "").endswith("\n-:kvmtest/entry")


def test_another_place_or_other_arguments_get_another_probe(tree: Tree) -> None:
    journal = Tracefs.open(tree)
    run = RunProbe(tree, journal)
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
        run = RunProbe(tree, journal)
        for _ in range(2):
            with pytest.raises(JournalError, match="is there already"):
                run.get("entry", "kvm_intel:f", {})
        assert [change.path for change in journal.changes] == [KPROBE_EVENTS]
        run.close()
