"""Numbers of the reproducers
==========================

What each @NAME@ in parts/ and programs/ stands for: numbers, paths and tables of numbers, taken
from where the checks have them.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from kvmtest._native import ffi, lib
from kvmtest.checks.reload import RELOADS
from kvmtest.checks.witnesses.refused_entry import INVALID_GUEST_STATE, PARAMETER
from kvmtest.guests import modes, vmcs12
from kvmtest.guests.guest import TSS_ADDRESS
from kvmtest.guests.l1 import IA32_FEATURE_CONTROL, LOCKED, VMX_OUTSIDE_SMX
from kvmtest.guests.nested import CR4_VMXE
from kvmtest.host.facts.freeze_knob import PATHS
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM

from .guest_code import GUEST_CODE

__all__ = ["EXIT_STATUS", "lines", "meanings"]

#: A program's exit status, as in the kernel's tools/testing/selftests/kselftest.h.
EXIT_STATUS = {"KSFT_PASS": 0, "KSFT_FAIL": 1, "KSFT_SKIP": 4}

# Behind the guests' code, in its page.
_HANDLER, _GDT = lib.GUEST_IMAGE + 0x100, lib.GUEST_IMAGE + 0x200

_MODULE, _EMULATING = RELOADS["no-unrestricted-guest"]

_NUMBERS = {
    **EXIT_STATUS,
    "CODE": lib.GUEST_IMAGE,
    "CR0": modes.CR0,
    "CR4": modes.CR4_PAE,
    "CR4_VMXE": CR4_VMXE,
    "DR7": vmcs12.DR7,
    "EFER": modes.EFER,
    "FREEZE_WHILE_SMM": IA32_DEBUGCTL_FREEZE_WHILE_SMM,
    "GDT": _GDT,
    "GUEST_DR6": 0xFFFF4FF3,
    "HANDLER": _HANDLER,
    "IA32_DEBUGCTL": IA32_DEBUGCTL,
    "IA32_FEATURE_CONTROL": IA32_FEATURE_CONTROL,
    "IDT": lib.GUEST_IDT,
    "INVALID_GUEST_STATE": INVALID_GUEST_STATE,
    "MEMORY_SIZE": lib.GUEST_MEMORY_SIZE,
    "MOV_DR": GUEST_CODE["read_dr6"].offset("mov %db6, %rax"),
    "PAGE_DIRECTORY": lib.GUEST_PAGE_DIRECTORY,
    "PDPT": lib.GUEST_PDPT,
    "PML4": lib.GUEST_PML4,
    "QUIRK": lib.KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM,
    "RFLAGS": modes.RFLAGS,
    "STACK": lib.GUEST_STACK,
    "TSS_ADDRESS": TSS_ADDRESS,
    "VMCS12": lib.GUEST_VMCS12,
    "VMXON": lib.GUEST_VMXON,
    "VMX_ALLOWED": LOCKED | VMX_OUTSIDE_SMX,
}

_TEXTS = {
    "CORE_KNOB": PATHS[1],
    "DUMPS": PARAMETER,
    # Not canonical, and no number that a VMCS has by chance.
    "FS_BASE": "1234567812345678",
    "KNOB": PATHS[0],
    "MODPROBE": " ".join([f"modprobe {_MODULE}", *map("=".join, _EMULATING.items())]),
    "UNRESTRICTED": f"/sys/module/{_MODULE}/parameters/{next(iter(_EMULATING))}",
}

#: The fields of vmcs12 that a program names one by one.
_FIELDS = ("guest_cs_limit", "guest_gdtr_base", "guest_ia32_debugctl")

# L1's registers, of which vmcs12's guest and host state are made.
_SREGS = {
    "cr0": modes.CR0,
    "cr3": lib.GUEST_PML4,
    "cr4": modes.CR4_PAE | CR4_VMXE,
    "efer": modes.EFER,
    "cs": {"limit": 0xFFFFFFFF, "present": 1, "type": 11,
           "selector": lib.GUEST_CODE_SELECTOR, "s": 1, "l": 1, "g": 1},
    "tr": {"limit": 0xFFFF, "present": 1, "type": modes.TSS_BUSY,
           "selector": lib.GUEST_TSS_SELECTOR},
    "gdt": {"base": _GDT, "limit": 15},
    **{name: {"unusable": 1} for name in ("ds", "es", "fs", "gs", "ss")},
}  # fmt: skip


@cache
def meanings() -> Mapping[str, str]:
    """Return the C text for each name, but for what one reproducer alone has."""
    fields, controls = _vmcs12()
    numbers = {**_NUMBERS, **{name.upper(): _offset(name) for name in _FIELDS}}
    return {
        **{name: f"{value:#x}" if value > 9 else str(value) for name, value in numbers.items()},
        **_TEXTS,
        **{f"CODE:{name}": _array(name) for name in GUEST_CODE},
        "CONTROLS": controls,
        "FIELDS": fields,
    }


def lines(texts: Iterable[str]) -> str:
    """Return the texts as lines, without an end of the last one."""
    return "\n".join(texts)


def _array(name: str) -> str:
    """Return guest code as an array, with its assembly."""
    rows = [
        f"\t{', '.join(f'{byte:#04x}' for byte in code)}, /* {assembly} */"
        for assembly, code in GUEST_CODE[name].instructions
    ]
    return lines([f"static const unsigned char {name}[] = {{", *rows, "};"])


def _vmcs12() -> tuple[str, str]:
    """Return the rows of the fields of vmcs12 that are not 0, and those of its controls."""
    sregs: Any = ffi.new("struct kvm_sregs *", _SREGS)
    # Capabilities that allow all controls and ask for none: what is left is what L2 needs.
    allowing = dict.fromkeys(vmcs12.CAPABILITIES.values(), 0xFFFF_FFFF << 32)
    values = vmcs12.contents(sregs, allowing, lib.GUEST_IMAGE, lib.GUEST_IMAGE)
    values |= {"revision": lib.VMCS12_REVISION, "launch_state": 1}
    controls = [
        f"\t{{ {_offset(name):#05x}, {msr:#x}, {values.pop(name):#x} }}, /* {name} */"
        for name, msr in vmcs12.CAPABILITIES.items()
    ]
    fields = [
        f"\t{{ {_offset(name):#05x}, {ffi.sizeof(member.type)}, {values[name]:#x} }}, /* {name} */"
        for name, member in ffi.typeof("struct vmcs12").fields
        if values.get(name)
    ]
    return lines(fields), lines(controls)


def _offset(field: str) -> int:
    """Return where a field is in struct vmcs12."""
    return int(ffi.offsetof("struct vmcs12", field))
