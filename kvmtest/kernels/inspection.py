"""Inspection of a kernel
======================

Looks at the parts of one kernel in every way that they allow, types, machine code and source, and
gives one finding for each commit of the series.
"""

from collections.abc import Iterator

from kvmtest.errors import KvmtestError
from kvmtest.kernels.btf import Btf
from kvmtest.kernels.parts import MODULES, VMLINUX, KernelParts
from kvmtest.kernels.series import Finding, merged, unknown
from kvmtest.kernels.series_code import Offsets, from_code
from kvmtest.kernels.series_source import from_source
from kvmtest.kernels.series_types import from_types

__all__ = ["inspected", "offsets_of"]

_KVM, _INTEL = "kvm", "kvm_intel"


def inspected(parts: KernelParts) -> tuple[Finding, ...]:
    """Return what is found of each commit; what can't be read leaves it unknown, and says why."""
    return merged(*_looks(parts))


def _looks(parts: KernelParts) -> Iterator[tuple[Finding, ...]]:
    try:
        kvm = _types(parts, _KVM)
        yield _by_types(parts, kvm)
        if parts.code:
            yield _by_code(parts, kvm)
    except KvmtestError as error:  # BTF or ELF that is damaged, or a library that is missing
        yield unknown(str(error))
    if parts.source:
        yield from_source(parts.source)


def _by_types(parts: KernelParts, kvm: Btf | None) -> tuple[Finding, ...]:
    if kvm is None:
        return unknown(_without_types(parts)) if parts.code or not parts.source else unknown()
    return from_types(kvm, _types(parts, _INTEL))


def _by_code(parts: KernelParts, kvm: Btf | None) -> tuple[Finding, ...]:
    offsets = Offsets.of(kvm) if kvm else offsets_of(parts)
    if _KVM in parts.code:
        return from_code(parts.code[_KVM], parts.code.get(_INTEL), offsets)
    if _INTEL in parts.code:
        return unknown("kvm.ko is not here; name the folder or the package that has both modules")
    return from_code(parts.code[VMLINUX], None, offsets) if VMLINUX in parts.code else unknown()


def offsets_of(parts: KernelParts) -> Offsets | None:
    """Return the offsets for the code of modules without types, by those of the image's headers.

    Headers bring struct kvm_vcpu into the image, but not struct kvm_x86_ops. So these serve only
    where they show that the fix can't be there: before it kvm_vcpu has no host's DEBUGCTL. Raises
    BtfError on corrupt data.
    """
    image = parts.types(VMLINUX)
    if not image or _KVM not in parts.code or _KVM in parts.btf:
        return None
    vcpus = image.structs("kvm_vcpu")
    is_older = vcpus and all(v.has("arch") and not v.has("arch.host_debugctl") for v in vcpus)
    return Offsets.of(image) if is_older else None


def _types(parts: KernelParts, name: str) -> Btf | None:
    """Return the types that a module was built with; those of vmlinux where it is built in."""
    found = parts.types(name)
    is_apart = name in parts.code or _KVM in parts.code
    return found if found or is_apart else parts.types(VMLINUX)


def _without_types(parts: KernelParts) -> str:
    if not parts.btf.keys().isdisjoint(MODULES):
        return "a module's types need those of its kernel's image; put vmlinuz beside the module"
    return "its modules have no types (CONFIG_DEBUG_INFO_BTF_MODULES)"
