"""The series in KVM's machine code
================================

What the instructions of kvm and kvm_intel show of each commit: what a CPU would run, whatever the
types say. Types only give the offsets of the members that are looked for.

A sign is a place in the code that a commit changes. All signs of a commit must be there; where one
is not, the commit is absent, and the observation names the place.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.btf import Btf
from kvmtest.kernels.data_flow import Event, Kind, Place, Sources, follow
from kvmtest.kernels.elf import ElfError
from kvmtest.kernels.machine_code import Function, MachineCode
from kvmtest.kernels.series import (
    DR6_FLAG,
    FIX,
    HELPER,
    QUIRK,
    RTM_DEBUG,
    RUN_FLAGS,
    SERIES,
    TDX,
    VMCS12_CHECK,
    WRAPPERS,
    Commit,
    Evidence,
    Finding,
    State,
    unknown,
    without_tdx,
)

__all__ = ["LOOKED_AT", "Offsets", "from_code"]

# arch/x86/include/asm/vmx.h, msr-index.h; arch/x86/include/uapi/asm/kvm.h.
_GUEST_IA32_DEBUGCTL = 0x2802
_MSR_IA32_DEBUGCTL = 0x1D9
# As the code has them.
_FIELD_BYTES = _GUEST_IA32_DEBUGCTL.to_bytes(4, "little")
_MSR_BYTES = _MSR_IA32_DEBUGCTL.to_bytes(4, "little")
_FREEZE_IN_SMM = 1 << 14
_RTM_DEBUG = 1 << 15
_QUIRK_BIT = 1 << 10
# enum kvm_x86_run_flags.
_FORCE_IMMEDIATE_EXIT, _LOAD_GUEST_DR6, _LOAD_DEBUGCTL = 1, 2, 4

# The names of values that are followed.
_HOST, _FIELD, _FLAGS, _QUIRKS, _OWNED, _MSR = "host", "field", "flags", "quirks", "owned", "msr"

# A static function may be inlined into the next one of a row.
_VM_FAIL = ("nested_vmx_restore_host_state", "nested_vmx_vmexit", "__nested_vmx_vmexit")
_L2_ENTRY = ("prepare_vmcs02", "nested_vmx_enter_non_root_mode")
_L2_CHECK = ("nested_vmx_check_guest_state", "nested_vmx_enter_non_root_mode")
_SUPPORTED = ("vmx_get_supported_debugctl", "vcpu_supported_debugctl")
# The inline functions of vmx.h, where the compiler made functions of them.
_RELOAD, _WRITE = "vmx_reload_guest_debugctl", "vmx_guest_debugctl_write"
_TDX_RUN = "tdx_vcpu_run"
_SETUP = ("kvm_x86_vendor_init", "__kvm_x86_vendor_init")
_OPERATIONS = ("vt_x86_ops", "vmx_x86_ops")
# The most places that are named where a commit is absent.
_TOLD = 2
# The function that prints the VMCS reads the field as it is.
_DUMP = "dump_vmcs"


class _LookedAt(NamedTuple):
    """What is looked at in the machine code."""

    functions: tuple[str, ...]
    patterns: tuple[bytes, ...]
    """Bytes whose functions are looked at, whatever their names."""

    variables: tuple[str, ...]


LOOKED_AT = _LookedAt(
    (
        "vmx_vcpu_run",
        "vmx_set_msr",
        "vmx_is_valid_debugctl",
        *_VM_FAIL,
        *_L2_ENTRY,
        *_L2_CHECK,
        *_SUPPORTED,
        *_SETUP,
        _RELOAD,
        _WRITE,
        _TDX_RUN,
    ),
    (_FIELD_BYTES, _MSR_BYTES),
    _OPERATIONS,
)
"""The symbols that are looked for in a kernel, for whoever wants to keep no more of it."""


class _Sign(NamedTuple):
    """One place that a commit changes, and whether the change is there."""

    commit: Commit
    is_there: bool
    words: str


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where the members lie that the code uses, in bytes from their structs; None where absent."""

    host_debugctl: int | None = None
    """``arch.host_debugctl`` of struct kvm_vcpu."""

    host_owned: int | None = None
    """``HOST_OWNED_DEBUGCTL`` of struct kvm_x86_ops."""

    disabled_quirks: int | None = None
    """``arch.disabled_quirks`` of struct kvm."""

    supported_quirks: int | None = None
    """``supported_quirks`` of struct kvm_caps."""

    @classmethod
    def of(cls, types: Btf) -> "Offsets":
        """Return the offsets in KVM's types; raises BtfError on corrupt data."""

        def of_member(struct: str, member: str) -> int | None:
            found = types.offsets(struct, member)
            return found[0].in_bytes if len(found) == 1 else None

        return cls(
            of_member("kvm_vcpu", "arch.host_debugctl"),
            of_member("kvm_x86_ops", "HOST_OWNED_DEBUGCTL"),
            of_member("kvm", "arch.disabled_quirks"),
            of_member("kvm_caps", "supported_quirks"),
        )


