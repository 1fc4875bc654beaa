"""kvmtest/kvm/tdx.py and private memory on this machine's /dev/kvm, which need not have TDX."""

import errno
from collections.abc import Callable

import pytest

from kvmtest._native import lib
from kvmtest.kvm import CapabilityMissing, Cpuid, KvmError, Memory, System, Vm, tdx

OpenFiles = Callable[[], set[str]]


def test_a_td_is_refused_where_kvm_has_none(system: System) -> None:
    if system.check_extension("KVM_CAP_VM_TYPES") & 1 << lib.KVM_X86_TDX_VM:
        pytest.skip("needs a KVM without TDX")
    with pytest.raises(CapabilityMissing, match="KVM_CAP_VM_TYPES bit 5"):
        system.create_vm(lib.KVM_X86_TDX_VM)


@pytest.mark.parametrize(
    ("command", "ask"),
    [
        ("KVM_TDX_CAPABILITIES", tdx.capabilities),
        ("KVM_TDX_INIT_VM", lambda vm: tdx.init_vm(vm, Cpuid())),
        ("KVM_TDX_INIT_VCPU", lambda vm: tdx.init_vcpu(vm.create_vcpu())),
        ("KVM_TDX_FINALIZE_VM", tdx.finalize_vm),
        ("KVM_TDX_GET_CPUID", lambda vm: tdx.get_cpuid(vm.create_vcpu())),
    ],
)
def test_a_vm_that_is_no_td_refuses_each_sub_command_by_name(
    vm: Vm, command: str, ask: Callable[[Vm], object]
) -> None:
    with pytest.raises(tdx.TdxError, match=f"^{command}") as caught:
        ask(vm)
    assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)
    assert caught.value.hw_error == 0


def test_private_memory_is_refused_where_this_type_of_vm_has_none(
    vm: Vm, open_files: OpenFiles
) -> None:
    if vm.check_extension("KVM_CAP_MEMORY_ATTRIBUTES"):
        pytest.skip("needs a VM without private memory")
    before = open_files()
    with pytest.raises(CapabilityMissing):
        vm.add_private_memory(0x1000)
    assert open_files() == before


def test_a_guest_memfd_is_closed_with_its_vm(system: System, open_files: OpenFiles) -> None:
    before = open_files()
    with system.create_vm() as vm:
        if not vm.check_extension("KVM_CAP_GUEST_MEMFD"):
            pytest.skip("needs guest_memfd for VMs of the default type")
        memory = Memory(0x1000, 0x10000, vm.create_guest_memfd(0x1000))
        vm.memories.append(memory)
        vm.set_user_memory_region2(0, memory)
        assert any(f"{memory.guest_memfd} " in name for name in open_files() - before)
    assert open_files() == before


def test_a_split_irqchip_comes_before_the_first_vcpu(system: System) -> None:
    with system.create_vm() as vm:
        vm.require("KVM_CAP_SPLIT_IRQCHIP")
        vm.split_irqchip()
        vm.create_vcpu()
        with pytest.raises(KvmError, match="EEXIST"):
            vm.split_irqchip()
