"""A refusal names what stands in the way on this machine, and what to do."""

import errno
import os
from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.pmu import CounterError, Event
from kvmtest.pmu.refusal import not_counted, not_opened

CYCLES = Event("cycles:uG", "hardware", 0, excluded=frozenset({"exclude_host"}))
SWITCHES = Event("context-switches", "software", 1, 3)
ATOM = Event("cpu_atom/instructions/", "cpu_atom", 10, 0xC0)

WATCHDOG = {"/proc/sys/kernel/nmi_watchdog": "1\n"}
CONFIDENTIAL = {"/sys/kernel/security/lockdown": "none integrity [confidentiality]\n"}
GUEST = {
    "/proc/cpuinfo": "processor: 0\nvendor_id: GenuineIntel\nflags: hypervisor\n",
    "/sys/bus/event_source/devices/msr/type": "9\n",
}
WITH_PMU = {"/sys/bus/event_source/devices/cpu/type": "4\n"}


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP])
def test_a_machine_without_a_pmu_is_told_from_one_that_lacks_the_event(
    tmp_path: Path, number: int
) -> None:
    tree = stand_in(tmp_path / "guest", GUEST)
    assert "this virtual machine has no PMU" in str(not_opened(tree, CYCLES, number))
    assert "PMU software can't count this event" in str(not_opened(tree, SWITCHES, number))
    tree = stand_in(tmp_path / "metal", WITH_PMU)
    assert "PMU hardware can't count this event" in str(not_opened(tree, CYCLES, number))


def with_mediated_pmu(module: str, value: str) -> dict[str, str]:
    """A host whose KVM has that value of the parameter."""
    intel, amd = ("GenuineIntel", "vmx"), ("AuthenticAMD", "svm")
    vendor, flag = intel if module == "kvm_intel" else amd
    return {
        **WITH_PMU,
        "/proc/cpuinfo": f"processor: 0\nvendor_id: {vendor}\nflags: {flag}\n",
        f"/sys/module/{module}/initstate": "live\n",
        f"/sys/module/{module}/parameters/enable_mediated_pmu": f"{value}\n",
    }


BOTH_MODES = Event("cycles", "hardware", 0)
HOST_ONLY = Event("cycles:H", "hardware", 0, excluded=frozenset({"exclude_guest"}))
RAW = Event("cpu/event=0xc0/G", "cpu", 4, 0xC0, excluded=frozenset({"exclude_host"}))
MSR_SMI = Event("msr/smi/", "msr", 9, 4)


@pytest.mark.parametrize("module", ["kvm_intel", "kvm_amd"])
@pytest.mark.parametrize("event", [CYCLES, BOTH_MODES, RAW])
def test_a_vm_with_a_mediated_pmu_is_named_where_the_event_counts_guests(
    tmp_path: Path, module: str, event: Event
) -> None:
    tree = stand_in(tmp_path, with_mediated_pmu(module, "Y"))
    text = str(not_opened(tree, event, errno.EOPNOTSUPP))
    assert "a VM with a mediated PMU is running" in text
    assert "enable_mediated_pmu=0" in text
    assert "can't count this event" in str(not_opened(tree, event, errno.ENOENT))