@dataclass(frozen=True, slots=True)
class _Kvm:
    """The machine code and the offsets of one kernel's KVM."""

    kvm: MachineCode
    intel: MachineCode
    sources: Sources
    offsets: Offsets
    followed: dict[tuple[MachineCode, Function], list[Event]] = field(default_factory=dict)
    """What ``follow`` returned, as several looks ask for the same functions."""

    def events(self, code: MachineCode, names: Iterable[str]) -> list[tuple[Function, list[Event]]]:
        """Return what each function of those names does, with its parts."""
        functions = [function for name in names for function in code.parts(name)]
        return [(each, self.follow(code, each)) for each in functions]

    def follow(self, code: MachineCode, function: Function) -> list[Event]:
        """Return what one function does."""
        key = code, function
        if key not in self.followed:
            self.followed[key] = follow(code, function, self.sources)
        return self.followed[key]


def from_code(kvm: bytes, intel: bytes | None, offsets: Offsets | None) -> tuple[Finding, ...]:
    """Return what the machine code of kvm.ko and kvm-intel.ko says of each commit.

    A vmlinux with its symbol table is both: ``intel`` is None then. ``offsets`` are of kvm's types.
    What can't be read leaves the findings unknown, with the reason.
    """
    if offsets is None:
        return unknown("machine code can be read only with KVM's types (BTF)")
    try:
        code = MachineCode(kvm)
        vendor = MachineCode(intel) if intel is not None else code
        if not vendor.parts("vmx_vcpu_run"):
            return unknown("there is no symbol vmx_vcpu_run: its machine code can't be found")
        parts = _parts(code, vendor, offsets)
        signs = [sign for look in _LOOKS for sign in look(parts)]
    except ElfError as error:
        return unknown(f"the machine code can't be read: {error}")
    except EnvironmentUnfit as error:
        return unknown(str(error))
    return tuple(
        without_tdx(Evidence.CODE, f"there is no function {_TDX_RUN}")
        if commit == TDX and not vendor.parts(_TDX_RUN)
        else _finding(commit, signs)
        for commit in SERIES
    )


def _parts(code: MachineCode, vendor: MachineCode, offsets: Offsets) -> _Kvm:
    places = {
        _HOST: (offsets.host_debugctl, ""),
        _QUIRKS: (offsets.disabled_quirks, ""),
        _OWNED: (offsets.host_owned, "kvm_x86_ops"),
    }
    memory = {Place(at, symbol): name for name, (at, symbol) in places.items() if at is not None}
    sources = Sources(
        memory, ("", _FLAGS), (_GUEST_IA32_DEBUGCTL, _FIELD), (_MSR_IA32_DEBUGCTL, _MSR)
    )
    return _Kvm(code, vendor, sources, offsets)


def _finding(commit: Commit, signs: Sequence[_Sign]) -> Finding:
    own = [sign for sign in signs if sign.commit == commit]
    lacking = list(dict.fromkeys(sign.words for sign in own if not sign.is_there))
    if lacking:
        more = f", and {len(lacking) - _TOLD} more" if len(lacking) > _TOLD else ""
        words = ", ".join(lacking[:_TOLD]) + more
        return Finding(commit, State.ABSENT, (Evidence.CODE,), words)
    if own:
        words = ", ".join(dict.fromkeys(sign.words for sign in own))
        return Finding(commit, State.PRESENT, (Evidence.CODE,), words)
    return Finding(commit, State.UNKNOWN, (), "no machine code was found that shows it")


def _at_entry(parts: _Kvm) -> Iterator[_Sign]:
    """vcpu_enter_guest, which is mostly inlined into its callers."""
    for function in parts.kvm.holding(_MSR_BYTES):
        events = parts.follow(parts.kvm, function)
        compares = _compare(events, _HOST, _MSR)
        stores = any(
            each.kind is Kind.STORE and each.value.of(_MSR) and _is_host(parts, each.place)
            for each in events
        )
        if not compares and not stores:
            continue
        by_mask = any(
            each.kind is Kind.MASK and (each.value.of(_OWNED) or each.other.of(_OWNED))
            for each in events
        )
        raises = any(
            each.kind is Kind.SET and each.constant == _LOAD_DEBUGCTL and not each.value.of(_MSR)
            for each in events
        )
        lack = ""
        if not compares:
            lack = "does not compare DEBUGCTL with the vCPU's copy"
        elif not stores:
            lack = "does not store what it compared"
        elif not (by_mask and raises):
            lack = "does not raise the run flag for the bits that KVM's vendor owns"
        words = lack or "compares DEBUGCTL with the vCPU's copy"
        yield _Sign(FIX, not lack, f"vcpu_enter_guest {words}")


