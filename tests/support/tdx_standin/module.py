"""What this stand-in's TDX module and KVM offer, and the TD parameters that the module refuses.

Attributes are those of KVM_SUPPORTED_TD_ATTRS (arch/x86/kvm/vmx/tdx.c, 6.16 to 7.3). The rest is a
choice within the ABI specification: other modules offer other XFAM bits and CPUID leaves.
"""

from collections.abc import Iterable

from .abi import CpuidEntry

ATTRIBUTE_DEBUG = 1 << 0
ATTRIBUTE_SEPT_VE_DISABLE = 1 << 28
ATTRIBUTE_PERFMON = 1 << 63

SUPPORTED_ATTRIBUTES = ATTRIBUTE_SEPT_VE_DISABLE
#: x87, SSE, AVX, AVX-512 and PKRU.
SUPPORTED_XFAM = 0x2E7
_XFAM_FIXED1 = 0x3
_XFAM_AVX = 1 << 2
_XFAM_AVX512 = 0xE0

#: Bits of each leaf that userspace chooses, as KVM_TDX_CAPABILITIES shows them.
CONFIGURABLE = (
    CpuidEntry(0x1, 0, 0, 0x0FFF3FFF, 0x00FF0000, 0x00000000, 0x10000000),
    CpuidEntry(0x4, 0, 0, 0xFFFFC3FF, 0xFFFFFFFF, 0xFFFFFFFF, 0x00000007),
    CpuidEntry(0x4, 1, 0, 0xFFFFC3FF, 0xFFFFFFFF, 0xFFFFFFFF, 0x00000007),
    CpuidEntry(0x4, 2, 0, 0xFFFFC3FF, 0xFFFFFFFF, 0xFFFFFFFF, 0x00000007),
    CpuidEntry(0x4, 3, 0, 0xFFFFC3FF, 0xFFFFFFFF, 0xFFFFFFFF, 0x00000007),
    CpuidEntry(0x7, 0, 0, 0x00000000, 0x21000118, 0x01400020, 0x80000000),
    CpuidEntry(0x1F, 0, 0, 0x0000001F, 0x0000FFFF, 0x0000FF00, 0x00000000),
    CpuidEntry(0x1F, 1, 0, 0x0000001F, 0x0000FFFF, 0x0000FF00, 0x00000000),
    # KVM lets userspace choose the width of guest-physical addresses here, in EAX[23:16].
    CpuidEntry(0x80000008, 0, 0, 0x00FF0000, 0x00000200, 0x00000000, 0x00000000),
)

#: TDX_OPERAND_INVALID, in whose low bits the module names the operand.
OPERAND_INVALID = 0xC000010000000000
_OPERAND_XFAM = 0x41
_OPERAND_CPUID = 0x45

#: CPUID bits that KVM refuses although the module offers them: HLE, RTM and WAITPKG of leaf 7.
_REFUSED_EBX = 1 << 4 | 1 << 11
_REFUSED_ECX = 1 << 5


def configurable(function: int, index: int) -> CpuidEntry | None:
    """Return the mask of a leaf, None where userspace chooses nothing."""
    for each in CONFIGURABLE:
        if (each.function, each.index) == (function, index):
            return each
    return None


def refused_by_kvm(entry: CpuidEntry) -> bool:
    """tdx_unsupported_cpuid (tdx.c)."""
    if (entry.function, entry.index) != (0x7, 0):
        return False
    return bool(entry.ebx & _REFUSED_EBX or entry.ecx & _REFUSED_ECX)


def hw_error(xfam: int, cpuid: Iterable[CpuidEntry]) -> int:
    """Return the status of TDH.MNG.INIT for parameters that KVM let pass: 0, or what is wrong."""
    xfam |= _XFAM_FIXED1
    avx512 = xfam & _XFAM_AVX512
    if avx512 not in (0, _XFAM_AVX512) or (avx512 and not xfam & _XFAM_AVX):
        return OPERAND_INVALID | _OPERAND_XFAM
    for entry in cpuid:
        mask = configurable(entry.function, entry.index)
        assert mask, "KVM refuses leaves that can't be chosen"
        chosen = zip(entry[3:], mask[3:], strict=True)
        if any(value & ~bits for value, bits in chosen):
            return OPERAND_INVALID | _OPERAND_CPUID
    return 0
