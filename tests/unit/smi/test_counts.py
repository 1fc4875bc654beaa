"""SMIs are counted by MSR 0x34, which has 32 bits and wraps, or by perf."""

import mmap
import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stand_in import intel_host, stand_in, write

from kvmtest.host.facts.msr import MSR_SMI_COUNT, MsrAccess
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError, find_event
from kvmtest.smi import SmiCount, bystander_counts, counts
from kvmtest.smi.counts import MsrSmiCount, PerfSmiCount, event_name


def count_of(root: Path, *values: int) -> SmiCount:
    tree = intel_host(root, cpus=len(values))
    for cpu, value in enumerate(values):
        path = tree.path(f"/dev/cpu/{cpu}")
        if path.is_symlink():
            path.unlink()
        write(tree, f"/dev/cpu/{cpu}/msr", bytes(MSR_SMI_COUNT) + value.to_bytes(8, "little"))
    count = counts(Machine(tree))
    assert not isinstance(count, Missing), count
    return count


def test_each_cpu_has_its_own_count_in_the_low_32_bits(tmp_path: Path) -> None:
    count = count_of(tmp_path, 7, 0xFFFF_FFFF, 0xABCD_0000_0003)
    assert count.name == "MSR 0x34"
    assert count.cpus == (0, 1, 2)
    assert count.read(1) == 0xFFFF_FFFF
    assert count.read_all() == {0: 7, 1: 0xFFFF_FFFF, 2: 3}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_increase_is_right_across_a_wrap(before: int, smis: int) -> None:
    count = MsrSmiCount(MsrAccess(Tree(), (), None))
    assert count.increase(before, (before + smis) % 2**32) == smis


@pytest.mark.parametrize(("device", "words"), [(b"", "0x34"), (None, "module msr")])
def test_a_machine_without_a_count_says_so(
    tmp_path: Path, device: bytes | None, words: str
) -> None:
    tree = intel_host(tmp_path, cpus=1)
    path = tree.path("/dev/cpu/0/msr")
    path.unlink() if device is None else path.write_bytes(device)
    missing = counts(Machine(tree))
    assert isinstance(missing, Missing)
    assert words in missing.what


# By perf

CPU = "/sys/bus/event_source/devices/cpu/type"
SMI = "/sys/bus/event_source/devices/msr/events/smi"


def amd(family: int, vendor: str = "AuthenticAMD") -> str:
    return f"processor: 0\nvendor_id: {vendor}\ncpu family: {family}\nflags: svm\n"


@pytest.mark.parametrize(
    ("files", "event"),
    [
        ({SMI: "event=0x04", "/sys/bus/event_source/devices/msr/type": "9"}, "msr/smi/"),
        ({"/proc/cpuinfo": amd(25), CPU: "4"}, "cpu/event=0x2b/"),
        ({"/proc/cpuinfo": amd(24, "HygonGenuine"), CPU: "4"}, "cpu/event=0x2b/"),
    ],
)
def test_each_vendor_has_an_event_of_its_own(
    tmp_path: Path, files: dict[str, str], event: str
) -> None:
    tree = intel_host(tmp_path)
    stand_in(tmp_path, files)
    assert event_name(Machine(tree)) == event


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no perf PMU msr"),
        ({"/sys/bus/event_source/devices/msr/type": "9"}, "perf PMU msr has no smi event"),
        ({"/proc/cpuinfo": amd(21), CPU: "4"}, "ls_smi_rx is not in this CPU"),
        ({"/proc/cpuinfo": amd(7, "  Shanghai  "), CPU: "4"}, "SMIs on CPUs of Shanghai"),
        ({"/proc/cpuinfo": amd(7, "CentaurHauls"), CPU: "4"}, "SMIs on CPUs of CentaurHauls"),
        ({"/proc/cpuinfo": ""}, "describes no x86 CPU"),
    ],
)
def test_a_machine_without_an_event_says_so(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    tree = intel_host(tmp_path)
    stand_in(tmp_path, files)
    missing = event_name(Machine(tree))
    assert isinstance(missing, Missing)
    assert words in missing.what


def test_without_the_msr_both_reasons_are_told(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path("/dev/cpu/0/msr").unlink()
    missing = counts(Machine(tree))
    assert isinstance(missing, Missing)
    assert missing.what.startswith("nothing counts SMIs: module msr is not loaded")
    assert missing.what.endswith("; a stand-in tree has no perf events")
    assert missing.remedy == "modprobe msr"


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "HygonGenuine", "  Shanghai  "])
def test_nobody_but_intel_is_sent_after_intel_s_msr(tmp_path: Path, vendor: str) -> None:
    tree = intel_host(tmp_path)
    stand_in(tmp_path, {"/proc/cpuinfo": amd(24, vendor), "/dev/cpu/0/msr": b""})
    missing = counts(Machine(tree))
    assert isinstance(missing, Missing)
    assert missing.remedy == "run on the machine itself"
    assert "Intel" not in str(missing)


# With a mediated PMU an event of the cores keeps others from starting a VM

MEDIATED = "/sys/module/kvm_amd/parameters/enable_mediated_pmu"


def amd_host(root: Path, mediated: str) -> Tree:
    tree = intel_host(root)
    for path in sorted(tree.path("/sys/module/kvm_intel").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tree.path("/sys/module/kvm_intel").rmdir()
    files = {"/proc/cpuinfo": amd(25), "/sys/module/kvm_amd/initstate": "live", MEDIATED: mediated}
    return stand_in(root, files)


def test_a_bystander_opens_no_event_that_keeps_others_from_starting_a_vm(tmp_path: Path) -> None:
    tree = amd_host(tmp_path, "Y")
    missing = bystander_counts(Machine(tree))
    assert isinstance(missing, Missing)
    assert missing.what.startswith("KVM's PMU is mediated")
    # The stand-in's MSR 0x34 would do; that shows that what follows did look for a count.
    assert isinstance(bystander_counts(Machine(tree, allow_other_vms=True)), MsrSmiCount)
    write(tree, MEDIATED, "N")
    assert isinstance(bystander_counts(Machine(tree)), MsrSmiCount)


def test_intel_s_counts_keep_nobody_from_anything(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, "/sys/module/kvm_intel/parameters/enable_mediated_pmu", "Y")
    assert isinstance(bystander_counts(Machine(tree)), MsrSmiCount)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_perf_counts_on_each_cpu_apart_from_its_opening_to_its_close() -> None:
    *others, cpu = sorted(os.sched_getaffinity(0))
    try:
        count = PerfSmiCount(Tree(), find_event(Tree(), "page-faults"), [*others, cpu])
    except CounterError as error:
        pytest.skip(f"needs perf: {error}")
    with closing(count):
        assert count.cpus == (*others, cpu)
        before = count.read_all()
        os.sched_setaffinity(0, {cpu})
        try:
            with mmap.mmap(-1, 5000 * mmap.PAGESIZE) as memory:
                for at in range(0, len(memory), mmap.PAGESIZE):
                    memory[at] = 1
        finally:
            os.sched_setaffinity(0, {cpu, *others})
        assert count.increase(before[cpu], count.read(cpu)) >= 5000
        kept = open_files()
    assert open_files() == kept - len(count.cpus)