def _vcpu_run(parts: _Kvm) -> Iterator[_Sign]:
    """vmx_vcpu_run: the run flags, and the reload."""
    found = parts.events(parts.intel, ["vmx_vcpu_run"])
    events = [event for _, each in found for event in each]
    for commit, flag, name in (
        (RUN_FLAGS, _FORCE_IMMEDIATE_EXIT, "bit 0"),
        (DR6_FLAG, _LOAD_GUEST_DR6, "bit 1"),
        (FIX, _LOAD_DEBUGCTL, "bit 2"),
    ):
        tests = any(each.kind is Kind.TEST and each.value.of(_FLAGS) == flag for each in events)
        yield _Sign(
            commit,
            tests,
            f"vmx_vcpu_run {'tests' if tests else 'does not test'} {name} of its run flags",
        )
    yield from _reload(parts, ["vmx_vcpu_run"])


def _vm_fail(parts: _Kvm) -> Iterator[_Sign]:
    """nested_vmx_restore_host_state: the reload."""
    return _reload(parts, _VM_FAIL)


def _reload(parts: _Kvm, names: Sequence[str]) -> Iterator[_Sign]:
    """The first function of ``names``, inlined or not: that it reloads the VMCS."""
    found = parts.events(parts.intel, names)
    if not found:
        return
    called = {target for function, _ in found for target in parts.intel.targets(function)}
    if _RELOAD in called:
        found += parts.events(parts.intel, [_RELOAD, _WRITE])
    elif _WRITE in called:
        found += parts.events(parts.intel, [_WRITE])
    compares = any(_compare(events, _HOST, _FIELD) for _, events in found)
    writes = any(
        event.kind is Kind.VMWRITE
        and event.value.of(_HOST)
        and (event.value.of(_FIELD) or function.source_name == _WRITE)
        for function, events in found
        for event in events
    )
    reloads = compares and writes
    verb = "reloads" if reloads else "does not reload"
    yield _Sign(FIX, reloads, f"{names[0]} {verb} the VMCS")


def _accesses(parts: _Kvm) -> Iterator[_Sign]:
    """All reads and writes of GUEST_IA32_DEBUGCTL: what the getter and the setter do."""
    writes = reads = wrong = 0
    for function in parts.intel.holding(_FIELD_BYTES):
        name = function.source_name
        if name == _DUMP:
            continue
        for each in parts.follow(parts.intel, function):
            if each.kind is Kind.VMWRITE:
                writes += 1
                trouble = _wrong_write(each)
                if trouble:
                    wrong += 1
                    yield _Sign(FIX, False, f"{name} writes GUEST_IA32_DEBUGCTL {trouble}")
            elif each.kind is Kind.STORE and each.value.of(_FIELD):
                reads += 1
                if each.value.of(_FIELD) & _FREEZE_IN_SMM:
                    wrong += 1
                    yield _Sign(FIX, False, f"{name} keeps bit 14 of GUEST_IA32_DEBUGCTL")
    if writes and reads and not wrong:
        words = "all writes of GUEST_IA32_DEBUGCTL add the host's bit 14, all reads drop it"
        yield from (_Sign(commit, True, words) for commit in (WRAPPERS, FIX))


def _wrong_write(write: Event) -> str:
    """Return what is wrong with a write of the field, or ""."""
    if not write.value.of(_HOST):
        return "without the host's bit 14"
    if write.value.of(_FIELD) & _FREEZE_IN_SMM:
        return "with its old bit 14"
    if write.value.of(_HOST) != _FREEZE_IN_SMM:
        return "with other bits of the host's than bit 14"
    return ""


def _mask(parts: _Kvm) -> Iterator[_Sign]:
    """vt_x86_ops or vmx_x86_ops: HOST_OWNED_DEBUGCTL."""
    for name in _OPERATIONS:
        operations = parts.intel.data(name)
        start = parts.offsets.host_owned
        if start is None or len(operations) < start + 8:
            continue
        value = int.from_bytes(operations[start : start + 8], "little")
        is_bit = value == _FREEZE_IN_SMM
        yield _Sign(FIX, is_bit, f"{name}.HOST_OWNED_DEBUGCTL is {value:#x}")
        return


