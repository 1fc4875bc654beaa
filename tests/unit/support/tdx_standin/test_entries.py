"""Entries into a TD: what the host shows of them, sound and with each fault."""

import os
from pathlib import Path

import pytest
from support.tdx_standin.entries import Entries, OrdinaryEntries, processor
from support.tdx_standin.faults import FAULTS
from support.tdx_standin.host import Host, tdx_host

SELF = os.getpid()


class Seen(Host):
    """A host that keeps the flags of all hits."""

    def __init__(self, root: Path) -> None:
        super().__init__(tdx_host(root, 2), 2)
        self.flags: list[int] = []

    def hit(self, function: str, tid: int, cpu: int, flags: int) -> None:
        self.flags.append(flags)


@pytest.fixture
def host(tmp_path: Path) -> Seen:
    return Seen(tmp_path / "host")


def run(host: Seen, *faults: str) -> list[str]:
    """Enter on CPU 0 with the knob at 1, 1, 0 and 1; return why the TD died, and the bits after."""
    entries = Entries(host, faults)
    told = []
    for knob in (1, 1, 0, 1):
        host.set_knob(knob)
        why = entries.enter(SELF, 0)
        entries.leave(0)
        told.append(f"{why}{host.bit(0)}")
        host.set_bit(0, knob)
    assert entries.count == 4
    return told


def test_a_sound_kvm_raises_no_flag_and_keeps_the_bit(host: Seen) -> None:
    assert run(host) == ["1", "1", "0", "1"]
    assert host.flags == [0] * 4
    assert not any(b"WARNING" in record for record in host.records)


@pytest.mark.parametrize(("fault", "told"), [
    ("host-bit-lost", ["0", "0", "0", "0"]), ("host-bit-set", ["1", "1", "1", "1"]),
    ("host-bit-stale", ["1", "1", "1", "1"]),
    ("dies-of-toggle", ["1", "1", "a toggle0", "a toggle1"]),
])  # fmt: skip
def test_a_fault_shows(host: Seen, fault: str, told: list[str]) -> None:
    assert fault in FAULTS
    assert run(host, fault) == told
    assert host.flags == [0] * 4


@pytest.mark.parametrize(("fault", "flags", "warnings"), [
    ("flag-seen", [4, 0, 4, 4], 1), ("flag-unwarned", [4, 0, 4, 4], 0), ("warns", [0] * 4, 1),
])  # fmt: skip
def test_a_flag_is_seen_and_warned_of(
    host: Seen, fault: str, flags: list[int], warnings: int
) -> None:
    assert fault in FAULTS
    assert run(host, fault) == ["1", "1", "0", "1"]
    assert host.flags == flags
    assert sum(b"WARNING" in record for record in host.records) == warnings


def test_an_ordinary_guest_is_told_once_of_each_change(host: Seen) -> None:
    entries = OrdinaryEntries(host)
    for knob in (1, 1, 0, 0, 1):
        host.set_knob(knob)
        entries.enter(SELF, 0)
    assert host.flags == [4, 0, 4, 0, 4]


def test_an_interrupt_of_the_host_has_kvm_enter_again_unflagged(host: Seen) -> None:
    ordinary, td = OrdinaryEntries(host), Entries(host, {"flag-seen"})
    for _ in range(8):
        ordinary.enter(SELF, 0)
    assert host.flags == [4, *[0] * 8]
    host.flags.clear()
    for _ in range(8):
        td.enter(SELF, 0)
    assert host.flags == [4, *[0] * 8]
    assert td.count == 8


def test_the_cpu_of_a_thread_is_one_that_it_may_run_on() -> None:
    assert processor(SELF) in os.sched_getaffinity(0)