@pytest.mark.parametrize(
    ("event", "value"), [(CYCLES, "N"), (HOST_ONLY, "Y"), (MSR_SMI, "Y"), (SWITCHES, "Y")]
)
def test_an_event_is_unknown_where_no_mediated_pmu_can_be_in_its_way(
    tmp_path: Path, event: Event, value: str
) -> None:
    tree = stand_in(tmp_path, with_mediated_pmu("kvm_intel", value))
    assert "can't count this event" in str(not_opened(tree, event, errno.EOPNOTSUPP))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_the_paranoid_level_is_named_to_who_is_not_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tree = stand_in(tmp_path, {"/proc/sys/kernel/perf_event_paranoid": "3\n"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "kernel.perf_event_paranoid is 3; run as root" in str(not_opened(tree, CYCLES, number))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said = str(not_opened(tree, CYCLES, number))
    assert "container" in said
    # Lockdown keeps root from samples of registers, never from counting.
    assert str(not_opened(stand_in(tmp_path, CONFIDENTIAL), CYCLES, number)) == said


@pytest.mark.parametrize(
    ("files", "number", "words"),
    [
        (WATCHDOG, errno.EBUSY, "sysctl kernel.nmi_watchdog=0"),
        ({}, errno.EBUSY, "end other perf sessions"),
        ({}, errno.EINVAL, "refuses config 0x0, exclude_host, the CPU, or so big a group"),
        ({}, errno.ESRCH, "the thread has ended"),
        ({}, errno.ENOSYS, "CONFIG_PERF_EVENTS"),
        ({}, errno.EMFILE, "ulimit -n"),
        ({}, errno.E2BIG, "Argument list too long; see perf_event_open(2)"),
    ],
)
def test_an_errno_has_its_reason(
    tmp_path: Path, files: dict[str, str], number: int, words: str
) -> None:
    error = not_opened(stand_in(tmp_path, files), CYCLES, number)
    assert isinstance(error, CounterError)
    assert error.errno == number
    assert str(error).startswith(f"can't count cycles:uG ({errno.errorcode[number]}): ")
    assert words in str(error)
    assert error.missing.remedy


LOWPOWER = Event("cpu_lowpower/instructions/", "cpu_lowpower", 11, 0xC0)
THREE_KINDS = {
    f"/sys/bus/event_source/devices/{name}/{file}": text
    for name, number, cpus in (
        ("cpu_core", 4, "0-5"),
        ("cpu_atom", 10, "6"),
        (LOWPOWER.pmu, 11, "7"),
    )
    for file, text in {"type": f"{number}\n", "cpus": f"{cpus}\n"}.items()
}
BUDDY = {
    "/proc/sys/kernel/osrelease": "7.0.0\n",
    "/boot/config-7.0.0": "CONFIG_HARDLOCKUP_DETECTOR_BUDDY=y\n",
}


@pytest.mark.parametrize(
    ("files", "event", "competes"),
    [
        (WATCHDOG, CYCLES, True),
        (WATCHDOG | THREE_KINDS, LOWPOWER, True),
        (WATCHDOG, MSR_SMI, False),
        (WATCHDOG, SWITCHES, False),
        (WATCHDOG | BUDDY, CYCLES, False),
        ({}, CYCLES, False),
    ],
    ids=["cores", "a third kind", "msr", "software", "CPUs watch each other", "off"],
)
def test_the_watchdog_is_blamed_only_for_a_counter_that_it_holds(
    tmp_path: Path, files: dict[str, str], event: Event, competes: bool
) -> None:
    tree = stand_in(tmp_path, files)
    for error in (not_opened(tree, event, errno.EBUSY), not_counted(tree, [event], 1000, 0)):
        assert ("nmi_watchdog" in error.missing.remedy) is competes
        assert error.missing.remedy


def test_a_thread_is_kept_on_the_cpus_of_whatever_kind_of_core_counts_it(tmp_path: Path) -> None:
    error = not_counted(stand_in(tmp_path, THREE_KINDS), [LOWPOWER], 1000, 0)
    assert "keep the thread on the CPUs of cpu_lowpower" in error.missing.remedy


@pytest.mark.parametrize(
    ("enabled", "running", "words"),
    [
        (0, 0, "the pinned group did not get its counters"),
        (1000, 0, "the group was never given its counters"),
        (1000, 999, "multiplexed: it counted 999 ns of 1000"),
    ],
)
def test_an_uncounted_group_says_how_little_and_what_to_end(
    tmp_path: Path, enabled: int, running: int, words: str
) -> None:
    quiet = not_counted(stand_in(tmp_path / "a", {}), [CYCLES, SWITCHES], enabled, running)
    assert words in str(quiet)
    assert "cycles:uG, context-switches" in str(quiet)
    assert "end other perf sessions" in quiet.missing.remedy
    assert "watchdog" not in quiet.missing.remedy
    watched = not_counted(stand_in(tmp_path / "b", WATCHDOG), [ATOM], enabled, running)
    assert "sysctl kernel.nmi_watchdog=0" in watched.missing.remedy
    assert "keep the thread on the CPUs of cpu_atom" in watched.missing.remedy
