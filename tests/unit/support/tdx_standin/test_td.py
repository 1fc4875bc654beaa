"""KVM's order and errors for a TD, a row each: what came before, the call, the errno."""

import errno
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest
from support.tdx_standin import module
from support.tdx_standin.abi import (
    CAPABILITIES,
    FINALIZE_VM,
    INIT_MEM_REGION,
    INIT_VCPU,
    INIT_VM,
    MEASURE_MEMORY_REGION,
    MEM_GUEST_MEMFD,
    MEMORY_ATTRIBUTE_PRIVATE,
    PAGE,
    Command,
    CpuidEntry,
    InitVm,
    MemoryRegion,
)
from support.tdx_standin.measurement import Measurement
from support.tdx_standin.td import Refused, State, Step, Td

EINVAL, EBUSY, EIO, EEXIST, E2BIG, EBADF = (
    errno.EINVAL, errno.EBUSY, errno.EIO, errno.EEXIST, errno.E2BIG, errno.EBADF,
)  # fmt: skip
WIDTH = CpuidEntry(0x80000008, 0, 0, 48 << 16, 0, 0, 0)
FEATURES = CpuidEntry(1, 0, 0, 0x806F8, 0, 0, 0)
X2APIC = CpuidEntry(1, 0, 0, 0x806F8, 0, 1 << 21, 0)
NO_DIGEST = bytes(48)
PARAMETERS = InitVm(0, 0x3, NO_DIGEST, NO_DIGEST, NO_DIGEST, bytes(96))
SLOT = MemoryRegion(0, MEM_GUEST_MEMFD, 0, 4 * PAGE, 0x10000, 0, 7)


def command(number: int, **fields: int) -> Command:
    return Command(number, 0, 0, 0)._replace(**fields)


# What can be done, each in the order that KVM wants.


def init_vm(td: Td) -> None:
    td.init_vm(0, PARAMETERS, 0, (WIDTH,))


def irqchip(td: Td) -> None:
    td.enable_split_irqchip()


def vcpu(td: Td) -> None:
    td.create_vcpu(0)


def cpuid(td: Td) -> None:
    td.vcpus[0].cpuid = (X2APIC,)


def init_vcpu(td: Td) -> None:
    td.init_vcpu(td.vcpus[0], 0, 0)


def slot(td: Td) -> None:
    td.set_memory_region(SLOT, 4 * PAGE)


def private(td: Td) -> None:
    td.set_memory_attributes(0, 4 * PAGE, MEMORY_ATTRIBUTE_PRIVATE, 0)


def plain_slot(td: Td) -> None:
    td.set_memory_region(SLOT._replace(flags=0), None)


def check_first(td: Td) -> None:
    td.check_page(0)


def page(td: Td) -> None:
    td.check_mem_region(td.vcpus[0], MEASURE_MEMORY_REGION, 0x10000, 0, 1)
    td.add_page(0, bytes(PAGE), MEASURE_MEMORY_REGION)


def finalize(td: Td) -> None:
    td.finalize(0)


ORDER = (init_vm, irqchip, vcpu, cpuid, init_vcpu, slot, private, page, finalize)


def after(*steps: Callable[[Td], None]) -> Td:
    td = Td(cpus=2)
    for each in steps:
        each(td)
    return td


def up_to(last: Callable[[Td], None]) -> tuple[Callable[[Td], None], ...]:
    return ORDER[: ORDER.index(last) + 1]


def without(*left_out: Callable[[Td], None]) -> tuple[Callable[[Td], None], ...]:
    return tuple(each for each in ORDER if each not in left_out)


class Row(NamedTuple):
    before: tuple[Callable[[Td], None], ...]
    call: Callable[[Td], object]
    number: int


def started(**fields: object) -> Callable[[Td], object]:
    return lambda td: td.init_vm(0, PARAMETERS._replace(**fields), 0, (WIDTH,))


def configured(*entries: CpuidEntry, padding: int = 0) -> Callable[[Td], object]:
    return lambda td: td.init_vm(0, PARAMETERS, padding, entries)


