"""Status of SEAMCALLs
===================

What the TDX module says of a SEAMCALL, in words. Bits 63 to 32 of the status are its class and
name, bits 31 to 0 the operand that it is about (arch/x86/include/asm/shared/tdx_errno.h and
arch/x86/include/asm/tdx.h; Intel TDX Module ABI specification, "Interface Function Completion
Status").
"""

import re

__all__ = ["line_in_words", "status_in_words"]

ERROR, NON_RECOVERABLE = 1 << 63, 1 << 62
#: TDX_SW_ERROR: Linux's own marks, where the SEAMCALL did not reach the module at all.
SOFTWARE = ERROR | 0xFF << 40

NAMES = {
    0x00000000: "TDX_SUCCESS",
    0x40000001: "TDX_NON_RECOVERABLE_VCPU",
    0x40000002: "TDX_NON_RECOVERABLE_TD",
    0x60000005: "TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE",
    0x60000007: "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE",
    0x80000003: "TDX_INTERRUPTED_RESUMABLE",
    0x80000200: "TDX_OPERAND_BUSY",
    0x80000201: "TDX_PREVIOUS_TLB_EPOCH_BUSY",
    0x80000202: "TDX_SYS_BUSY",
    0x80000203: "TDX_RND_NO_ENTROPY",
    0x80000702: "TDX_VCPU_NOT_ASSOCIATED",
    0x80000800: "TDX_KEY_GENERATION_FAILED",
    0x80000824: "TDX_FLUSHVP_NOT_DONE",
    0x00000815: "TDX_KEY_CONFIGURED",
    0x00000821: "TDX_NO_HKID_READY_TO_WBCACHE",
    0xC0000100: "TDX_OPERAND_INVALID",
    0xC0000300: "TDX_PAGE_METADATA_INCORRECT",
    0xC0000811: "TDX_KEY_STATE_INCORRECT",
    0xC0000B00: "TDX_EPT_WALK_FAILED",
    0xC0000B0D: "TDX_EPT_ENTRY_STATE_INCORRECT",
    0xC0000C02: "TDX_METADATA_FIELD_NOT_READABLE",
}

#: What the caller can do, by name.
REMEDIES = {
    "TDX_OPERAND_BUSY": "try again",
    "TDX_PREVIOUS_TLB_EPOCH_BUSY": "try again",
    "TDX_SYS_BUSY": "try again",
    "TDX_RND_NO_ENTROPY": "try again",
    "TDX_KEY_GENERATION_FAILED": "try again",
    "TDX_OPERAND_INVALID": "change that operand",
}

OPERANDS = {
    0x00: "RAX", 0x01: "RCX", 0x02: "RDX", 0x03: "RBX", 0x05: "RBP", 0x06: "RSI", 0x07: "RDI",
    0x08: "R8", 0x09: "R9", 0x0A: "R10", 0x0B: "R11", 0x0C: "R12", 0x0D: "R13", 0x0E: "R14",
    0x0F: "R15", 0x40: "ATTRIBUTES", 0x41: "XFAM", 0x42: "EXEC_CONTROLS", 0x43: "EPTP_CONTROLS",
    0x44: "MAX_VCPUS", 0x45: "CPUID_CONFIG", 0x46: "TSC_FREQUENCY", 0x80: "TDR", 0x81: "TDCX",
    0x82: "TDVPR", 0x90: "TDCS", 0x91: "TDVPS", 0x92: "SEPT", 0x93: "SEPT entry", 0xA9: "TD_EPOCH",
    0xAC: "OP_STATE", 0xB1: "NUM_VCPUS", 0xB8: "SYS", 0xB9: "TDMR", 0xBA: "KOT", 0xBB: "KET",
}  # fmt: skip

#: TDX_SEAMCALL_VMFAILINVALID, _GP and _UD.
MARKS = {
    0xFFFF0000: "the SEAMCALL failed at once: no TDX module is loaded, or not allowed here",
    13: "the SEAMCALL took #GP: the firmware did not enable SEAM",
    6: "the SEAMCALL took #UD: VMX is off on this CPU",
}


def status_in_words(status: int) -> str:
    """Return the name of a status, its operand and what to do; never raises.

    A status that is in no table keeps its number, and is called an error where bit 63 says so.
    """
    if status & SOFTWARE == SOFTWARE:
        return MARKS.get(status & 0xFFFFFFFF, f"the SEAMCALL failed in software ({status:#x})")
    name = NAMES.get(status >> 32)
    if name is None:
        kind = "error" if status & ERROR else "status"
        fatal = "non-recoverable " if status & NON_RECOVERABLE else ""
        return f"{fatal}{kind} {status:#018x} of the TDX module"
    detail = status & 0xFFFFFFFF
    operand = ""
    if detail or "OPERAND" in name:
        operand = f" ({OPERANDS.get(detail, f'detail {detail:#x}')})"
    advice = f"; {REMEDIES[name]}" if name in REMEDIES else ""
    return f"{name}{operand}{advice}"


#: How the kernel logs a status: "SEAMCALL TDH_MNG_INIT failed: 0x…", "TD vp_enter_ret 0x…".
_LOGGED = re.compile(r"(?:failed:?|vp_enter_ret) 0x([0-9a-f]{9,16})\b")


def line_in_words(line: str) -> str:
    """Return a line of the kernel log with the status that it tells in words, if it tells one."""
    found = _LOGGED.search(line)
    return f"{line} ({status_in_words(int(found[1], 16))})" if found else line
