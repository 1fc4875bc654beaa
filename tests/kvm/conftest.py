"""Fixtures of the tests that drive this machine's /dev/kvm."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmtest.guests import Guest, long_guest, private_guest, real_guest
from kvmtest.kvm import Cpuid, KvmUnavailable, Memory, System, Vcpu, Vm

# Where the tests' own code runs: inside the guests' memory, in nobody's way.
CODE = 0x40000

#: Make a 64-bit guest on a VM's vCPU.
MakeGuest = Callable[[Vm, Vcpu], Guest]
#: Make a 64-bit guest in a VM, which has not come up.
NewGuest = Callable[[Vm], Guest]
#: Put bytes into a VM's memory and give a vCPU that executes them in real mode, IVT at 0.
MakeVcpu = Callable[[bytes], Vcpu]
#: Execute bytes on a guest that has come up, in the mode it is in.
Execute = Callable[[Guest, bytes], None]


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    try:
        opened = System()
    except KvmUnavailable as error:
        pytest.skip(f"needs a usable /dev/kvm: {error}")
    with opened:
        yield opened


@pytest.fixture(scope="session")
def supported(system: System) -> Cpuid:
    return system.get_supported_cpuid()


@pytest.fixture
def vm(system: System) -> Iterator[Vm]:
    with system.create_vm() as created:
        yield created


@pytest.fixture
def memory(vm: Vm) -> Memory:
    return vm.add_memory(0x100000)


@pytest.fixture
def real_code(vm: Vm, memory: Memory) -> MakeVcpu:
    def make(code: bytes) -> Vcpu:
        memory.write(0x1000, code)
        vcpu = vm.create_vcpu()
        sregs = vcpu.get_sregs()
        for segment in (sregs.cs, sregs.ds, sregs.es, sregs.ss):
            segment.base = segment.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rsp, regs.rflags = 0x1000, 0x8000, 0x202
        vcpu.set_regs(regs)
        return vcpu

    return make


def made(make: MakeGuest, vm: Vm, cpuid: Cpuid) -> Guest:
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(cpuid)
    return make(vm, vcpu)


def booted(make: MakeGuest, vm: Vm, cpuid: Cpuid) -> Guest:
    guest = made(make, vm, cpuid)
    guest.boot()
    return guest


@pytest.fixture
def new_guest(supported: Cpuid) -> NewGuest:
    """Make 64-bit guests with a mailbox, with all of CPUID that KVM supports."""
    return lambda vm: made(long_guest, vm, supported)


@pytest.fixture
def mailbox_guest(vm: Vm, supported: Cpuid) -> Guest:
    """The 64-bit guest with a mailbox, up, with all of CPUID that KVM supports."""
    return booted(long_guest, vm, supported)


@pytest.fixture
def guest(mailbox_guest: Guest) -> Guest:
    """The guest where any will do."""
    return mailbox_guest


@pytest.fixture(params=[long_guest, private_guest], ids=["mailbox", "registers"])
def each_guest(request: pytest.FixtureRequest, vm: Vm, supported: Cpuid) -> Guest:
    """The 64-bit guest over each transport in turn, up, with all of CPUID that KVM supports."""
    return booted(request.param, vm, supported)


@pytest.fixture
def real(vm: Vm) -> Guest:
    """The real-mode guest, up."""
    real = real_guest(vm)
    real.boot()
    return real


@pytest.fixture
def msrs_fault() -> None:
    """An MSR that KVM does not know is refused: not so where the host's owner wants it ignored."""
    parameter = Path("/sys/module/kvm/parameters/ignore_msrs")
    if parameter.exists() and parameter.read_text().strip() not in ("N", "0"):
        pytest.skip("needs kvm.ignore_msrs=N")


@pytest.fixture
def open_files() -> Callable[[], set[str]]:
    """What /proc/self/fd names, without the descriptor that lists it."""

    def names() -> set[str]:
        folder = Path("/proc/self/fd")
        return {f"{entry.name} {entry.readlink()}" for entry in folder.iterdir() if entry.exists()}

    return names


@pytest.fixture
def jump_to(vm: Vm) -> Execute:
    def jump(guest: Guest, code: bytes) -> None:
        guest.vcpu.complete()  # the OUT that the guest waits at would move RIP at the next entry
        vm.memories[0].write(CODE, code)
        regs = guest.vcpu.get_regs()
        regs.rip = CODE
        guest.vcpu.set_regs(regs)

    return jump