def region(*fields: int, flags: int = 0) -> Callable[[Td], object]:
    source, gpa, pages = fields
    return lambda td: td.check_mem_region(td.vcpus[0], flags, source, gpa, pages)


def slot_of(size: int | None = 4 * PAGE, **fields: int) -> Callable[[Td], object]:
    return lambda td: td.set_memory_region(SLOT._replace(**fields), size)


def attribute(*fields: int) -> Callable[[Td], object]:
    address, size, attributes, flags = fields
    return lambda td: td.set_memory_attributes(address, size, attributes, flags)


def of_vm(sent: Command) -> Callable[[Td], object]:
    return lambda td: td.check(sent, of_vcpu=False)


def of_vcpu(sent: Command) -> Callable[[Td], object]:
    return lambda td: td.check(sent, of_vcpu=True)


SEPT, P = module.ATTRIBUTE_SEPT_VE_DISABLE, MEMORY_ATTRIBUTE_PRIVATE
REFUSED: dict[str, Row] = {
    # KVM_MEMORY_ENCRYPT_OP
    "hw_error set": Row((), of_vm(command(INIT_VM, hw_error=1)), EINVAL),
    "a vCPU's command to the VM": Row((), of_vm(command(INIT_VCPU)), EINVAL),
    "no such command": Row((), of_vm(command(77)), EINVAL),
    "a VM's command to a vCPU": Row(up_to(vcpu), of_vcpu(command(FINALIZE_VM)), EINVAL),
    "a vCPU's command after FINALIZE": Row(ORDER, of_vcpu(command(INIT_MEM_REGION)), EINVAL),
    # KVM_TDX_CAPABILITIES
    "flags of CAPABILITIES": Row((), lambda td: td.capabilities(1, 256), EINVAL),
    "room for one leaf": Row((), lambda td: td.capabilities(0, 1), E2BIG),
    # KVM_TDX_INIT_VM
    "INIT_VM twice": Row(up_to(init_vm), init_vm, EINVAL),
    "flags of INIT_VM": Row((), lambda td: td.init_vm(1, PARAMETERS, 0, (WIDTH,)), EINVAL),
    "DEBUG": Row((), started(attributes=module.ATTRIBUTE_DEBUG), EINVAL),
    "PERFMON": Row((), started(attributes=module.ATTRIBUTE_PERFMON | SEPT), EINVAL),
    "MIGRATABLE": Row((), started(attributes=1 << 29), EINVAL),
    "XFAM of AMX": Row((), started(xfam=0x60003), EINVAL),
    "XFAM of half of AVX-512": Row((), started(xfam=0x27), EINVAL),
    "a reserved field": Row((), started(reserved=b"\1".ljust(96, b"\0")), EINVAL),
    "padding": Row((), configured(WIDTH, padding=1), EINVAL),
    "257 leaves": Row((), configured(*[WIDTH] * 257), E2BIG),
    "no address width": Row((), configured(FEATURES), EINVAL),
    "an address width of 40": Row((), configured(WIDTH._replace(eax=40 << 16)), EINVAL),
    "52, without five levels": Row((), configured(WIDTH._replace(eax=52 << 16)), EINVAL),
    "a leaf that can't be chosen": Row((), configured(WIDTH, FEATURES._replace(function=0x14)),
                                       EINVAL),
    "RTM": Row((), configured(WIDTH, CpuidEntry(7, 0, 1, 0, 1 << 11, 0, 0)), EINVAL),
    "a bit that can't be chosen": Row((), configured(WIDTH, FEATURES._replace(ecx=1)), EINVAL),
    # KVM_CREATE_VCPU
    "a vCPU before INIT_VM": Row((irqchip,), vcpu, EIO),
    "a vCPU after FINALIZE": Row(ORDER, lambda td: td.create_vcpu(1), EIO),
    "a vCPU without irqchip": Row((init_vm,), vcpu, EINVAL),
    "a vCPU twice": Row(up_to(vcpu), vcpu, EEXIST),
    "more vCPUs than CPUs": Row(up_to(vcpu), lambda td: td.create_vcpu(2), EINVAL),
    # KVM_TDX_INIT_VCPU
    "INIT_VCPU without x2APIC": Row(up_to(vcpu), init_vcpu, EINVAL),
    "INIT_VCPU twice": Row(up_to(init_vcpu), init_vcpu, EINVAL),
    "flags of INIT_VCPU": Row(up_to(cpuid), lambda td: td.init_vcpu(td.vcpus[0], 1, 0), EINVAL),
    # Slots and attributes
    "a slot of no file": Row((), slot_of(None), EBADF),
    "a slot beyond its file": Row((), slot_of(PAGE), EINVAL),
    "a file from half a page on": Row((), slot_of(8 * PAGE, guest_memfd_offset=1), EINVAL),
    "a read-only slot": Row((), slot_of(flags=MEM_GUEST_MEMFD | 2), EINVAL),
    "half a page": Row((), slot_of(memory_size=PAGE // 2), EINVAL),
    "a slot over another": Row((slot,), slot_of(slot=1, guest_phys_addr=PAGE), EEXIST),
    "a slot with a file, changed": Row((slot,), slot_of(userspace_addr=0), EINVAL),
    "a slot that is not there, removed": Row((), slot_of(memory_size=0), EINVAL),
    "an unknown attribute": Row((), attribute(0, PAGE, P | 1, 0), EINVAL),
    "flags of attributes": Row((), attribute(0, PAGE, P, 1), EINVAL),
    "attributes of nothing": Row((), attribute(0, 0, P, 0), EINVAL),
    "attributes of half a page": Row((), attribute(1, PAGE, P, 0), EINVAL),
    # KVM_TDX_INIT_MEM_REGION
    "memory before INIT_VCPU": Row(up_to(cpuid), region(PAGE, 0, 1), EINVAL),
    "no source": Row(up_to(private), region(0, 0, 1), EINVAL),
    "an unaligned source": Row(up_to(private), region(PAGE + 1, 0, 1), EINVAL),
    "an unaligned address": Row(up_to(private), region(PAGE, 1, 1), EINVAL),
    "no pages": Row(up_to(private), region(PAGE, 0, 0), EINVAL),
    "a shared address": Row(up_to(private), region(PAGE, 1 << 47, 1), EINVAL),
    "a region into the shared half": Row(up_to(private), region(PAGE, (1 << 47) - PAGE, 2), EINVAL),
    "flags of a region": Row(up_to(private), region(PAGE, 0, 1, flags=2), EINVAL),
    "a page of no slot": Row(up_to(private), lambda td: td.check_page(4 * PAGE), EINVAL),
    "a private page of no slot": Row((*up_to(init_vcpu), private), check_first, EINVAL),
    "a private page without file": Row((*up_to(init_vcpu), plain_slot, private), check_first,
                                       EINVAL),
    "a page that is not private": Row(up_to(slot), check_first, EINVAL),
    "a page twice": Row(up_to(page), page, EEXIST),
    # KVM_TDX_FINALIZE_VM and KVM_RUN
    "FINALIZE before INIT_VM": Row((), finalize, EINVAL),
    "FINALIZE twice": Row(ORDER, finalize, EINVAL),
    "KVM_RUN before FINALIZE": Row(up_to(page), lambda td: td.check_run(td.vcpus[0]), EINVAL),
    "KVM_RUN before INIT_VCPU": Row(without(init_vcpu, page), lambda td: td.check_run(td.vcpus[0]),
                                    EINVAL),
}  # fmt: skip


#: What KVM lets pass, so that the TDX module's status comes with the error.
BY_THE_MODULE = {"XFAM of half of AVX-512", "a bit that can't be chosen"}


@pytest.mark.parametrize("name", REFUSED)
def test_kvm_refuses(name: str) -> None:
    row = REFUSED[name]
    td = after(*row.before)
    state = td.state
    with pytest.raises(Refused) as refused:
        row.call(td)
    assert refused.value.number == row.number
    assert bool(refused.value.hw_error) is (name in BY_THE_MODULE)
    assert td.state is state


def test_vcpus_before_init_vm_are_told_before_the_attributes() -> None:
    td = Td(cpus=1)
    td.vcpus[0] = after(*up_to(vcpu)).vcpus[0]
    with pytest.raises(Refused) as refused:
        started(attributes=module.ATTRIBUTE_DEBUG)(td)
    assert refused.value.number == EBUSY


def test_the_order_that_kvm_wants_makes_a_td_that_runs() -> None:
    td = after(*ORDER)
    td.check_run(td.vcpus[0])
    assert (td.state, td.gpaw, td.xfam, td.added) == (State.RUNNABLE, 48, 3, [0])
    expected = Measurement()
    expected.add_page(0)
    expected.extend(0, bytes(PAGE))
    assert td.mrtd == expected.value()


def test_what_the_module_refuses_has_its_status() -> None:
    with pytest.raises(Refused) as refused:
        configured(WIDTH, FEATURES._replace(ecx=1))(Td(cpus=1))
    assert refused.value.hw_error >> 32 == module.OPERAND_INVALID >> 32


@pytest.mark.parametrize(("fault", "attribute"), [
    ("debug-accepted", module.ATTRIBUTE_DEBUG), ("debug-offered", module.ATTRIBUTE_DEBUG),
    ("perfmon-accepted", module.ATTRIBUTE_PERFMON),
])  # fmt: skip
def test_a_fault_accepts_what_kvm_refuses(fault: str, attribute: int) -> None:
    td = Td(cpus=1, faults={fault})
    offered = fault == "debug-offered"
    assert bool(td.supported_attributes & attribute) is offered
    started(attributes=attribute)(td)
    assert td.attributes == attribute


def test_capabilities_offer_one_attribute() -> None:
    assert len(Td(cpus=1).capabilities(0, 256)) == len(module.CONFIGURABLE)
    assert module.SUPPORTED_ATTRIBUTES == 1 << 28
    Td(cpus=1).check(command(CAPABILITIES), of_vcpu=False)


def test_the_td_sees_its_choice_and_the_cpus_own_bits() -> None:
    native = (CpuidEntry(0, 0, 0, 0x10, 1, 2, 3), FEATURES._replace(eax=0xF00, edx=0x2))
    td = Td(cpus=1, native=native)
    td.init_vm(0, PARAMETERS, 0, (WIDTH, FEATURES._replace(eax=0x806F8)))
    leaf, features, identity = td.virtual_cpuid
    assert leaf == native[0]._replace(eax=0x21)
    assert struct.pack("<III", identity.ebx, identity.edx, identity.ecx) == b"IntelTDX    "
    assert (features.eax, features.ecx, features.edx) == (0x806F8, 1 << 21, 2)


def test_added_memory_is_told_in_ranges_that_end_with_their_slot() -> None:
    td = after(*up_to(init_vcpu))
    for number, start in enumerate((0, 4 * PAGE)):
        td.set_memory_region(SLOT._replace(slot=number, guest_phys_addr=start), 4 * PAGE)
    td.set_memory_attributes(0, 8 * PAGE, MEMORY_ATTRIBUTE_PRIVATE, 0)
    for gpa in (5 * PAGE, 4 * PAGE, 3 * PAGE, 0, PAGE):
        td.add_page(gpa, bytes(PAGE), 0)
    assert td.added_ranges() == [(0, 2 * PAGE), (3 * PAGE, PAGE), (4 * PAGE, 2 * PAGE)]


def test_the_last_attribute_counts() -> None:
    td = after(private)
    td.set_memory_attributes(PAGE, PAGE, 0, 0)
    assert [td.is_private(at * PAGE) for at in range(5)] == [True, False, True, True, False]


def test_steps_are_kept_with_their_outcome() -> None:
    td = Td(cpus=1)
    td.step("one", lambda: None)
    with pytest.raises(Refused):
        td.step("two", lambda: td.finalize(0))
    assert td.steps == [Step("one"), Step("two", EINVAL, "the TD is uninitialized")]
