"""A TD by raw ioctls, without kvmtest: what each call answers, as JSON on standard output.

``python -m support.raw_td`` on a machine whose KVM has TDX, or that is stood in for. Layouts and
numbers are those of linux/kvm.h and Documentation/virt/kvm/x86/intel-tdx.rst.
"""

import ctypes
import fcntl
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable

CREATE_VM, CHECK_EXTENSION, CREATE_VCPU, RUN = 0xAE01, 0xAE03, 0xAE41, 0xAE80
SET_USER_MEMORY_REGION2, SET_MEMORY_ATTRIBUTES = 0x40A0AE49, 0x4020AED2
CREATE_GUEST_MEMFD, ENABLE_CAP, ENCRYPT_OP = 0xC040AED4, 0x4068AEA3, 0xC008AEBA
GET_SUPPORTED_CPUID, SET_CPUID2 = 0xC008AE05, 0x4008AE90
GET_REGS, GET_MSRS, GET_VCPU_MMAP_SIZE = 0x8090AE81, 0xC008AE88, 0xAE04
CAP_VM_TYPES, CAP_SPLIT_IRQCHIP, CAP_MAX_VCPUS, CAP_GUEST_MEMFD = 235, 121, 66, 234
TDX_VM, PRIVATE, GUEST_MEMFD, PAGE, RESET_PAGE = 5, 8, 4, 4096, 0xFFFFF000
CAPABILITIES, INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE_VM, GET_CPUID = range(6)
EXIT_REASON_AT = 8


class RawTd:
    """A VM of type KVM_X86_TDX_VM and its first vCPU; methods return a result or minus an errno."""

    def __init__(self) -> None:
        self.system = os.open("/dev/kvm", os.O_RDWR)
        self.vm = self.vcpu = -1
        self.run = b""
        self.memory = mmap.mmap(-1, 16 * PAGE)
        self.source = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.region = ctypes.create_string_buffer(24)

    def ioctl(self, fd: int, request: int, argument: int | bytes | bytearray = 0) -> int:
        try:
            if isinstance(argument, bytes):
                argument = bytearray(argument)
            return fcntl.ioctl(fd, request, argument)
        except OSError as error:
            return -(error.errno or 0)

    def extension(self, capability: int) -> int:
        return self.ioctl(self.system, CHECK_EXTENSION, capability)

    def create(self) -> int:
        self.vm = self.ioctl(self.system, CREATE_VM, TDX_VM)
        return min(self.vm, 0)

    def command(
        self, fd: int, number: int, data: int = 0, flags: int = 0, hw_error: int = 0
    ) -> int:
        return self.ioctl(fd, ENCRYPT_OP, struct.pack("<IIQQ", number, flags, data, hw_error))

    def capabilities(self, room: int = 64) -> tuple[int, int, int]:
        data = ctypes.create_string_buffer(2056 + 40 * room)
        struct.pack_into("<I", data, 2048, room)
        result = self.command(self.vm, CAPABILITIES, ctypes.addressof(data))
        attributes, xfam = struct.unpack_from("<QQ", data)
        return result, attributes, xfam

    def init_vm(self, attributes: int = 0, *, reserved: int = 0, width: int = 48) -> int:
        leaf = struct.pack("<7I12x", 0x80000008, 0, 0, width << 16, 0, 0, 0)
        head = struct.pack("<QQ144x", attributes, 3) + bytes((reserved,)).ljust(96, b"\0")
        data = ctypes.create_string_buffer(head + struct.pack("<II", 1, 0) + leaf)
        return self.command(self.vm, INIT_VM, ctypes.addressof(data))

    def irqchip(self) -> int:
        return self.ioctl(
            self.vm, ENABLE_CAP, struct.pack("<II4Q64x", CAP_SPLIT_IRQCHIP, 0, 24, 0, 0, 0)
        )

    def create_vcpu(self) -> int:
        self.vcpu = self.ioctl(self.vm, CREATE_VCPU, 0)
        if self.vcpu < 0:
            return self.vcpu
        size = self.ioctl(self.system, GET_VCPU_MMAP_SIZE)
        self.run = mmap.mmap(self.vcpu, size)  # type: ignore[assignment]
        return 0

    def set_cpuid(self) -> int:
        data = bytearray(struct.pack("<II", 256, 0) + bytes(256 * 40))
        fcntl.ioctl(self.system, GET_SUPPORTED_CPUID, data)
        (nent,) = struct.unpack_from("<I", data)
        for at in range(8, 8 + 40 * nent, 40):
            function, _, _, _, _, ecx = struct.unpack_from("<6I", data, at)
            if function == 1:
                struct.pack_into("<I", data, at + 20, ecx | 1 << 21)
        return self.ioctl(self.vcpu, SET_CPUID2, data)

    def init_vcpu(self) -> int:
        return self.command(self.vcpu, INIT_VCPU)

    def add_slot(self) -> int:
        fd = self.ioctl(self.vm, CREATE_GUEST_MEMFD, struct.pack("<QQ48x", 16 * PAGE, 0))
        fields = (0, GUEST_MEMFD, RESET_PAGE, PAGE, self.source, 0, fd)
        return self.ioctl(self.vm, SET_USER_MEMORY_REGION2, struct.pack("<IIQQQQI116x", *fields))

    def make_private(self) -> int:
        fields = (RESET_PAGE, PAGE, PRIVATE, 0)
        return self.ioctl(self.vm, SET_MEMORY_ATTRIBUTES, struct.pack("<4Q", *fields))

    def add_page(self, code: bytes = b"", *, offset: int = 0, pages: int = 1) -> int:
        self.memory[PAGE - 16 : PAGE - 16 + len(code)] = code
        struct.pack_into("<QQQ", self.region, 0, self.source + offset, RESET_PAGE, pages)
        return self.command(self.vcpu, INIT_MEM_REGION, ctypes.addressof(self.region), 1)

    def finalize(self) -> int:
        return self.command(self.vm, FINALIZE_VM)

    def enter(self) -> int:
        """KVM_RUN: its error, or the exit reason."""
        result = self.ioctl(self.vcpu, RUN)
        reason: int = struct.unpack_from("<I", self.run, EXIT_REASON_AT)[0]
        return result or reason


