"""An event's name finds its PMU in sysfs or its tracepoint in tracefs, or says what is there."""

import os
from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.errors import UsageError
from kvmtest.host.facts.perf_pmus import hardware_pmu
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError, Event, find_event

DEVICES = "/sys/bus/event_source/devices"
EVENTS = "/sys/kernel/tracing/events"
INTEL = {
    f"{DEVICES}/cpu/type": "4\n",
    f"{DEVICES}/cpu/format/event": "config:0-7\n",
    f"{DEVICES}/cpu/events/instructions": "event=0xc0\n",
    f"{DEVICES}/msr/type": "9\n",
    f"{DEVICES}/msr/format/event": "config:0-63\n",
    f"{DEVICES}/msr/events/smi": "event=0x04\n",
    f"{EVENTS}/kvm/kvm_exit/id": "103\n",
    f"{EVENTS}/kvm/kvm_entry/id": "102\n",
    f"{EVENTS}/kvm/enable": "0\n",
    f"{EVENTS}/sched/sched_switch/id": "314\n",
}
HYBRID = {f"{DEVICES}/cpu_core/type": "4\n", f"{DEVICES}/cpu_atom/type": "10\n"} | {
    f"{DEVICES}/{pmu}/{file}": text
    for pmu in ("cpu_core", "cpu_atom")
    for file, text in {
        "format/event": "config:0-7\n",
        "events/instructions": "event=0xc0\n",
    }.items()
}


@pytest.mark.parametrize(
    ("files", "text", "type_", "config"),
    [
        (INTEL, "cpu/instructions/uG", 4, 0xC0),
        (INTEL, "msr/smi/", 9, 4),
        (INTEL, "instructions:uG", 0, 1),
        (INTEL, "kvm:kvm_exit", 2, 103),
        (INTEL, "sched:sched_switch:k", 2, 314),
        (HYBRID, "cpu_atom/instructions/", 10, 0xC0),
        (HYBRID, "task-clock", 1, 1),
        ({}, "instructions", 0, 1),
    ],
)
def test_an_event_is_found(
    tmp_path: Path, files: dict[str, str], text: str, type_: int, config: int
) -> None:
    event = find_event(stand_in(tmp_path, files), text)
    assert isinstance(event, Event)
    assert (event.name, event.type, event.config) == (text, type_, config)


def test_a_known_pmu_is_not_read_again(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, INTEL)
    known = hardware_pmu(tree)
    assert not isinstance(known, Missing)
    gone = stand_in(tmp_path / "gone", {f"{DEVICES}/msr/type": "9\n"})
    assert find_event(gone, "cpu/instructions/", known) == find_event(tree, "cpu/instructions/")
    assert find_event(gone, "msr/config=4/", known).type == 9


@pytest.mark.parametrize(
    ("files", "text", "words"),
    [
        (INTEL, "uncore/x/", "no perf PMU uncore; there are: cpu, msr"),
        (INTEL, "cpu_atom/instructions/", "no perf PMU cpu_atom; there are: cpu, msr"),
        (INTEL, "msr/aperf/", "its events: smi;"),
        (INTEL, "kvm:kvm_exits", "kvm has: kvm_entry, kvm_exit"),
        (INTEL, "kmv:kvm_exit", "no tracepoints kmv; there are: kvm, sched"),
        (HYBRID, "instructions", "write cpu_core/.../ or cpu_atom/.../"),
    ],
)
def test_a_name_of_nothing_is_told_what_there_is(
    tmp_path: Path, files: dict[str, str], text: str, words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        find_event(stand_in(tmp_path, files), text)
    assert words in str(refused.value)


def test_a_machine_without_the_cores_pmu_says_why(tmp_path: Path) -> None:
    cpuinfo = "processor: 0\nvendor_id: GenuineIntel\nflags: hypervisor\n"
    files = {"/proc/cpuinfo": cpuinfo, f"{DEVICES}/msr/type": "9\n"}
    with pytest.raises(CounterError, match=r"cpu/instructions/: this virtual machine has no PMU"):
        find_event(stand_in(tmp_path, files), "cpu/instructions/")


def tracepoint_refused(tree: Tree) -> Missing:
    with pytest.raises(CounterError, match="can't count kvm:kvm_exit: ") as refused:
        find_event(tree, "kvm:kvm_exit")
    return refused.value.missing


def test_tracefs_that_is_not_mounted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "mount -t tracefs" in tracepoint_refused(Tree(tmp_path)).remedy
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert tracepoint_refused(Tree(tmp_path)).remedy == "run as root"


def test_lockdown_that_hides_tracefs_is_named(tmp_path: Path) -> None:
    files = {"/sys/kernel/security/lockdown": "none integrity [confidentiality]\n"}
    tree = stand_in(tmp_path, files)
    tree.path(f"{EVENTS}/kvm/kvm_exit/id").mkdir(parents=True)  # there, and not readable
    assert "lockdown" in tracepoint_refused(tree).what