def _supported(parts: _Kvm) -> Iterator[_Sign]:
    """vmx_get_supported_debugctl: bit 15."""
    functions = [each for name in _SUPPORTED for each in parts.intel.parts(name)]
    is_inlined = not functions
    functions = functions or parts.intel.parts("vmx_set_msr")
    allows = any(_has_bit(parts, each, _RTM_DEBUG) for each in functions)
    # Inlined, the bit alone would prove nothing; but without it, nothing allows it.
    if not functions or (is_inlined and allows):
        return
    name = functions[0].source_name
    yield _Sign(RTM_DEBUG, allows, f"{name} {'allows' if allows else 'does not allow'} bit 15")


def _has_bit(parts: _Kvm, function: Function, bit: int) -> bool:
    """Tell whether a function sets a bit, or has a small constant with it."""
    for event in parts.follow(parts.intel, function):
        if event.kind is Kind.SET and event.constant & bit and event.constant < bit << 1:
            return True
    return any(
        0 <= operand.imm < bit << 1 and operand.imm & bit
        for instruction in parts.intel.instructions(function)
        if instruction.mnemonic == "mov"
        for operand in instruction.operands
        if operand.type == 2  # X86_OP_IMM
    )


def _helper(parts: _Kvm) -> Iterator[_Sign]:
    """vmx_is_valid_debugctl, which is in another file than its caller in nested.c."""
    if parts.intel.parts("vmx_set_msr"):
        is_there = bool(parts.intel.parts("vmx_is_valid_debugctl"))
        words = f"there is {'a' if is_there else 'no'} function vmx_is_valid_debugctl"
        yield _Sign(HELPER, is_there, words)


def _vmcs12(parts: _Kvm) -> Iterator[_Sign]:
    """nested_vmx_check_guest_state and prepare_vmcs02: the DEBUGCTL in vmcs12."""
    for names, called, does in (
        (_L2_CHECK, "vmx_is_valid_debugctl", "check"),
        (_L2_ENTRY, "vmx_get_supported_debugctl", "mask"),
    ):
        functions = [each for name in names for each in parts.intel.parts(name)]
        if functions:
            calls = any(called in parts.intel.targets(each) for each in functions)
            verb = f"{does}s" if calls else f"does not {does}"
            yield _Sign(VMCS12_CHECK, calls, f"{names[0]} {verb} the DEBUGCTL in vmcs12")


def _quirk(parts: _Kvm) -> Iterator[_Sign]:
    """nested_vmx_check_guest_state: the quirk's bit; and that userspace is offered it."""
    if parts.offsets.disabled_quirks is None:
        return
    found = parts.events(parts.intel, _L2_CHECK)
    asks = any(
        event.kind is Kind.TEST and event.value.of(_QUIRKS) == _QUIRK_BIT
        for _, events in found
        for event in events
    )
    if found:
        verb = "asks for" if asks else "does not ask for"
        yield _Sign(QUIRK, asks, f"{_L2_CHECK[0]} {verb} quirk 1 << 10")
    if not asks or parts.offsets.supported_quirks is None:
        return
    place = Place(parts.offsets.supported_quirks, "kvm_caps")
    for _, events in parts.events(parts.kvm, _SETUP):
        for event in events:
            offered = event.value.constant
            if event.kind is Kind.STORE and event.place == place and offered is not None:
                has = bool(offered & _QUIRK_BIT)
                words = f"kvm {'offers' if has else 'does not offer'} quirk 1 << 10"
                yield _Sign(QUIRK, has, words)


def _tdx(parts: _Kvm) -> Iterator[_Sign]:
    """tdx_vcpu_run: what it puts back into DEBUGCTL."""
    found = parts.events(parts.intel, [_TDX_RUN])
    if found and parts.offsets.host_debugctl is not None:
        shares = any(each.value.of(_HOST) or each.other.of(_HOST) for _, e in found for each in e)
        verb = "puts" if shares else "does not put"
        yield _Sign(TDX, shares, f"{_TDX_RUN} {verb} the vCPU's copy of DEBUGCTL back")


def _compare(events: Iterable[Event], one: str, other: str) -> bool:
    return any(
        each.kind is Kind.COMPARE
        and (
            (each.value.of(one) and each.other.of(other))
            or (each.value.of(other) and each.other.of(one))
        )
        for each in events
    )


def _is_host(parts: _Kvm, place: Place | None) -> bool:
    return place is not None and parts.sources.memory.get(place) == _HOST


_LOOKS = (
    _at_entry,
    _vcpu_run,
    _vm_fail,
    _accesses,
    _mask,
    _supported,
    _helper,
    _vmcs12,
    _quirk,
    _tdx,
)
