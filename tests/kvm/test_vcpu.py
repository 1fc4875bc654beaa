"""kvmtest/kvm/vcpu.py: registers and state of a vCPU, each put in and taken out again."""

import errno
import os
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kvmtest._native import ffi, lib
from kvmtest.guests import Guest, commands, real_guest
from kvmtest.kvm import (
    CapabilityMissing,
    Deadline,
    HltExit,
    IoExit,
    KvmError,
    Stopped,
    System,
    Vcpu,
    Vm,
)

MakeVcpu = Callable[[bytes], Vcpu]
HLT = b"\xf4"


def raw(structure: Any) -> bytes:
    return bytes(ffi.buffer(structure))


def test_general_registers_come_back_as_they_went_in(vm: Vm) -> None:
    vcpu = vm.create_vcpu()
    regs = vcpu.get_regs()
    names = [
        "rax",
        "rbx",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
        "rsp",
        "rbp",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
    ]
    for at, name in enumerate(names):
        setattr(regs, name, 0x1111_0000_2222_0000 * (at + 1) % (1 << 63))
    regs.rip, regs.rflags = 0x1234, 0x246
    vcpu.set_regs(regs)
    assert raw(vcpu.get_regs()) == raw(regs)


def test_segments_and_control_registers_come_back_as_they_went_in(guest: Guest) -> None:
    sregs = guest.vcpu.get_sregs()
    sregs.gs.base = 0x12345000
    sregs.cr2 = 0xABCDEF
    guest.vcpu.set_sregs(sregs)
    again = guest.vcpu.get_sregs()
    assert (again.gs.base, again.cr2, again.cr3) == (0x12345000, 0xABCDEF, lib.GUEST_PML4)
    assert raw(again) == raw(sregs)


def test_debug_registers_come_back_as_they_went_in(vm: Vm) -> None:
    vcpu = vm.create_vcpu()
    debugregs = vcpu.get_debugregs()
    debugregs.db[0], debugregs.db[3] = 0x1000, 0x2000
    debugregs.dr7 |= 0x2
    vcpu.set_debugregs(debugregs)
    again = vcpu.get_debugregs()
    assert (again.db[0], again.db[3], again.dr7 & 2) == (0x1000, 0x2000, 2)


def test_events_come_back_as_they_went_in(vm: Vm) -> None:
    vcpu = vm.create_vcpu()
    events = vcpu.get_vcpu_events()
    events.exception.injected, events.exception.nr = 1, 13
    events.exception.has_error_code, events.exception.error_code = 1, 0x18
    vcpu.set_vcpu_events(events)
    exception = vcpu.get_vcpu_events().exception
    assert (exception.nr, exception.has_error_code, exception.error_code) == (13, 1, 0x18)


def test_the_multiprocessing_state_comes_back_as_it_went_in(vm: Vm) -> None:
    vm.create_irqchip()  # without, only RUNNABLE exists
    vcpu = vm.create_vcpu()
    assert vcpu.get_mp_state() == lib.KVM_MP_STATE_RUNNABLE
    vcpu.set_mp_state(lib.KVM_MP_STATE_HALTED)
    assert vcpu.get_mp_state() == lib.KVM_MP_STATE_HALTED
    with pytest.raises(KvmError, match="KVM_SET_MP_STATE on vCPU 0"):
        vcpu.set_mp_state(99)


def test_an_error_names_the_vcpu(vm: Vm) -> None:
    vm.create_vcpu()
    vcpu = vm.create_vcpu()
    sregs = vcpu.get_sregs()
    sregs.cr4 = 1 << 63
    with pytest.raises(KvmError, match=r"^KVM_SET_SREGS on vCPU 1: .*\(EINVAL\)"):
        vcpu.set_sregs(sregs)


def test_synced_registers_equal_get_regs_and_get_sregs(guest: Guest) -> None:
    vcpu = guest.vcpu
    if not guest_offers(vcpu, "KVM_CAP_SYNC_REGS"):
        pytest.skip("needs KVM_CAP_SYNC_REGS")
    synced = vcpu.sync(lib.KVM_SYNC_X86_REGS | lib.KVM_SYNC_X86_SREGS)
    guest.execute(commands.loop(10))
    assert raw(ffi.addressof(synced, "regs")) == raw(vcpu.get_regs())
    assert raw(ffi.addressof(synced, "sregs")) == raw(vcpu.get_sregs())


