"""kvmtest/guests/nested.py: the states that userspace gives KVM for L1 and L2."""

from types import SimpleNamespace
from typing import Any

import pytest

from kvmtest._native import ffi, lib
from kvmtest.guests.nested import CR4_VMXE, NestedGuest
from kvmtest.guests.vmcs12 import NO_MEMORY

# What must be 1 in the controls, with what may be in the high half.
MUST = {
    0x48D: 0xFF_0000_0016,
    0x48E: 0xFFF9_FFFE_0401_E172,
    0x48F: 0x7F_FFFF_0003_6DFB,
    0x490: 0xFFFF_0000_11FB,
}
HEADER = ffi.sizeof("struct kvm_nested_state")


class FakeVcpu:
    """Has registers and MSRs, and keeps the nested state that it was given."""

    def __init__(self) -> None:
        self.sregs: Any = ffi.new("struct kvm_sregs *")
        self.sregs.cr0, self.sregs.cr3, self.sregs.cr4 = 0x80000033, lib.GUEST_PML4, 0x20
        code = self.sregs.cs
        code.selector, code.limit, code.type, code.s, code.present = 8, 0xFFFFFFFF, 11, 1, 1
        code.l = code.g = 1
        self.msrs: dict[int, int] = {}
        self.state = b""
        self.completed = 0

    def get_sregs(self) -> Any:
        return self.sregs

    def set_sregs(self, sregs: Any) -> None:
        self.sregs = sregs

    def get_msrs(self, indices: list[int]) -> dict[int, int]:
        return {index: MUST[index] for index in indices}

    def set_msr(self, index: int, value: int) -> None:
        self.msrs[index] = value

    def complete(self) -> None:
        self.completed += 1

    def get_nested_state(self) -> bytes:
        return self.state

    def set_nested_state(self, state: bytes) -> None:
        self.state = state


@pytest.fixture
def vcpu() -> FakeVcpu:
    return FakeVcpu()


@pytest.fixture
def nested(vcpu: FakeVcpu) -> NestedGuest:
    image = SimpleNamespace(symbols={"start": 0x8000})
    guest: Any = SimpleNamespace(vcpu=vcpu, image=image, boot=lambda: None)
    return NestedGuest(guest)


def header(state: bytes) -> Any:
    return ffi.cast("struct kvm_nested_state *", ffi.from_buffer(state))


def vmcs12(state: bytes) -> Any:
    return ffi.cast("struct vmcs12 *", ffi.from_buffer(state) + HEADER)


def test_l1_may_use_vmx(nested: NestedGuest, vcpu: FakeVcpu) -> None:
    assert vcpu.msrs == {0x3A: 5}, "locked, VMX outside SMX"
    assert vcpu.sregs.cr4 & CR4_VMXE


def test_l2_is_pending_in_its_own_pages(nested: NestedGuest, vcpu: FakeVcpu) -> None:
    nested.enter_l2()
    state = header(vcpu.state)
    assert len(vcpu.state) == state.size == HEADER + 4096
    assert state.flags == lib.KVM_STATE_NESTED_GUEST_MODE | lib.KVM_STATE_NESTED_RUN_PENDING
    pages = {
        state.hdr.vmx.vmxon_pa, state.hdr.vmx.vmcs12_pa, lib.GUEST_VIRTUAL_APIC,
        lib.GUEST_L2_MAILBOX, lib.GUEST_MSR_BITMAP,
    }  # fmt: skip
    assert len(pages) == 5
    assert all(page % 4096 == 0 and page < lib.GUEST_MEMORY_SIZE for page in pages)
    log_end = lib.GUEST_GAP_LOG + lib.GUEST_GAP_CAPACITY * ffi.sizeof("struct guest_gap")
    assert min(pages) >= log_end, "apart from what the guest logs"
    assert nested.is_in_l2
    assert vcpu.completed == 1


def test_controls_have_what_must_be_one_and_what_l2_needs(
    nested: NestedGuest, vcpu: FakeVcpu
) -> None:
    nested.enter_l2()
    vmcs = vmcs12(vcpu.state)
    assert vmcs.revision == 0x11E57ED0
    assert vmcs.pin_based_vm_exec_control == 0x16
    assert vmcs.cpu_based_vm_exec_control == 0x0401E172 | 1 << 21 | 1 << 28
    assert vmcs.vm_exit_controls == 0x36DFB | 1 << 9
    assert vmcs.vm_entry_controls == 0x11FB | 1 << 9 | 1 << 2
    assert vmcs.vmcs_link_pointer == (1 << 64) - 1
    assert vmcs.guest_ia32_debugctl == 0, "the host's bit is not L1's to set"


def test_l2_and_l1_go_on_where_l1_began(nested: NestedGuest, vcpu: FakeVcpu) -> None:
    nested.enter_l2()
    vmcs = vmcs12(vcpu.state)
    for role in ("guest", "host"):
        assert getattr(vmcs, f"{role}_rip") == 0x8000
        assert getattr(vmcs, f"{role}_rsp") == lib.GUEST_STACK
        assert getattr(vmcs, f"{role}_cr3") == lib.GUEST_PML4
        assert getattr(vmcs, f"{role}_cr4") & CR4_VMXE
        assert getattr(vmcs, f"{role}_cs_selector") == 8
    # 64-bit code, accessed: type 11, S, present, L, G.
    assert vmcs.guest_cs_ar_bytes == 0xA09B
    assert vmcs.guest_ldtr_ar_bytes == 1 << 16, "unusable"


def test_leaving_ends_vmx_operation(nested: NestedGuest, vcpu: FakeVcpu) -> None:
    nested.enter_l2()
    nested.leave_l2()
    state = header(vcpu.state)
    assert len(vcpu.state) == state.size == HEADER
    assert state.hdr.vmx.vmxon_pa == state.hdr.vmx.vmcs12_pa == (1 << 64) - 1
    assert not nested.is_in_l2


def test_a_spoiled_entry_differs_by_the_virtual_apic_page_alone(
    nested: NestedGuest, vcpu: FakeVcpu
) -> None:
    nested.enter_l2()
    before = vcpu.state
    nested.remove_virtual_apic_page()
    assert vmcs12(before).virtual_apic_page_addr == lib.GUEST_VIRTUAL_APIC
    assert vmcs12(vcpu.state).virtual_apic_page_addr == NO_MEMORY >= lib.GUEST_MEMORY_SIZE
    changed = [
        at for at, (old, new) in enumerate(zip(before, vcpu.state, strict=True)) if old != new
    ]
    assert set(changed) <= set(range(HEADER + 96, HEADER + 104))
