"""Runs inside the lab's Intel machine: an L1 with code of its own, and the L2 that it makes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

sys.path.insert(0, "/package")

from kvmtest._native import ffi, lib
from kvmtest.guests import Guest, commands, long_guest
from kvmtest.guests.l1 import L1, VmExit, VmFail
from kvmtest.guests.nested import NestedGuest
from kvmtest.guests.vmcs12 import (
    CAPABILITIES,
    ENCODINGS,
    HLT_EXITING,
    NO_MEMORY,
    UNCONDITIONAL_IO_EXITING,
    USE_MSR_BITMAPS,
    contents,
    of_nested_state,
)
from kvmtest.kvm import System

SYSENTER_EIP, VALUE = 0x176, 0x123456789A
# In no CPU, but in the MSR bitmap: RDMSR beyond it exits to L1.
BOGUS = 0x1FFE
DEBUGCTL, RESERVED = 0x1D9, 1 << 16
VMCLEAR = commands.vmclear(lib.GUEST_VMCS12, lib.VMCS12_REVISION)
PROCESSOR = "cpu_based_vm_exec_control"
#: What L1 may write: not the information about exits.
WRITABLE = {name: encoding for name, encoding in ENCODINGS.items() if encoding >> 10 & 3 != 1}


def check(what: str, observed: object, expected: object) -> None:
    """End the script where something is not as it should be."""
    if observed != expected:
        sys.exit(f"{what}: {observed}, not {expected}")


@contextmanager
def booted() -> Iterator[Guest]:
    """Yield a booted guest with all that KVM supports."""
    with System() as system, system.create_vm() as vm:
        vcpu = vm.create_vcpu()
        vcpu.set_cpuid(system.get_supported_cpuid())
        guest = long_guest(vm, vcpu)
        guest.boot()
        yield guest


def vmcs12_of(guest: Guest) -> dict[str, int]:
    """Return KVM's vmcs12 of a guest that is in L2, its fields by their names."""
    guest.vcpu.complete()
    state = ffi.from_buffer("char[]", guest.vcpu.get_nested_state())
    vmcs = of_nested_state(state)
    return {name: getattr(vmcs, name) for name in WRITABLE}


def errors() -> None:
    """Have VMX instructions fail in each way, and read the VM-instruction error."""
    with booted() as guest:
        (outside,) = guest.execute(commands.vmlaunch())
        check("VMLAUNCH outside VMX operation", outside.fault and outside.fault.name, "#UD")
        l1 = L1(guest)
        tried = l1.try_command
        check("VMCLEAR of the current VMCS", tried(VMCLEAR), None)
        check("VMREAD without a VMCS", tried(commands.vmread(0x4400)), VmFail(None))
        check("VMLAUNCH without a VMCS", l1.enter(), VmFail(None))
        check("VMPTRLD", tried(commands.vmptrld(lib.GUEST_VMCS12)), None)
        check("VMREAD of no field", tried(commands.vmread(0xFFF0)), VmFail(12))
        check("VMPTRLD of VMXON's page", tried(commands.vmptrld(lib.GUEST_VMXON)), VmFail(10))
        check("VMXON again", tried(commands.vmxon(lib.GUEST_VMXON, 0)), VmFail(15))
        check("VMRESUME before VMLAUNCH", l1.enter(resume=True), VmFail(5))
        pin = l1.read("pin_based_vm_exec_control")
        l1.write(pin_based_vm_exec_control=0)
        check("VMLAUNCH without a control", l1.enter(), VmFail(7))
        check("the field VM-instruction error", l1.read("vm_instruction_error"), 7)
        host = l1.read("host_cr0")
        l1.write(pin_based_vm_exec_control=pin, host_cr0=0)
        check("VMLAUNCH without a host", l1.enter(), VmFail(8))
        l1.write(host_cr0=host, guest_ia32_debugctl=RESERVED)
        failed = l1.enter()
        check("an entry with bad state", failed and failed[:2], (1 << 31 | 33, 0))
        check("is failed", isinstance(failed, VmExit) and failed.is_failed_entry, True)
        l1.write(guest_ia32_debugctl=0)
        check("VMLAUNCH", l1.enter(), None)
        l1.leave()
        check("VMLAUNCH again", l1.enter(resume=False), VmFail(4))
        l1.write(virtual_apic_page_addr=NO_MEMORY)
        check("an entry that only the CPU refuses", l1.enter(), VmFail(7))
        l1.write(virtual_apic_page_addr=lib.GUEST_VIRTUAL_APIC)
        check("the next entry", l1.enter(), None)
        l1.leave()
        check("VMXOFF", tried(commands.vmxoff()), None)


