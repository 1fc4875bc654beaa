"""guests/flat_kernel.S: a flat bzImage entered as by a boot loader, on this machine's KVM."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from support.kernel_files import START, Segment, bzimage, elf, vmlinux

from kvmtest.kvm import HltExit, Memory, System, Vcpu
from kvmtest.lab.image.flat_kernel import flatten

MEMORY = 0x1800000
BASE = 0x100000
BOOT_PARAMS = 0x90000
LARGE = 0x200000
# Seconds: a KVM that makes each page itself, on a busy machine, takes more than one for them all.
PATIENCE = 60


@pytest.fixture
def machine(system: System) -> Iterator[tuple[Memory, Vcpu]]:
    with system.create_vm() as vm:
        memory, vcpu = vm.add_memory(MEMORY), vm.create_vcpu()
        vcpu.set_cpuid(system.get_supported_cpuid())
        yield memory, vcpu


def enter(vcpu: Vcpu) -> None:
    """Enter at 1 MiB by the 32-bit boot protocol: flat segments, no paging, ESI = boot_params."""
    sregs = vcpu.get_sregs()
    sregs.cr0 = 1 | 1 << 4
    for name in ("cs", "ds", "es", "ss"):
        segment: Any = getattr(sregs, name)
        segment.base, segment.limit = 0, 0xFFFFFFFF
        segment.selector, segment.type = (0x10, 11) if name == "cs" else (0x18, 3)
        segment.present = segment.s = segment.g = segment.db = 1
        segment.dpl = segment.l = segment.unusable = 0
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rsi, regs.rflags = BASE, BOOT_PARAMS, 2
    vcpu.set_regs(regs)


def load(memory: Memory, image: bytes) -> None:
    """Put the protected-mode part where a boot loader does, and dirt where the kernel goes."""
    memory.write(START, b"\xee" * 0x10000)
    memory.write(BASE, image[(image[0x1F1] + 1) * 512 :])


def test_the_kernel_starts_in_64_bit_mode_in_its_place(machine: tuple[Memory, Vcpu]) -> None:
    memory, vcpu = machine
    # mov %rsi, %rdi; movabs $0x123456789abcdef0, %rax; hlt
    code = b"\x48\x89\xf7\x48\xb8" + struct.pack("<Q", 0x123456789ABCDEF0) + b"\xf4"
    load(memory, flatten(bzimage(vmlinux(code))))
    enter(vcpu)
    assert isinstance(vcpu.run(PATIENCE), HltExit)
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    assert regs.rip == START + len(code)
    assert regs.rax == 0x123456789ABCDEF0
    assert regs.rdi == regs.rsi == BOOT_PARAMS
    assert sregs.cs.l == 1
    assert sregs.efer & 1 << 10
    assert not regs.rflags & 1 << 9


def test_segments_are_in_place_and_all_between_and_behind_them_is_zero(
    machine: tuple[Memory, Vcpu],
) -> None:
    memory, vcpu = machine
    load(memory, flatten(bzimage(vmlinux(bss=0x3000))))
    enter(vcpu)
    assert isinstance(vcpu.run(PATIENCE), HltExit)
    expected = (b"\xf4".ljust(0x4000, b"\0") + b"data").ljust(0x7004, b"\0")
    assert memory.read(START, len(expected)) == expected
    assert memory.read(START + len(expected), 0x10) == b"\xee" * 0x10


def test_a_kernel_larger_than_the_way_it_moves_is_whole(machine: tuple[Memory, Vcpu]) -> None:
    memory, vcpu = machine
    content = b"\xf4" + b"".join(n.to_bytes(4, "big") for n in range(LARGE // 4))
    kernel = elf(segments=[Segment(0x200000, content, len(content))], entry=0x200000)
    load(memory, flatten(bzimage(kernel, preferred=0x200000)))
    enter(vcpu)
    assert isinstance(vcpu.run(PATIENCE), HltExit)
    assert memory.read(0x200000, len(content)) == content


def test_memory_up_to_4_gib_is_mapped_where_it_is(system: System) -> None:
    with system.create_vm() as vm:
        memory, vcpu = vm.add_memory(MEMORY), vm.create_vcpu()
        vcpu.set_cpuid(system.get_supported_cpuid())
        high = vm.add_memory(0x1000, 0xC0001000)
        high.write(0xC0001000, b"high")
        # mov $0xc0001000, %edi; mov (%rdi), %eax; hlt
        code = b"\xbf" + struct.pack("<I", 0xC0001000) + b"\x8b\x07\xf4"
        load(memory, flatten(bzimage(vmlinux(code))))
        enter(vcpu)
        assert isinstance(vcpu.run(PATIENCE), HltExit)
        assert vcpu.get_regs().rax == int.from_bytes(b"high", "little")
