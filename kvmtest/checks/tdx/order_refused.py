"""Order of a TD's calls
=====================

tdx.order-refused: a TD is made by calls in one order, and KVM refuses each of them out of it.
"""

import errno
from collections.abc import Sequence
from typing import NamedTuple

from kvmtest._native import lib
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.guests import td_guest
from kvmtest.guests.td import create_td, with_x2apic
from kvmtest.judge import claim
from kvmtest.kvm import Cpuid, KvmError, System, Vcpu, Vm, tdx

from .answers import is_a_td

__all__ = ["order_refused"]


class Wrong(NamedTuple):
    """A call out of order: the calls that come before it, in order, and the call.

    ``errors`` are those by which KVM refuses it; another one comes of a call that was taken.
    """

    what: str
    before: Sequence[str]
    call: str
    errors: Sequence[int] = (errno.EINVAL,)


#: The order, by the methods of Making.
ORDER = ("init_vm", "create_vcpu", "init_vcpu", "add_memory", "finalize")
#: Of kernels with tdx_vcpu_pre_run, and of those with vcpu_needs_initialization.
NOT_RUNNABLE = (errno.EINVAL, errno.ENOEXEC)
WRONG = (
    Wrong("KVM_CREATE_VCPU before KVM_TDX_INIT_VM", (), "create_vcpu", (errno.EIO,)),
    Wrong("KVM_TDX_FINALIZE_VM before KVM_TDX_INIT_VM", (), "finalize"),
    Wrong("KVM_TDX_INIT_VM after KVM_TDX_INIT_VM", ORDER[:1], "init_vm"),
    Wrong("KVM_TDX_INIT_MEM_REGION before KVM_TDX_INIT_VCPU", ORDER[:2], "add_memory"),
    Wrong("KVM_TDX_INIT_VCPU after KVM_TDX_INIT_VCPU", ORDER[:3], "init_vcpu"),
    Wrong("KVM_RUN before KVM_TDX_FINALIZE_VM", ORDER[:4], "run", NOT_RUNNABLE),
    Wrong("KVM_TDX_INIT_MEM_REGION after KVM_TDX_FINALIZE_VM", ORDER, "add_memory"),
    Wrong("KVM_TDX_FINALIZE_VM after KVM_TDX_FINALIZE_VM", ORDER, "finalize"),
)


def order_refused(context: Context) -> Observations:
    """Make each call out of its order; the control is a TD that was made in order, and works."""
    with Scene(context, "guest") as scene:
        for wrong in WRONG:
            with scene.system.create_vm(lib.KVM_X86_TDX_VM) as vm:
                making = Making(vm, scene.system)
                for call in wrong.before:
                    getattr(making, call)()
                yield from _refused(making, wrong)
        with td_guest(scene.system) as guest:
            yield from is_a_td(scene, guest)


def _refused(making: "Making", wrong: Wrong) -> Observations:
    answer, name = "taken", ""
    try:
        getattr(making, wrong.call)()
    except KvmError as error:
        name = errno.errorcode.get(error.errno, str(error.errno))
        answer = "refused" if error.errno in wrong.errors else name
    yield claim("guest", wrong.what, answer, "refused", errno=name)


class Making:
    """A TD as it is made, with one vCPU; each method is one call. They raise KvmError."""

    def __init__(self, vm: Vm, system: System) -> None:
        self._vm = vm
        self._supported: Cpuid = system.get_supported_cpuid()
        self._vcpu: Vcpu | None = None
        vm.split_irqchip()

    def init_vm(self) -> None:
        create_td(self._vm, self._supported)

    def create_vcpu(self) -> None:
        self._vcpu = self._vm.create_vcpu()
        self._vcpu.set_cpuid(with_x2apic(self._supported))

    def init_vcpu(self) -> None:
        tdx.init_vcpu(self.vcpu)

    def add_memory(self) -> None:
        memory = self._vm.add_private_memory(tdx.PAGE, len(self._vm.memories) * tdx.PAGE)
        tdx.init_mem_region(self.vcpu, memory, memory.guest_address, memory.size)

    def finalize(self) -> None:
        tdx.finalize_vm(self._vm)

    def run(self) -> None:
        self.vcpu.run()

    @property
    def vcpu(self) -> Vcpu:
        assert self._vcpu
        return self._vcpu