def exits() -> None:
    """Have L2 do all that it can, and L1 see what it asks for."""
    with booted() as guest:
        names = guest.execute(commands.cpuid(0), commands.rdmsr(SYSENTER_EIP))
        l1 = L1(guest)
        check("VMLAUNCH", l1.enter(), None)
        results = l1.execute(
            commands.wrmsr(SYSENTER_EIP, VALUE), commands.rdmsr(SYSENTER_EIP),
            commands.rdmsr(BOGUS), commands.loop(1000), commands.watch(100_000, 0),
            timeout=10,
        )  # fmt: skip
        if not isinstance(results, list):
            sys.exit(f"L2 ended in {results}")
        _, read, missing, _, watched = results
        check("L2's MSR", read.value, VALUE)
        check("L2's exception", missing.fault and missing.fault.name, "#GP")
        check("L2's polls", watched.values[0] == watched.values[1] > 1, True)
        check("L2's I/O", guest.ring(7).doorbells, 7)

        exit_ = l1.execute(commands.cpuid(0))
        check("CPUID", exit_ and exit_[0], lib.EXIT_REASON_CPUID)
        check("L2's registers", (l1.l2_registers.rax, l1.l2_registers.rcx), (0, 0))
        (answer,) = guest.execute(commands.cpuid(0))
        for register, value in zip(("rax", "rbx", "rcx", "rdx"), answer.values, strict=True):
            setattr(l1.l2_registers, register, value)
        l1.skip()
        check("VMRESUME behind CPUID", l1.enter(), None)
        check("L2's CPUID", l1.results()[0].values, names[0].values)

        l1.leave()
        check("L1's MSR is L2's, by KVM_GET_MSRS", guest.vcpu.get_msr(SYSENTER_EIP), 0)
        controls = l1.read(PROCESSOR)
        l1.write(cpu_based_vm_exec_control=(controls | HLT_EXITING) & ~USE_MSR_BITMAPS)
        check("VMRESUME", l1.enter(), None)
        for command, reason in (
            (commands.rdmsr(SYSENTER_EIP), lib.EXIT_REASON_MSR_READ),
            (commands.wrmsr(SYSENTER_EIP, 1), lib.EXIT_REASON_MSR_WRITE),
            (commands.hlt(), lib.EXIT_REASON_HLT),
        ):
            exit_ = l1.execute(command)
            check("intercepted", exit_ and exit_[0], reason)
            l1.skip()
            check("VMRESUME", l1.enter(), None)
        l1.leave()
        l1.write(cpu_based_vm_exec_control=controls | UNCONDITIONAL_IO_EXITING)
        exit_ = l1.enter()
        check("I/O", isinstance(exit_, VmExit) and exit_[:2],
              (lib.EXIT_REASON_IO_INSTRUCTION, lib.GUEST_DONE_PORT << 16))  # fmt: skip


def agreement() -> None:
    """Hold the vmcs12 that L1 made against the one that userspace made."""
    with booted() as guest:
        l1 = L1(guest)
        check("VMLAUNCH", l1.enter(), None)
        check("in L2", l1.is_in_l2, True)
        made = vmcs12_of(guest)
        by_code = l1.execute(commands.rdmsr(DEBUGCTL), commands.loop(10), commands.rdmsr(BOGUS))
    with booted() as guest:
        nested = NestedGuest(guest)
        nested.enter_l2()
        given = vmcs12_of(guest)
        by_userspace = guest.execute(
            commands.rdmsr(DEBUGCTL), commands.loop(10), commands.rdmsr(BOGUS)
        )
        symbols = guest.image.symbols
        check("L2's results", by_code, by_userspace)
        capabilities = guest.vcpu.get_msrs(CAPABILITIES.values())
        sregs = guest.vcpu.get_sregs()
    wanted = contents(sregs, capabilities, symbols["l2_start"], symbols["vm_exit"])
    for name in wanted.keys() - {"guest_rip"}:
        check(f"{name} by L1's VMWRITE", made[name], wanted[name])
    # Both L2s wait at the same instruction.
    differ = {name for name in WRITABLE if made[name] != given[name]}
    check("fields that differ", differ, {"host_rip"})


for part in (errors, exits, agreement):
    part()
