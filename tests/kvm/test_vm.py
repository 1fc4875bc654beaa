"""kvmtest/kvm/vm.py and memory.py on this machine's /dev/kvm."""

import errno
import signal
from collections.abc import Callable

import pytest

from kvmtest._native import ffi, lib
from kvmtest.kvm import CapabilityMissing, HltExit, IoExit, KvmError, Memory, System, Vm
from kvmtest.kvm.mapped_memory import MappedMemory

OpenFiles = Callable[[], set[str]]


def test_closing_a_vm_closes_its_vcpus_memory_and_statistics(
    system: System, open_files: OpenFiles
) -> None:
    before = open_files()
    with system.create_vm() as vm:
        vm.add_memory(0x1000)
        vcpus = [vm.create_vcpu(), vm.create_vcpu()]
        for vcpu in vcpus:
            if system.check_extension("KVM_CAP_BINARY_STATS_FD"):
                vcpu.stats()
                vm.stats()
        assert len(open_files()) > len(before) + 2
    assert open_files() == before
    assert [vcpu.fd for vcpu in vcpus] == [-1, -1]
    vm.close()


def test_closing_a_vcpu_first_is_fine(system: System, open_files: OpenFiles) -> None:
    before = open_files()
    with system.create_vm() as vm, vm.create_vcpu() as vcpu:
        vcpu.close()
    assert open_files() == before


def test_an_error_inside_the_block_closes_everything(system: System, open_files: OpenFiles) -> None:
    def fail(vm: Vm) -> None:
        vm.add_memory(0x1000)
        vm.create_vcpu()
        raise RuntimeError("on purpose")

    before = open_files()
    with pytest.raises(RuntimeError, match="on purpose"), system.create_vm() as vm:
        fail(vm)
    assert open_files() == before


def test_a_vm_can_be_made_to_go_without_a_pmu_before_its_first_vcpu_alone(
    system: System,
) -> None:
    """Where this KVM offers that; one that does not refuses it."""
    with system.create_vm() as vm:
        offered = vm.check_extension("KVM_CAP_PMU_CAPABILITY")
        assert vm.disable_pmu() is bool(offered)
        if not offered:
            with pytest.raises(KvmError):
                vm.enable_cap("KVM_CAP_PMU_CAPABILITY", lib.KVM_PMU_CAP_DISABLE)
            return
        vm.create_vcpu()
        with pytest.raises(KvmError, match="EINVAL"):
            vm.disable_pmu()


def test_refused_ioctls_leave_no_descriptor(vm: Vm, open_files: OpenFiles) -> None:
    vm.create_vcpu(0)
    before = open_files()
    for number in (0, 1 << 20):
        with pytest.raises(KvmError, match=f"KVM_CREATE_VCPU on vCPU {number}: "):
            vm.create_vcpu(number)
    assert open_files() == before


def test_a_vcpu_whose_mapping_fails_is_closed(system: System, open_files: OpenFiles) -> None:
    before = open_files()
    with system.create_vm() as vm:
        vm._vcpu_mmap_size = 1 << 56
        with pytest.raises(OSError, match="Cannot allocate memory"):
            vm.create_vcpu()
    assert open_files() == before


def test_a_taken_vcpu_id_is_named_with_what_to_do(vm: Vm) -> None:
    vm.create_vcpu(5)
    with pytest.raises(KvmError, match="this vCPU id is taken") as caught:
        vm.create_vcpu(5)
    assert caught.value.errno == errno.EEXIST


def test_vcpu_ids_count_up(vm: Vm) -> None:
    assert [vm.create_vcpu().id for _ in range(3)] == [0, 1, 2]
    assert repr(vm.vcpus[2]) == "<vCPU 2>"


def test_overlapping_slots_are_refused_with_what_to_do(vm: Vm) -> None:
    vm.add_memory(0x2000, 0x10000)
    with pytest.raises(KvmError, match="the slot overlaps another"):
        vm.add_memory(0x1000, 0x11000)


def test_memory_that_is_no_multiple_of_a_page_is_refused(vm: Vm) -> None:
    with pytest.raises(KvmError, match=r"KVM_SET_USER_MEMORY_REGION: .*\(EINVAL\)"):
        vm.add_memory(0x1001)


def test_guest_and_host_share_memory(vm: Vm) -> None:
    memory = vm.add_memory(0x1000, 0x10000)
    memory.write(0x10000, bytes([0xFE, 0x06, 0x40, 0x00, 0xF4]))  # incb 0x40; hlt
    vcpu = vm.create_vcpu()
    sregs = vcpu.get_sregs()
    for segment in (sregs.cs, sregs.ds):
        segment.base, segment.selector = 0x10000, 0x1000
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rflags = 0, 2
    vcpu.set_regs(regs)
    memory.write(0x10040, b"\x41")
    assert vcpu.run() == HltExit()
    assert memory.read(0x10040, 1) == b"\x42"


def test_a_region_can_be_moved_to_another_guest_address(vm: Vm) -> None:
    memory = Memory(0x1000, 0x4000)
    vm.set_user_memory_region(0, memory)
    memory.guest_address = 0x8000
    vm.set_user_memory_region(0, memory)
    vm.close()
    memory.close()


