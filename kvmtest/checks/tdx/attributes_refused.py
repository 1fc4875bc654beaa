"""Attributes of a TD
==================

tdx.attributes-refused: KVM lets no TD be debugged (DEBUG), or have a PMU of its own (PERFMON).
"""

import errno

from kvmtest._native import lib
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.judge import claim, control, measure
from kvmtest.kvm import Cpuid, Vm, tdx

__all__ = ["attributes_refused"]

REFUSED = ("DEBUG", "PERFMON")
#: What becomes of a KVM_TDX_INIT_VM that is no error.
TAKEN = "taken"


def attributes_refused(context: Context) -> Observations:
    """Ask for each attribute in KVM_TDX_INIT_VM, and look for it in KVM_TDX_CAPABILITIES.

    The control: without it, and with all the others that KVM supports, the same KVM_TDX_INIT_VM is
    taken.
    """
    with Scene(context, "guest") as scene:
        supported = scene.system.get_supported_cpuid()
        for name in REFUSED:
            with scene.system.create_vm(lib.KVM_X86_TDX_VM) as vm:
                yield from _ask(vm, supported, name)


def _ask(vm: Vm, supported: Cpuid, name: str) -> Observations:
    bit, can = tdx.ATTRIBUTES[name], tdx.capabilities(vm)
    offered, cpuid = can.supported_attrs, can.configure(supported)
    what = f"attribute {name} is in KVM_TDX_CAPABILITIES"
    yield claim("guest", what, bool(offered & bit), False, supported_attrs=hex(offered))
    answer = _init_vm(vm, cpuid, bit)
    yield claim("guest", f"KVM_TDX_INIT_VM with {name}", answer, errno.errorcode[errno.EINVAL])
    if answer == TAKEN:
        yield control("guest", f"KVM_TDX_INIT_VM with {name}, which was taken", TAKEN, TAKEN, "")
        return
    others = offered & ~bit
    what = f"KVM_TDX_INIT_VM without {name}, with attributes {others:#x}"
    remedy = "look at the kernel log: no TD can be made here at all"
    yield control("guest", what, _init_vm(vm, cpuid, others), TAKEN, remedy)
    yield measure("guest", f"attributes that KVM supports, asked for {name}", hex(offered))


def _init_vm(vm: Vm, cpuid: Cpuid, attributes: int) -> str:
    """Return TAKEN, or the error's name, with the TDX module's own status if it gave one."""
    try:
        tdx.init_vm(vm, cpuid, attributes=attributes)
    except tdx.TdxError as error:
        name = errno.errorcode.get(error.errno, str(error.errno))
        return f"{name}, SEAMCALL {error.hw_error:#x}" if error.hw_error else name
    return TAKEN