def td(*steps: str) -> RawTd:
    """Return a TD after these steps, each of which must succeed."""
    made = RawTd()
    for step in ("create", *steps):
        result = getattr(made, step)()
        assert result == 0, f"{step}: {result}"
    return made


ORDER = ("init_vm", "irqchip", "create_vcpu", "set_cpuid", "init_vcpu", "add_slot", "make_private")


def up_to(last: str) -> tuple[str, ...]:
    return ORDER[: ORDER.index(last) + 1]


def entered(code: bytes) -> int:
    """Return how a TD exits whose first instructions are ``code``."""
    made = td(*ORDER)
    return made.add_page(code) or made.finalize() or made.enter()


def protected() -> list[int]:
    made = td(*ORDER)
    data = bytearray(struct.pack("<IIIIQ", 1, 0, 0x1D9, 0, 0))
    return [made.ioctl(made.vcpu, GET_REGS, bytes(144)), made.ioctl(made.vcpu, GET_MSRS, data)]


def added_twice() -> list[int]:
    made = td(*ORDER)
    first = made.add_page()
    moved = struct.unpack("<QQQ", made.region.raw)
    return [first, moved[0] - made.source, moved[1] - RESET_PAGE, moved[2], made.add_page()]


def mapped() -> list[int]:
    """Map a guest_memfd, and then another file that gets its number."""
    made = td("init_vm")
    fd = made.ioctl(made.vm, CREATE_GUEST_MEMFD, struct.pack("<QQ48x", PAGE, 0))
    results = []
    for other in (fd, os.memfd_create("another")):
        if other != fd:
            os.dup2(other, fd)
            os.ftruncate(fd, PAGE)
        try:
            mmap.mmap(fd, PAGE).close()
            results.append(0)
        except OSError as error:
            results.append(-(error.errno or 0))
    return results


SCENARIOS: dict[str, Callable[[], object]] = {
    "types": lambda: RawTd().extension(CAP_VM_TYPES) >> TDX_VM & 1,
    "guest_memfd": lambda: RawTd().extension(CAP_GUEST_MEMFD),
    "most vCPUs": lambda: (made := td()).ioctl(made.vm, CHECK_EXTENSION, CAP_MAX_VCPUS),
    "capabilities": lambda: td().capabilities(),
    "capabilities, no room": lambda: td().capabilities(1)[0],
    "hw_error": lambda: (made := td()).command(made.vm, CAPABILITIES, hw_error=1),
    "no structure": lambda: (made := td()).command(made.vm, INIT_VM),
    "no such command": lambda: (made := td()).command(made.vm, 99),
    "undocumented": lambda: (made := td()).ioctl(made.vm, 0xAE60),
    "INIT_VM": lambda: td().init_vm(),
    "DEBUG": lambda: td().init_vm(1),
    "PERFMON": lambda: td().init_vm(1 << 63),
    "SEPT_VE_DISABLE": lambda: td().init_vm(1 << 28),
    "reserved": lambda: td().init_vm(reserved=1),
    "width": lambda: td().init_vm(width=40),
    "INIT_VM twice": lambda: td("init_vm").init_vm(),
    "vCPU before INIT_VM": lambda: td("irqchip").create_vcpu(),
    "vCPU without irqchip": lambda: td("init_vm").create_vcpu(),
    "INIT_VCPU without x2APIC": lambda: td(*up_to("create_vcpu")).init_vcpu(),
    "INIT_VCPU twice": lambda: td(*up_to("init_vcpu")).init_vcpu(),
    "page before INIT_VCPU": lambda: td(*up_to("set_cpuid")).add_page(),
    "page of no slot": lambda: td(*up_to("init_vcpu")).add_page(),
    "page not private": lambda: td(*up_to("add_slot")).add_page(),
    "unaligned source": lambda: td(*ORDER).add_page(offset=1),
    "page twice": added_twice,
    "FINALIZE before INIT_VM": lambda: td().finalize(),
    "run before FINALIZE": lambda: td(*ORDER).enter(),
    "FINALIZE twice": lambda: (made := td("init_vm")).finalize() or made.finalize(),
    "a guest_memfd mapped": mapped,
    "registers": protected,
    "TDCALL in 32-bit mode": lambda: entered(bytes.fromhex("660f01cc")),
    "port I/O": lambda: entered(bytes.fromhex("e610")),
    "ud2": lambda: entered(bytes.fromhex("0f0b")),
    "a jump to nothing": lambda: entered(bytes.fromhex("ea000010000800")),
}  # fmt: skip

if __name__ == "__main__":
    json.dump({name: answer() for name, answer in SCENARIOS.items()}, sys.stdout)