def test_flags_reach_the_slot(vm: Vm) -> None:
    if not vm.check_extension("KVM_CAP_READONLY_MEM"):
        pytest.skip("needs KVM_CAP_READONLY_MEM")
    vm.add_memory(0x1000, flags=lib.KVM_MEM_READONLY)
    with pytest.raises(KvmError, match="EINVAL"):
        vm.add_memory(0x1000, 0x10000, flags=1 << 30)


@pytest.mark.parametrize(
    ("address", "length"), [(0xFFF, 1), (0x1000, 0x1001), (0x2000, 1), (0x1FFF, 2), (0, 0)]
)
def test_addresses_outside_the_slot_are_refused(vm: Vm, address: int, length: int) -> None:
    memory = vm.add_memory(0x1000, 0x1000)
    with pytest.raises(IndexError, match=f"guest memory has no {length} bytes at {address:#x}"):
        memory.read(address, length)
    with pytest.raises(IndexError):
        memory.write(address, bytes(length) if length else b"")
    with pytest.raises(IndexError):
        memory.host_address_of(address, length)


def test_negative_lengths_are_refused(vm: Vm) -> None:
    with pytest.raises(IndexError):
        vm.add_memory(0x1000).read(0x10, -1)


def test_a_structure_lies_over_the_bytes_and_must_fit(vm: Vm) -> None:
    memory = vm.add_memory(0x1000, 0x1000)
    gap = memory.struct("struct guest_gap *", 0x1FF0)
    gap.begin = 0x1122334455667788
    assert memory.read(0x1FF0, 8) == bytes.fromhex("8877665544332211")
    with pytest.raises(IndexError):
        memory.struct("struct guest_gap *", 0x1FF1)
    with pytest.raises(IndexError):
        memory.struct("struct guest_gap *", 0xFF0)


def test_memory_of_a_closed_vm_is_an_error_not_a_crash(system: System) -> None:
    with system.create_vm() as vm:
        memory = vm.add_memory(0x1000)
    for use in (
        lambda: memory.read(0, 1),
        lambda: memory.write(0, b"x"),
        lambda: memory.struct("struct guest_gap *", 0),
        lambda: memory.host_address_of(0, 1),
    ):
        with pytest.raises(IndexError):
            use()


def test_enable_cap_passes_its_arguments(vm: Vm) -> None:
    if not vm.check_extension("KVM_CAP_X86_USER_SPACE_MSR"):
        pytest.skip("needs KVM_CAP_X86_USER_SPACE_MSR")
    vm.enable_cap("KVM_CAP_X86_USER_SPACE_MSR", lib.KVM_MSR_EXIT_REASON_UNKNOWN)
    with pytest.raises(KvmError, match=r"KVM_ENABLE_CAP: .*EINVAL"):
        vm.enable_cap("KVM_CAP_X86_USER_SPACE_MSR", 1 << 40)
    with pytest.raises(KvmError, match=r"KVM_ENABLE_CAP: .*EINVAL"):
        vm.enable_cap("KVM_CAP_X86_USER_SPACE_MSR", flags=1)


def test_require_returns_the_value_or_names_what_is_missing(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vm.require("KVM_CAP_NR_MEMSLOTS") >= 32
    monkeypatch.setattr(vm, "check_extension", lambda capability: 0)
    with pytest.raises(CapabilityMissing, match="KVM_CAP_X86_SMM: not offered") as caught:
        vm.require("KVM_CAP_X86_SMM")
    assert caught.value.capability == "KVM_CAP_X86_SMM"
    with pytest.raises(CapabilityMissing, match="KVM_CAP_BINARY_STATS_FD"):
        vm.stats()


def test_an_unknown_ioctl_number_is_enotty_with_what_to_do(vm: Vm) -> None:
    with pytest.raises(KvmError, match="this kernel does not know it"):
        vm._ioctl("KVM_GET_REGS")


def test_an_irqchip_is_made_once(vm: Vm) -> None:
    vm.create_irqchip()
    with pytest.raises(KvmError, match="KVM_CREATE_IRQCHIP"):
        vm.create_irqchip()


def test_the_program_in_the_packages_docstring_runs(system: System) -> None:
    with system.create_vm() as vm:
        memory = vm.add_memory(0x1000)
        memory.write(0, bytes([0xE6, 0x10, 0xF4]))
        vcpu = vm.create_vcpu()
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags = 0, 0x202
        vcpu.set_regs(regs)
        assert vcpu.run(timeout=0.1) == IoExit(0x10, True, 1, 1, b"\0")


def test_signals_do_not_keep_a_vm_from_being_made(system: System) -> None:
    seen = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        while len(seen) < 100:
            with system.create_vm() as vm:
                vm.add_memory(0x1000)
                vm.create_vcpu().get_regs()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_structures_of_the_kernel_are_known_to_cffi() -> None:
    assert ffi.sizeof("struct kvm_run") >= 2048


def test_shared_memory_ends_where_it_ends() -> None:
    memory = MappedMemory(4096)
    memory.buffer[4090:4096] = b"abcdef"
    assert memory.buffer[4090 : 1 << 70] == b"abcdef"
    assert memory.buffer[1 << 40 : 1 << 41] == b""
    with pytest.raises(ValueError, match="right operand length"):
        memory.buffer[4090:5000] = bytes(910)
    memory.close()
    assert (memory.buffer[0:1], memory.size) == (b"", 0)
    memory.close()


def test_memory_that_the_host_does_not_have_is_refused() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Memory(1 << 56, 0)
