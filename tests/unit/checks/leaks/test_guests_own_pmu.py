"""The guest's own PMU: what is in its way is moved or named, and what it is is told."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.stand_in import intel_host, write

from kvmtest.checks.context import Context
from kvmtest.checks.leaks import guests_own_pmu
from kvmtest.checks.leaks.guests_own_pmu import make_way, refused, whose_counters
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.vmx.entry import after_emulation
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.host.changes.journal import Journal
from kvmtest.host.changes.kprobes import ProbePool
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Reading, Role
from kvmtest.kvm import KvmError
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError

PARAMETER = "/sys/module/kvm_intel/parameters/enable_mediated_pmu"
WATCHDOG = "/proc/sys/kernel/nmi_watchdog"


def context(tree: Tree, journal: Journal) -> Context:
    return Context(Machine(tree), journal, Missing("no log"), ProbePool(tree, journal))


def host(root: Path, *, mediated: str = "Y", watchdog: str = "1") -> Tree:
    tree = intel_host(root)
    write(tree, PARAMETER, f"{mediated}\n")
    write(tree, WATCHDOG, f"{watchdog}\n")
    return tree


def test_the_nmi_watchdog_stops_for_a_mediated_pmu_and_goes_on_after_it(tmp_path: Path) -> None:
    tree = host(tmp_path)
    with Journal.open(tree) as journal:
        with journal.scope():
            assert make_way(context(tree, journal)) is None
            assert tree.read(WATCHDOG) == "0"
        assert tree.read(WATCHDOG) == "1"
    assert [(c.path, c.undone) for c in journal.changes] == [(WATCHDOG, True)]


@pytest.mark.parametrize(("mediated", "watchdog"), [("N", "1"), ("Y", "0")])
def test_it_is_left_alone_where_it_is_in_nobodys_way(
    tmp_path: Path, mediated: str, watchdog: str
) -> None:
    tree = host(tmp_path, mediated=mediated, watchdog=watchdog)
    with Journal.open(tree) as journal:
        assert make_way(context(tree, journal)) is None
        assert tree.read(WATCHDOG) == watchdog
    assert journal.changes == []


def test_a_watchdog_that_can_not_be_stopped_is_named(tmp_path: Path) -> None:
    tree = host(tmp_path)
    journal = Journal.open(tree)
    journal.close()  # Closed, it refuses every change.
    missing = make_way(context(tree, journal))
    assert missing is not None
    assert "the NMI watchdog keeps KVM from giving guests a mediated PMU" in missing.what
    assert missing.remedy == "sysctl kernel.nmi_watchdog=0"
    assert tree.read(WATCHDOG) == "1"


def test_a_refused_vcpu_is_told_from_other_errors() -> None:
    missing = refused(KvmError("KVM_CREATE_VCPU", errno.EBUSY, "vCPU 0"))
    assert missing is not None
    assert "perf" in missing.remedy
    assert refused(KvmError("KVM_CREATE_VCPU", errno.EEXIST)) is None
    assert refused(KvmError("KVM_CREATE_VM", errno.EBUSY)) is None


def readings(tree: Tree) -> list[Reading]:
    return list(whose_counters(SimpleNamespace(machine=Machine(tree))))  # type: ignore[arg-type]


def test_without_the_parameter_the_guests_pmu_is_emulated(tmp_path: Path) -> None:
    for mediated in ("N", None):
        tree = intel_host(tmp_path / str(mediated))
        if mediated:
            write(tree, PARAMETER, mediated)
        (said,) = readings(tree)
        assert (said.role, said.observed) == (Role.MEASURE, "emulated")


@pytest.mark.parametrize(
    ("number", "seen"),
    [(errno.EOPNOTSUPP, "mediated"), (0, "emulated"), (errno.EACCES, "unknown: why")],
)
def test_with_it_a_mediated_pmu_is_one_beside_which_perf_counts_no_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, seen: str
) -> None:
    """What perf says to an event that counts guests; no KVM here has one to ask."""
    tree = host(tmp_path)
    write(tree, "/sys/bus/event_source/devices/cpu/events/instructions", "event=0xc0")
    closed = []

    class Group:
        def __init__(self, _: Tree, events: list[Any]) -> None:
            assert events[0].excluded == {"exclude_host"}
            if number:
                raise CounterError("it", Missing("why"), number)

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(guests_own_pmu, "CounterGroup", Group)
    (said,) = readings(tree)
    assert (said.role, said.observed, said.expected) == (Role.CONTROL, seen, "mediated")
    assert len(closed) == (not number)


@pytest.mark.parametrize(
    "look",
    [lambda c: look_for_leaks(c, Step.NEW), after_emulation._leaks],
    ids=["walk", "emulation"],
)
def test_other_properties_count_no_guests_where_that_would_hinder_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Any
) -> None:
    monkeypatch.setattr("kvmtest.checks.witnesses.leak.witness_lacks", lambda *_: [])
    tree = host(tmp_path)
    tree.path("/proc/77/fd").mkdir(parents=True)
    tree.path("/proc/77/fd/3").symlink_to("/dev/kvm")
    with Journal.open(tree) as journal:
        (absence,) = look(context(tree, journal))
    assert isinstance(absence, Absence)
    assert absence.witness == "leak"
    assert "nobody can start a VM with a PMU while kvmtest counts guests" in absence.missing.what
