"""guests/td.S and the guest that it starts, on a plain VM of this machine.

The VM begins in a TD's first state, and each TDCALL is a HLT, which the test answers as the TDX
module and KVM would.
"""

from typing import Any

import pytest

from kvmtest._native import lib
from kvmtest.guests import Guest, Registers, commands, load
from kvmtest.guests.modes import write_long_mode
from kvmtest.kvm import HltExit, IoExit, Loop, ShutdownExit, System, Vcpu, Vm
from kvmtest.kvm.tdx import PAGE

TDCALL, HLT = bytes.fromhex("660f01cc"), bytes.fromhex("f4666690")
VMCALL, VEINFO_GET = 0, 3
EFER, EFER_LME, EFER_LMA = 0xC0000080, 1 << 8, 1 << 10
#: Intel TDX Module Base Architecture Specification, "TD VCPU Initial State"; without CR4.VMXE.
CR0, CR4_MCE = 0x21, 0x40
CPUID_EXIT = 10


class TdVcpu:
    """A vCPU whose TDCALLs are answered: ports as KVM_EXIT_IO, and what the TD sees kept whole."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.masks: set[int] = set()
        self.fatal: int | None = None
        self._data = b""
        self._pending: Any = None

    def run_loop(self, doorbell: int, *, stamps: int = 0, timeout: float = 1.0) -> Loop:
        loop = Loop(0, stamps)
        while True:
            self._complete()
            ended = self.vcpu.run(timeout)
            if not isinstance(ended, HltExit):
                loop.exit = ended
                return loop
            exit_ = self._tdcall()
            if isinstance(exit_, IoExit) and exit_.port == doorbell and exit_.is_out:
                loop._record.doorbells += 1
            elif exit_:
                loop.exit = exit_
                return loop

    def set_io_data(self, data: bytes) -> None:
        self._data = data

    def _tdcall(self) -> IoExit | None:
        regs = self.vcpu.get_regs()
        if regs.rax == VEINFO_GET:
            regs.rax, regs.rcx = 0, CPUID_EXIT
            self.vcpu.set_regs(regs)
            return None
        assert (regs.rax, regs.r10) == (VMCALL, 0)
        self.masks.add(regs.rcx)
        if regs.r11 == 0x10003:
            self.fatal = regs.r12
            return IoExit(0, False, 0, 0, b"")
        assert regs.r11 == 30
        self._pending, self._data = regs, b""
        size, is_out = regs.r12, bool(regs.r13)
        data = regs.r15.to_bytes(8, "little")[:size] if is_out else b""
        return IoExit(regs.r14, is_out, size, 1, data)

    def _complete(self) -> None:
        if self._pending:
            regs, self._pending = self._pending, None
            regs.rax = regs.r10 = 0
            if not regs.r13:
                regs.r11 = int.from_bytes(self._data, "little")
            # All that a TDG.VP.VMCALL exposes may come back changed.
            regs.r12 = regs.r13 = regs.r14 = regs.r15 = 0xDEAD
            self.vcpu.set_regs(regs)


def start(vm: Vm, system: System) -> Vcpu:
    image = load("td")
    memory = vm.add_memory(lib.GUEST_TD_MEMORY_SIZE)
    write_long_mode(memory, image)
    data = memory.read(image.address, len(image.data))
    assert data.count(TDCALL) == 5
    memory.write(image.address, data.replace(TDCALL, HLT))
    reset = vm.add_memory(PAGE, lib.GUEST_TD_RESET_PAGE)
    first, last = (image.symbols[s] - image.address for s in ("reset_vector", "reset_vector_end"))
    reset.write(lib.GUEST_TD_RESET, image.data[first:last])
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(system.get_supported_cpuid())
    sregs = vcpu.get_sregs()
    sregs.cr0, sregs.cr4, sregs.efer = CR0, CR4_MCE, EFER_LME
    for segment, kind in ((sregs.cs, 11), *((getattr(sregs, s), 3) for s in ("ds", "es", "ss"))):
        segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, 0
        segment.type, segment.s, segment.present, segment.db, segment.g = kind, 1, 1, 1, 1
    sregs.idt.limit = 0
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rflags, regs.rsp = lib.GUEST_TD_RESET, 2, 0
    vcpu.set_regs(regs)
    return vcpu


@pytest.fixture
def td(vm: Vm, system: System) -> Guest:
    return Guest(TdVcpu(start(vm, system)), load("td"), Registers())  # type: ignore[arg-type]


def test_it_comes_up_from_a_tds_first_state(td: Guest) -> None:
    td.boot()
    sregs = td.vcpu.vcpu.get_sregs()  # type: ignore[attr-defined]
    assert sregs.efer == EFER_LME | EFER_LMA
    assert sregs.cr4 & CR4_MCE
    assert sregs.cr0 & CR0 == CR0
    assert (sregs.cs.selector, sregs.tr.selector) == (
        lib.GUEST_CODE_SELECTOR,
        lib.GUEST_TSS_SELECTOR,
    )
    assert (sregs.idt.base, sregs.cr3) == (lib.GUEST_IDT, lib.GUEST_PML4)


def test_it_executes_commands_and_exposes_no_register_but_r10_to_r15(td: Guest) -> None:
    td.boot()
    leaf, looped, waited = td.execute(commands.cpuid(0), commands.loop(1000), commands.nop())
    assert leaf.values[1] > 0
    assert (looped.fault, waited.fault) == (None, None)
    assert td.vcpu.masks == {0xFC00}  # type: ignore[attr-defined]


def test_it_rings_and_logs_gaps(td: Guest) -> None:
    td.boot()
    assert td.ring(5).doorbells == 5
    (result,) = td.execute(commands.watch(100_000, 1), timeout=5)
    gaps, polls, *_ = result.values
    assert 0 < gaps <= polls
    (gap,) = td.gaps(1)
    assert gap.begin < gap.end


def test_a_fault_in_a_command_ends_it_alone(td: Guest) -> None:
    td.boot()
    fault, after = td.execute(commands.rdmsr(0x4B564E00), commands.cpuid(0))
    assert fault.fault
    assert fault.fault.name == "#GP"
    assert after.values[1] > 0


def test_a_tdcall_that_fails_is_reported_as_fatal(td: Guest) -> None:
    td.boot()
    vcpu: Any = td.vcpu
    vcpu._pending.r10 = 0x8000000000000000
    regs, vcpu._pending = vcpu._pending, None
    regs.rax = 0
    vcpu.vcpu.set_regs(regs)
    assert td.run() == IoExit(0, False, 0, 0, b"")
    assert vcpu.fatal == 0x8000000000000000


def test_an_exception_before_the_idt_is_a_triple_fault(vm: Vm, system: System) -> None:
    vcpu = start(vm, system)
    vm.memories[1].write(lib.GUEST_TD_RESET, b"\x0f\x0b")  # ud2
    assert vcpu.run() == ShutdownExit()