def test_dirty_synced_registers_are_taken_at_the_next_entry(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10" * 2 + HLT)  # out %al, $0x10, twice; hlt
    if not guest_offers(vcpu, "KVM_CAP_SYNC_REGS"):
        pytest.skip("needs KVM_CAP_SYNC_REGS")
    synced = vcpu.sync(lib.KVM_SYNC_X86_REGS)
    assert vcpu.run() == IoExit(0x10, True, 1, 1, b"\0")
    vcpu.complete()  # RIP is moved on here, so that the next entry does not move it
    synced.regs.rax = 0x5A
    vcpu.sync_dirty(lib.KVM_SYNC_X86_REGS)
    assert vcpu.run() == IoExit(0x10, True, 1, 1, b"\x5a")
    assert vcpu.kvm_run.kvm_dirty_regs == 0
    assert vcpu.run() == HltExit()


def test_sync_of_nothing_ends_it(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xb0\x77\xe6\x10\xf4")  # mov $0x77, %al; out %al, $0x10; hlt
    synced = vcpu.sync(lib.KVM_SYNC_X86_REGS)
    vcpu.sync(0)
    vcpu.run()
    assert synced.regs.rax == 0
    assert vcpu.get_regs().rax & 0xFF == 0x77


def guest_offers(vcpu: Vcpu, capability: str) -> bool:
    return bool(vcpu._check_extension(capability))


def test_nested_state_is_there_or_its_capability_is_named(system: System, vm: Vm) -> None:
    vcpu = vm.create_vcpu()
    if system.check_extension("KVM_CAP_NESTED_STATE"):
        state = vcpu.get_nested_state()
        assert len(state) >= ffi.sizeof("struct kvm_nested_state")
        vcpu.set_nested_state(state)
        assert vcpu.get_nested_state() == state
        return
    for use in (vcpu.get_nested_state, lambda: vcpu.set_nested_state(bytes(128))):
        with pytest.raises(CapabilityMissing, match="KVM_CAP_NESTED_STATE: not offered"):
            use()


def test_an_smi_is_taken_or_its_capability_is_named(system: System, vm: Vm) -> None:
    vcpu = vm.create_vcpu()
    if system.check_extension("KVM_CAP_X86_SMM"):
        vcpu.smi()
        return
    with pytest.raises(CapabilityMissing, match="KVM_CAP_X86_SMM: not offered"):
        vcpu.smi()


def test_an_nmi_reaches_the_guest(guest: Guest) -> None:
    guest.vcpu.nmi()
    with pytest.raises(commands.GuestFault, match="NMI"):
        guest.execute()


@pytest.mark.parametrize("capability", ["KVM_CAP_BINARY_STATS_FD"])
def test_statistics_without_their_capability_name_it(
    vm: Vm, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    vcpu = vm.create_vcpu()
    monkeypatch.setattr(vcpu, "_check_extension", lambda name: 0)
    with pytest.raises(CapabilityMissing, match=capability):
        vcpu.stats()


def test_hlt_with_an_irqchip_blocks_until_the_deadline(vm: Vm, memory: Any) -> None:
    vm.create_irqchip()
    memory.write(0x1000, HLT)
    vcpu = vm.create_vcpu()
    sregs = vcpu.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rflags = 0x1000, 0x202
    vcpu.set_regs(regs)
    assert vcpu.run(0.02) == Deadline(0.02)
    assert vcpu.run(0) == Deadline(0)
    assert vcpu.get_mp_state() == lib.KVM_MP_STATE_HALTED


def test_hlt_without_an_irqchip_is_an_exit(real_code: MakeVcpu) -> None:
    assert real_code(HLT).run() == HltExit()


def test_interrupts_are_injected_only_without_an_irqchip(vm: Vm) -> None:
    vm.create_irqchip()
    with pytest.raises(KvmError, match=r"KVM_INTERRUPT on vCPU 0: .*ENXIO"):
        vm.create_vcpu().interrupt(0x40)


def test_an_interrupt_vector_above_255_is_refused(vm: Vm) -> None:
    with pytest.raises(KvmError, match="KVM_INTERRUPT") as caught:
        vm.create_vcpu().interrupt(256)
    assert caught.value.errno == errno.EINVAL


def test_complete_finishes_a_pending_out_without_entering_the_guest(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10\xe6\x11\xf4")  # out %al, $0x10; out %al, $0x11; hlt
    assert vcpu.run() == IoExit(0x10, True, 1, 1, b"\0")
    entries = vcpu.entries
    vcpu.complete()
    assert vcpu.get_regs().rip == 0x1002
    assert vcpu.entries == entries
    assert vcpu.kvm_run.immediate_exit == 0
    assert vcpu.run() == IoExit(0x11, True, 1, 1, b"\0")


def test_complete_hands_a_pending_in_its_data(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe4\x10\xf4")  # in $0x10, %al; hlt
    assert vcpu.run() == IoExit(0x10, False, 1, 1, b"")
    data_offset = vcpu.kvm_run.io.data_offset
    ffi.buffer(ffi.cast("char *", vcpu.kvm_run) + data_offset, 1)[:] = b"\x99"
    vcpu.complete()
    assert vcpu.get_regs().rax & 0xFF == 0x99


def test_complete_with_nothing_pending_changes_nothing(real_code: MakeVcpu) -> None:
    vcpu = real_code(HLT)
    before = raw(vcpu.get_regs())
    vcpu.complete()
    assert raw(vcpu.get_regs()) == before


def test_entries_and_stamps_move_with_each_run(real_code: MakeVcpu) -> None:
    vcpu = real_code(b"\xe6\x10" * 3)
    seen = [(vcpu.entries, vcpu.tsc_entry, vcpu.tsc_exit)]
    assert seen == [(0, 0, 0)]
    for number in range(1, 4):
        before = lib.clock_tsc()
        vcpu.run()
        assert vcpu.entries == number
        assert before < vcpu.tsc_entry < vcpu.tsc_exit < lib.clock_tsc()


def test_a_closed_vcpu_is_an_error_not_a_crash(system: System) -> None:
    with system.create_vm() as vm:
        vcpu = vm.create_vcpu()
    for use in (vcpu.run, vcpu.get_regs, lambda: vcpu.run_loop(0x1C0)):
        with pytest.raises(KvmError) as caught:
            use()
        assert caught.value.errno == errno.EBADF
    vcpu.stop()
    vcpu.clear_stop()
    with pytest.raises(AttributeError):
        _ = vcpu.kvm_run.exit_reason
    with pytest.raises(AttributeError):
        vcpu.complete()


def test_breakpoints_stop_at_the_address_in_dr0(guest: Guest) -> None:
    spin = guest.image.symbols["spin"]
    guest.transport.send([commands.spin()])
    control = lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_USE_HW_BP
    guest.vcpu.set_guest_debug(control, [spin, 0, 0, 0, 0, 0, 0, 0x402])
    exit_ = guest.vcpu.run()
    assert struct.pack("<Q", getattr(exit_, "pc", 0)) == struct.pack("<Q", spin)


def test_closing_a_vcpu_that_runs_brings_it_back_first(system: System) -> None:
    with system.create_vm() as vm:
        guest = real_guest(vm)
        guest.boot()
        ended: list[object] = []

        def run() -> None:
            ended.append(guest.vcpu.run_loop(lib.GUEST_DOORBELL_PORT, timeout=30).exit)

        guest.transport.send([commands.ring(1 << 31)])
        thread = threading.Thread(target=run)
        entries = guest.vcpu.entries
        thread.start()
        while guest.vcpu.entries < entries + 10:
            os.sched_yield()
        guest.vcpu.close()
        thread.join()
        assert ended == [Stopped()]
        with pytest.raises(KvmError, match="EBADF"):
            guest.vcpu.run()
