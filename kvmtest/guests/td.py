"""TD guests
=========

The guest of long_registers.S as a trust domain, in a VM of its own: made, measured and final, so
that it can be booted. guests/td.S has the way from a TD's first instruction to that guest. It was
not run on hardware with TDX yet.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest._native import lib
from kvmtest.kvm import Cpuid, Memory, System, Vm, tdx

from .guest import Guest
from .image import Image, load
from .modes import write_long_mode
from .registers import Registers

__all__ = ["create_td", "td_guest", "with_x2apic"]

#: Leaf 1, ECX.
X2APIC = 1 << 21


@contextmanager
def td_guest(system: System) -> Iterator[Guest]:
    """Yield a TD that is not entered yet; raises CapabilityMissing or KvmError.

    Its memory is private: commands and results go through registers.
    """
    with system.create_vm(lib.KVM_X86_TDX_VM) as vm:
        vm.split_irqchip()
        create_td(vm, system.get_supported_cpuid())
        image = load("td")
        memories = _memory(vm, image)
        vcpu = vm.create_vcpu()
        vcpu.set_cpuid(with_x2apic(tdx.get_cpuid(vcpu)))
        tdx.init_vcpu(vcpu)
        for memory in memories:
            tdx.init_mem_region(vcpu, memory, memory.guest_address, memory.size)
        tdx.finalize_vm(vm)
        yield Guest(vcpu, image, Registers())


def create_td(vm: Vm, supported: Cpuid) -> None:
    """Make a VM a TD without vCPUs, as far as KVM_TDX_INIT_VM; raises TdxError.

    ``supported`` is KVM's CPUID table.
    """
    tdx.init_vm(vm, tdx.capabilities(vm).configure(supported))


def _memory(vm: Vm, image: Image) -> list[Memory]:
    """Return the guest's memory and its reset page, with all that is there at first."""
    memory = vm.add_private_memory(lib.GUEST_TD_MEMORY_SIZE)
    write_long_mode(memory, image)
    reset = vm.add_private_memory(tdx.PAGE, lib.GUEST_TD_RESET_PAGE)
    first = image.symbols["reset_vector"] - image.address
    last = image.symbols["reset_vector_end"] - image.address
    reset.write(lib.GUEST_TD_RESET, image.data[first:last])
    return [memory, reset]


def with_x2apic(cpuid: Cpuid) -> Cpuid:
    """Return the CPUID table with x2APIC, without which KVM initialises no vCPU of a TD."""
    found = cpuid.find(1)
    return cpuid if found is None else cpuid.replace(1, ecx=found.ecx | X2APIC)
