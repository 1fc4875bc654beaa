"""TDCALL: what the TDX module answers itself, and what it hands to KVM (TDG.VP.VMCALL).

Intel TDX Module ABI Specification (TDG.* leaves), Guest-Hypervisor Communication Interface
(sub-functions of TDG.VP.VMCALL), and their handlers in arch/x86/kvm/vmx/tdx.c.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from .module import OPERAND_INVALID
from .td import Td, TdVcpu

#: The instruction.
OPCODE = bytes.fromhex("660f01cc")

VP_VMCALL, VP_INFO, VP_VEINFO_GET = 0, 1, 3
_NO_VALID_VE_INFO = 0xC000070400000000
#: Operands of TDX_OPERAND_INVALID.
_IN_RAX, _IN_RCX = 0, 1


class Call(IntEnum):
    """Sub-functions of TDG.VP.VMCALL, in R11."""

    CPUID = 10
    IO = 30
    RDMSR = 31
    WRMSR = 32
    MMIO = 48
    GET_TD_VM_CALL_INFO = 0x10000
    FATAL_ERROR = 0x10003


_SUCCESS, _SUBFUNC_UNSUPPORTED, _INVALID_OPERAND = 0, 3, 1 << 63

#: The registers by their bits in RCX of TDG.VP.VMCALL.
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
         "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip
# RAX, RCX, RSP; RBP, as KVM makes TDs with NO_RBP_MOD; and what is no register.
_NEVER_PASSED = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | ~((1 << 32) - 1)


@dataclass(frozen=True)
class Resume:
    """The TD goes on, with these registers changed. ``by_kvm``: KVM saw an exit, and enters."""

    changes: Mapping[str, int]
    by_kvm: bool


@dataclass(frozen=True)
class Io:
    """KVM exits to userspace for port I/O; an IN's data go to R11, where the TD takes them."""

    port: int
    size: int
    is_out: bool
    data: int
    takes: frozenset[str]


@dataclass(frozen=True)
class Mmio:
    """KVM exits to userspace for an access to memory that nothing backs."""

    gpa: int
    size: int
    is_write: bool
    data: int
    takes: frozenset[str]


@dataclass(frozen=True)
class FatalError:
    """The TD reports an error that it can't go on from; the registers that KVM shows."""

    registers: Mapping[str, int]


Outcome = Resume | Io | Mmio | FatalError


def tdcall(td: Td, vcpu: TdVcpu, registers: Mapping[str, int]) -> Outcome:
    """Answer a TDCALL of 64-bit code at CPL 0."""
    leaf = registers["rax"]
    if leaf == VP_VMCALL:
        return _vmcall(td, vcpu, registers)
    if leaf == VP_INFO:
        info = {"rcx": td.gpaw, "rdx": td.attributes, "r8": len(td.vcpus) << 32 | len(td.vcpus)}
        info |= {"r9": vcpu.number, "r10": 0, "r11": 0}
        return Resume({"rax": 0, **info}, by_kvm=False)
    if leaf == VP_VEINFO_GET:
        reason, vcpu.ve_reason = vcpu.ve_reason, None
        if reason is None:
            return Resume({"rax": _NO_VALID_VE_INFO}, by_kvm=False)
        nothing = dict.fromkeys(("rdx", "r8", "r9", "r10"), 0)
        return Resume({"rax": 0, "rcx": reason, **nothing}, by_kvm=False)
    return Resume({"rax": OPERAND_INVALID | _IN_RAX}, by_kvm=False)


def _vmcall(td: Td, vcpu: TdVcpu, registers: Mapping[str, int]) -> Outcome:
    mask = registers["rcx"]
    if mask & _NEVER_PASSED:
        return Resume({"rax": OPERAND_INVALID | _IN_RCX}, by_kvm=False)
    passed = frozenset(name for bit, name in enumerate(NAMES) if mask >> bit & 1)
    # What the TD does not pass KVM does not see, and can't change.
    seen = {name: registers[name] if name in passed else 0 for name in NAMES}

    def answer(status: int, **values: int) -> Resume:
        values = {"r10": status, **values}
        kept = {name: value for name, value in values.items() if name in passed}
        return Resume({"rax": 0, **kept}, by_kvm=True)

    if seen["r10"]:
        # A hypercall of KVM's own, of which it has none for TDs: -KVM_ENOSYS.
        return answer(-1000 & (1 << 64) - 1)
    size, is_write, place, data = (seen[name] for name in ("r12", "r13", "r14", "r15"))
    match seen["r11"]:
        case Call.CPUID:
            return answer(_SUCCESS, **_cpuid(vcpu, seen["r12"], seen["r13"]))
        case Call.IO:
            if size not in (1, 2, 4) or is_write not in (0, 1):
                return answer(_INVALID_OPERAND)
            return Io(place & 0xFFFF, size, bool(is_write), data & (1 << 8 * size) - 1, passed)
        case Call.RDMSR | Call.WRMSR:
            # None of the MSRs that KVM emulates for TDs is one that kvmtest's guests ask for.
            return answer(_INVALID_OPERAND)
        case Call.MMIO:
            fits = size in (1, 2, 4, 8) and is_write in (0, 1)
            if not fits or not place & td.shared_bit or not (place + size - 1) & td.shared_bit:
                return answer(_INVALID_OPERAND)
            return Mmio(place & ~td.shared_bit, size, bool(is_write), data, passed)
        case Call.GET_TD_VM_CALL_INFO if not seen["r12"]:
            return answer(_SUCCESS, r11=0, r12=0, r13=0, r14=0)
        case Call.FATAL_ERROR:
            return FatalError(seen)
    # HLT too: nobody would wake the TD.
    return answer(_SUBFUNC_UNSUPPORTED)


def completion(takes: frozenset[str], value: int | None) -> dict[str, int]:
    """Return the registers after userspace has served an exit; ``value`` is what was read."""
    changes = {"rax": 0, "r10": _SUCCESS}
    if value is not None:
        changes["r11"] = value
    return {name: value for name, value in changes.items() if name == "rax" or name in takes}


def _cpuid(vcpu: TdVcpu, function: int, index: int) -> dict[str, int]:
    found = [e for e in vcpu.cpuid if e.function == function & 0xFFFFFFFF]
    entry = next((e for e in found if e.index == index or not e.flags & 1), None)
    eax, ebx, ecx, edx = entry[3:] if entry else (0, 0, 0, 0)
    return {"r12": eax, "r13": ebx, "r14": ecx, "r15": edx}
