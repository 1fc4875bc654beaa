"""KVM's handling of DEBUGCTL, function by function, whole and with one line wrong.

``Vmx`` and ``Svm`` are a vCPU as kvm_intel and kvm_amd have it; ``FAULTS`` are the mutants of
kvmtest/lab/mutants/table.py by their names. What they run on is ``Host``.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from kvmtest.host.observe.trace import Hit

FREEZE_IN_SMM, RTM_DEBUG, LBR, BTF = 1 << 14, 1 << 15, 1 << 0, 1 << 1
#: BUS_LOCK_DETECT, which this host gives to every guest, and FREEZE_LBRS_ON_PMI.
ALLOWED, ABOUT_LBRS = 1 << 2, 1 << 11
LOAD_DEBUGCTL = 4
#: KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM.
QUIRK_FREEZE = 1 << 10
#: Where the function is that svm_x86_ops names for entries.
RUN_FUNCTION = 0xFFFFFFFFC0500000

#: What an observation does not show: that the knob reaches CPU 1, whole dumps, the guest's own bits
#: in them, all hits of the probe, its function, what the guest's RDMSR reads, its faults, or that
#: CPU 1 is offline.
Hidden = Literal[
    "", "knob", "dumps", "guests' bits", "hits", "function", "MSRs", "faults", "offline"
]


class Refused(Exception):
    """The MSR does not take the value: #GP in the guest, an error for userspace."""


@dataclass
class Vmcs12:
    """What L1 says of DEBUGCTL: its value for L2, and what an entry and an exit do with it."""

    debugctl: int = 0
    loads: bool = True
    saves: bool = False


@dataclass
class Host:
    """The machine whose CPUs' DEBUGCTL follow the knob; this thread is on the first of ``cpus``.

    ``has_rtm`` and ``lbrv`` are features of CPU and KVM; ``hides`` is what can't be observed.
    """

    has_rtm: bool = True
    lbrv: bool = False
    hides: Hidden = ""
    knob: int = 1
    cpus: set[int] = field(default_factory=lambda: {0, 1})
    #: What this CPU last saw, for a fault that stores it by CPU.
    seen: dict[int, int] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)

    def debugctl(self, cpu: int) -> int:
        """Return the CPU's DEBUGCTL."""
        return FREEZE_IN_SMM if self.knob and not (self.hides == "knob" and cpu == 1) else 0

    def cpu(self) -> int:
        """Return the CPU that this thread is on."""
        return min(self.cpus)


class Vmx:
    """A vCPU of kvm_intel, as far as DEBUGCTL goes; each method is, or is a part of, a function."""

    function = "vmx_vcpu_run"
    OWNED = FREEZE_IN_SMM
    TOLERATED = BTF | LBR
    EMULATION_RELOADS = False
    #: Whether vmx_enable_virtualization_cpu leaves the CPU's DEBUGCTL alone.
    KEEPS_DEBUGCTL = True
    QUIRKS = QUIRK_FREEZE

    def __init__(self, host: Host) -> None:
        self.host = host
        self.host_debugctl = 0
        self.run_flags = 0
        self.has_rtm = self.has_lbrs = False
        self.needs_emulation = False
        self.last_cpu: int | None = None
        #: GUEST_IA32_DEBUGCTL of the VMCS in use, and of vmcs01 while L2 runs.
        self.vmcs = 0
        self.vmcs01: int | None = None
        #: L1's current VMCS.
        self.vmcs12 = Vmcs12()
        self.pre_vmenter = 0
        #: The VM's, as far as they are about bit 14 in vmcs12.
        self.disabled_quirks = 0
        self.init_vmcs()
        self.vcpu_create()

    def init_vmcs(self) -> None:
        self.guest_debugctl_write(0)

    def vcpu_create(self) -> None:
        pass

    # arch/x86/kvm/x86.c

    def vcpu_run(self) -> None:
        """Begin a KVM_RUN."""

    def get_debugctlmsr(self) -> int:
        return self.host.debugctl(self.host.cpu())

    def vcpu_enter_guest(self) -> None:
        self.run_flags = 0
        debugctl = self.get_debugctlmsr()
        if self.is_changed(debugctl):
            self.run_flags |= LOAD_DEBUGCTL
        self.store(debugctl)
        self.vendor_vcpu_run()
        self.last_cpu = self.host.cpu()

    def cancel_entry(self) -> None:
        """Give up an entry, as for a signal."""

    def is_changed(self, debugctl: int) -> bool:
        return bool((debugctl ^ self.host_debugctl) & self.OWNED)

    def store(self, debugctl: int) -> None:
        self.host_debugctl = debugctl

    def reenter_on_fastpath(self) -> None:
        """Enter again without another look at the host, as after an IPI that the guest sent."""
        self.run_flags = 0
        self.vendor_vcpu_run()

    # arch/x86/kvm/vmx/

    def vendor_vcpu_run(self) -> None:
        self.told()
        # The kernel returns without a reload where it is to emulate, and so loses the toggle.
        loses = self.needs_emulation and not self.EMULATION_RELOADS
        if self.run_flags & LOAD_DEBUGCTL and not loses:
            self.load_host_bit()

    def load_host_bit(self) -> None:
        self.reload_guest_debugctl()

    def told(self) -> None:
        """Hit the probe."""
        task, now = threading.get_native_id(), time.monotonic_ns() // 1000
        function = "another" if self.host.hides == "function" else self.function
        values = {"flags": self.run_flags, "owned": self.OWNED}
        values |= {"run": RUN_FUNCTION, "ip": RUN_FUNCTION + 4}
        self.host.hits.append(Hit(task, self.host.cpu(), now, values, function))

    def reload_guest_debugctl(self) -> None:
        if (self.vmcs ^ self.host_debugctl) & FREEZE_IN_SMM:
            self.guest_debugctl_write(self.vmcs & ~FREEZE_IN_SMM)

    def guest_debugctl_write(self, value: int) -> None:
        self.vmcs = value | self.host_debugctl & FREEZE_IN_SMM

    def guest_debugctl_read(self) -> int:
        return self.vmcs & ~FREEZE_IN_SMM

    def supported_debugctl(self, *, by_host: bool) -> int:
        about_lbrs = ABOUT_LBRS if by_host or self.has_lbrs else 0
        rtm_debug = RTM_DEBUG if self.host.has_rtm and (by_host or self.has_rtm) else 0
        return ALLOWED | about_lbrs | rtm_debug

    @property
    def is_in_l2(self) -> bool:
        return self.vmcs01 is not None

    def is_valid_debugctl(self, value: int, *, by_host: bool) -> bool:
        return not value & ~self.supported_debugctl(by_host=by_host) & ~self.TOLERATED

    def set_debugctl(self, value: int, *, by_host: bool) -> None:
        if not self.is_valid_debugctl(value, by_host=by_host):
            raise Refused
        written = value
        value &= self.supported_debugctl(by_host=by_host)
        self.save_in_vmcs12(value, written)
        self.write_debugctl(value)

    def save_in_vmcs12(self, value: int, written: int) -> None:
        """Keep a value for L1; ``written`` is that before KVM dropped what it ignores."""
        if self.is_in_l2 and self.vmcs12.saves:
            self.vmcs12.debugctl = value

    def write_debugctl(self, value: int) -> None:
        self.guest_debugctl_write(value)

    def get_debugctl(self, *, by_host: bool) -> int:
        return self.guest_debugctl_read()

    def is_refused(self) -> bool:
        """Tell whether the CPU refuses an entry with this VMCS."""
        return bool(self.vmcs & RTM_DEBUG) and not self.host.has_rtm

    # arch/x86/kvm/vmx/nested.c

    def disable_quirks(self, quirks: int) -> None:
        self.disabled_quirks |= quirks

    def has_quirk(self) -> bool:
        return not self.disabled_quirks & QUIRK_FREEZE

    def check_guest_state(self, vmcs12: Vmcs12) -> None:
        """Raise Refused where L1 may not enter L2 with that."""
        value = vmcs12.debugctl
        if self.has_quirk():
            value &= ~FREEZE_IN_SMM
        if vmcs12.loads and not self.is_valid_debugctl(value, by_host=False):
            raise Refused

    def enter_l2(self, vmcs12: Vmcs12 | None = None, *, pending: bool = True) -> None:
        """Enter L2 by VMLAUNCH or VMRESUME, or restore one that runs, which is not ``pending``."""
        self.vmcs12 = vmcs12 or Vmcs12()
        if self.keeps_debugctl(self.vmcs12, pending=pending):
            self.pre_vmenter = self.kept_debugctl()
        self.vmcs01, self.vmcs = self.vmcs, 0
        self.prepare_vmcs02(self.vmcs12, pending=pending)

    def keeps_debugctl(self, vmcs12: Vmcs12, *, pending: bool) -> bool:
        return not pending or not vmcs12.loads

    def kept_debugctl(self) -> int:
        return self.guest_debugctl_read()

    def prepare_vmcs02(self, vmcs12: Vmcs12, *, pending: bool) -> None:
        if pending and vmcs12.loads:
            self.load_debugctl(vmcs12.debugctl, self.supported_debugctl(by_host=False))
        else:
            self.guest_debugctl_write(self.pre_vmenter)

    def load_debugctl(self, value: int, supported: int) -> None:
        self.guest_debugctl_write(value & supported)

    def switch_to_vmcs01(self) -> None:
        assert self.vmcs01 is not None
        self.vmcs, self.vmcs01 = self.vmcs01, None

    def leave_l2(self) -> None:
        """Exit to L1, or take the vCPU out of L2 for a new state."""
        self.sync_vmcs12()
        self.switch_to_vmcs01()
        self.load_host_state()

    def sync_vmcs12(self) -> None:
        """Put what L2 has now into vmcs12: nothing of DEBUGCTL."""

    def load_host_state(self) -> None:
        self.guest_debugctl_write(0)

    def check_restored(self, vmcs12: Vmcs12) -> None:
        """Raise Refused where userspace may not restore an L2 with that."""
        self.check_guest_state(vmcs12)

    def fail_l2(self) -> None:
        """Be nested_vmx_restore_host_state, after a VM-Fail that only the CPU found."""
        self.switch_to_vmcs01()
        self.reload_guest_debugctl()


class Svm(Vmx):
    """A vCPU of kvm_amd: no bit of DEBUGCTL is the host's."""

    function = "svm_vcpu_run"
    OWNED = 0

    def vendor_vcpu_run(self) -> None:
        self.told()

    def set_debugctl(self, value: int, *, by_host: bool) -> None:
        if self.host.lbrv:
            self.set_virtual_debugctl(value)

    def set_virtual_debugctl(self, value: int) -> None:
        if value & ~0b111111:
            raise Refused
        self.vmcs = value & LBR

    def get_debugctl(self, *, by_host: bool) -> int:
        return self.vmcs


def _wrong(base: type[Vmx] = Vmx, **members: Any) -> type[Vmx]:
    """Return vCPUs whose kernel has other functions than ``base``."""
    return type(f"Wrong{base.__name__}", (base,), members)


def _differs(vcpu: Vmx, debugctl: int) -> bool:
    return bool((debugctl ^ vcpu.host_debugctl) & vcpu.OWNED)


def _reload(value: Callable[[Vmx], int]) -> Callable[[Vmx], None]:
    """Return a reload that writes another ``value`` where the bit differs."""

    def reload_guest_debugctl(vcpu: Vmx) -> None:
        if (vcpu.vmcs ^ vcpu.host_debugctl) & FREEZE_IN_SMM:
            vcpu.guest_debugctl_write(value(vcpu))

    return reload_guest_debugctl


def _reload_where_alike(vcpu: Vmx) -> None:
    if not (vcpu.vmcs ^ vcpu.host_debugctl) & FREEZE_IN_SMM:
        vcpu.guest_debugctl_write(vcpu.vmcs & ~FREEZE_IN_SMM)


def _enter_and_store_late(vcpu: Vmx) -> None:
    Vmx.vcpu_enter_guest(vcpu)
    vcpu.host_debugctl = vcpu.get_debugctlmsr()


def _differs_from_what_this_cpu_saw(vcpu: Vmx, debugctl: int) -> bool:
    seen = vcpu.host.seen.get(vcpu.host.cpu(), 0)
    vcpu.host.seen[vcpu.host.cpu()] = debugctl
    return bool((debugctl ^ seen) & vcpu.OWNED)


def _take_all(vcpu: Vmx, value: int, *, by_host: bool) -> None:
    Vmx.set_debugctl(vcpu, value, by_host=by_host)
    vcpu.write_debugctl(value)


def _write(vcpu: Vmx, value: int) -> None:
    vcpu.vmcs = value


def _nothing(*_: object) -> None:
    pass


def _supported(vcpu: Vmx, *, by_host: bool, more: int = 0, rtm: bool | None = None) -> int:
    """Return what is supported, with ``more``, and with RTM_DEBUG or not unless ``rtm`` is None."""
    value = Vmx.supported_debugctl(vcpu, by_host=by_host) | more
    return value if rtm is None else value & ~RTM_DEBUG | RTM_DEBUG * rtm


def _save(value: Callable[[Vmx, int, int], int | None]) -> Callable[[Vmx, int, int], None]:
    """Return a save of another ``value`` in vmcs12, or of none, which gets both of the write."""

    def save_in_vmcs12(vcpu: Vmx, value_: int, written: int) -> None:
        kept = value(vcpu, value_, written)
        if kept is not None:
            vcpu.vmcs12.debugctl = kept

    return save_in_vmcs12


def _sync(value: Callable[[Vmx], int]) -> Callable[[Vmx], None]:
    """Return an exit from L2 that puts ``value`` into vmcs12, where L1 asks for that."""

    def sync_vmcs12(vcpu: Vmx) -> None:
        if vcpu.vmcs12.saves:
            vcpu.vmcs12.debugctl = value(vcpu)

    return sync_vmcs12


def _check(wrong: Callable[[Vmx, int], bool], *, unasked: bool = False) -> Callable[..., None]:
    """Return a check of vmcs12 by another rule, under the quirk; ``unasked`` checks in any case."""

    def check_guest_state(vcpu: Vmx, vmcs12: Vmcs12) -> None:
        value = vmcs12.debugctl & ~FREEZE_IN_SMM if vcpu.has_quirk() else vmcs12.debugctl
        if (vmcs12.loads or unasked) and wrong(vcpu, value):
            raise Refused

    return check_guest_state


def _assign_quirks(vcpu: Vmx, quirks: int) -> None:
    vcpu.disabled_quirks = quirks


def _snapshot(vcpu: Vmx) -> None:
    vcpu.at_run = Vmx.get_debugctlmsr(vcpu)  # type: ignore[attr-defined]


#: vCPUs of a KVM with one line wrong, by the mutant's name.
FAULTS: dict[str, type[Vmx]] = {
    "fix-reverted": _wrong(
        OWNED=0,
        reload_guest_debugctl=_nothing,
        guest_debugctl_write=_write,
        guest_debugctl_read=lambda vcpu: vcpu.vmcs,
    ),
    "mask-missing": _wrong(OWNED=0),
    "turning-on-unnoticed": _wrong(
        is_changed=lambda vcpu, debugctl: bool(~debugctl & vcpu.host_debugctl & vcpu.OWNED)
    ),
    "turning-off-unnoticed": _wrong(
        is_changed=lambda vcpu, debugctl: bool(debugctl & ~vcpu.host_debugctl & vcpu.OWNED)
    ),
    "comparison-inverted": _wrong(is_changed=lambda vcpu, debugctl: not _differs(vcpu, debugctl)),
    "flag-on-every-entry": _wrong(is_changed=lambda *_: True),
    "migration-not-compared": _wrong(
        is_changed=lambda vcpu, debugctl: (
            vcpu.last_cpu in (None, vcpu.host.cpu()) and _differs(vcpu, debugctl)
        )
    ),
    "snapshot-once-per-run": _wrong(vcpu_run=_snapshot, get_debugctlmsr=lambda vcpu: vcpu.at_run),
    "snapshot-never-stored": _wrong(store=_nothing),
    "snapshot-stored-late": _wrong(store=_nothing, vcpu_enter_guest=_enter_and_store_late),
    "signal-loses-toggle": _wrong(cancel_entry=lambda vcpu: vcpu.store(vcpu.get_debugctlmsr())),
    "snapshot-per-cpu": _wrong(is_changed=_differs_from_what_this_cpu_saw),
    "snapshot-at-creation": _wrong(vcpu_create=lambda vcpu: vcpu.store(vcpu.get_debugctlmsr())),
    "created-with-bit": _wrong(init_vmcs=lambda vcpu: _write(vcpu, FREEZE_IN_SMM)),
    "flags-not-cleared": _wrong(reenter_on_fastpath=lambda vcpu: vcpu.vendor_vcpu_run()),
    "no-reload-at-entry": _wrong(vendor_vcpu_run=lambda vcpu: vcpu.told()),
    "reload-inverted": _wrong(reload_guest_debugctl=_reload_where_alike),
    "reload-keeps-old-bit": _wrong(reload_guest_debugctl=_reload(lambda vcpu: vcpu.vmcs)),
    "reload-loses-guest-bits": _wrong(reload_guest_debugctl=_reload(lambda _: 0)),
    "write-without-host-bit": _wrong(guest_debugctl_write=_write),
    "write-loses-guest-bits": _wrong(
        guest_debugctl_write=lambda vcpu, _: _write(vcpu, vcpu.host_debugctl & FREEZE_IN_SMM)
    ),
    "guest-write-drops-host-bit": _wrong(write_debugctl=_write),
    "tolerated-bits-kept": _wrong(set_debugctl=_take_all),
    "guest-sees-bit": _wrong(guest_debugctl_read=lambda vcpu: vcpu.vmcs),
    "userspace-sees-bit": _wrong(
        get_debugctl=lambda vcpu, *, by_host: vcpu.vmcs if by_host else vcpu.guest_debugctl_read()
    ),
    "bit-14-ignored": _wrong(TOLERATED=BTF | LBR | FREEZE_IN_SMM),
    "bit-14-by-guest": _wrong(
        supported_debugctl=lambda vcpu, *, by_host: _supported(
            vcpu, by_host=by_host, more=0 if by_host else FREEZE_IN_SMM
        )
    ),
    "bit-14-by-userspace": _wrong(
        supported_debugctl=lambda vcpu, *, by_host: _supported(
            vcpu, by_host=by_host, more=FREEZE_IN_SMM if by_host else 0
        )
    ),
    "rtm-host-not-asked": _wrong(
        supported_debugctl=lambda vcpu, *, by_host: _supported(
            vcpu, by_host=by_host, rtm=by_host or vcpu.has_rtm
        )
    ),
    "rtm-guest-not-asked": _wrong(
        supported_debugctl=lambda vcpu, *, by_host: _supported(
            vcpu, by_host=by_host, rtm=vcpu.host.has_rtm
        )
    ),
    "rtm-debug-refused": _wrong(
        supported_debugctl=lambda vcpu, *, by_host: _supported(vcpu, by_host=by_host, rtm=False)
    ),
    "cpu-online-drops-host-bit": _wrong(KEEPS_DEBUGCTL=False),
    # arch/x86/kvm/vmx/nested.c, and what it rests on
    "vmfail-without-reload": _wrong(fail_l2=Vmx.switch_to_vmcs01),
    "l1-without-host-bit": _wrong(load_host_state=lambda vcpu: _write(vcpu, 0)),
    "l1-debugctl-not-cleared": _wrong(load_host_state=_nothing),
    "flag-not-in-l2": _wrong(
        is_changed=lambda vcpu, debugctl: not vcpu.is_in_l2 and _differs(vcpu, debugctl)
    ),
    "l2-without-host-bit": _wrong(
        load_debugctl=lambda vcpu, value, supported: _write(vcpu, value & supported)
    ),
    "reload-not-in-l2": _wrong(
        load_host_bit=lambda vcpu: None if vcpu.is_in_l2 else vcpu.reload_guest_debugctl()
    ),
    "vmcs12-bit-14-refused": _wrong(has_quirk=lambda vcpu: False),
    "quirk-not-offered": _wrong(QUIRKS=0),
    "vmcs12-bit-14-passed": _wrong(
        load_debugctl=lambda vcpu, value, supported: vcpu.guest_debugctl_write(
            value & (supported | FREEZE_IN_SMM)
        )
    ),
    "quirk-not-asked": _wrong(has_quirk=lambda vcpu: True),
    "quirk-enabled-again": _wrong(disable_quirks=_assign_quirks),
    "vmcs12-debugctl-unchecked": _wrong(check_guest_state=_nothing),
    "vmcs12-checked-as-userspace": _wrong(
        check_guest_state=_check(
            lambda vcpu, value: not vcpu.is_valid_debugctl(value, by_host=True)
        )
    ),
    "vmcs12-checked-unasked": _wrong(
        check_guest_state=_check(
            lambda vcpu, value: not vcpu.is_valid_debugctl(value, by_host=False), unasked=True
        )
    ),
    "vmcs12-tolerance-missing": _wrong(
        check_guest_state=_check(
            lambda vcpu, value: bool(value & ~vcpu.supported_debugctl(by_host=False))
        )
    ),
    "vmcs12-unmasked": _wrong(
        load_debugctl=lambda vcpu, value, _: vcpu.guest_debugctl_write(value)
    ),
    "vmcs12-loaded-unasked": _wrong(
        prepare_vmcs02=lambda vcpu, vmcs12, *, pending: (
            vcpu.load_debugctl(vmcs12.debugctl, vcpu.supported_debugctl(by_host=False))
            if pending
            else vcpu.guest_debugctl_write(vcpu.pre_vmenter)
        )
    ),
    "l1-debugctl-not-kept": _wrong(keeps_debugctl=lambda vcpu, vmcs12, *, pending: not pending),
    "l2-write-not-saved": _wrong(save_in_vmcs12=_nothing),
    "l2-write-saved-unasked": _wrong(
        save_in_vmcs12=_save(lambda vcpu, value, _: value if vcpu.is_in_l2 else None)
    ),
    "l2-write-saved-unmasked": _wrong(
        save_in_vmcs12=_save(
            lambda vcpu, _, written: written if vcpu.is_in_l2 and vcpu.vmcs12.saves else None
        )
    ),
    "l1-write-saved": _wrong(
        save_in_vmcs12=_save(lambda vcpu, value, _: value if vcpu.vmcs12.saves else None)
    ),
    "saved-from-vmcs02": _wrong(sync_vmcs12=_sync(lambda vcpu: vcpu.guest_debugctl_read())),
    "saved-with-host-bit": _wrong(sync_vmcs12=_sync(lambda vcpu: vcpu.vmcs)),
    "bit-14-ignored-in-l2": _wrong(
        is_valid_debugctl=lambda vcpu, value, *, by_host: Vmx.is_valid_debugctl(
            vcpu, value & ~FREEZE_IN_SMM if vcpu.is_in_l2 else value, by_host=by_host
        )
    ),
    "restore-unchecked": _wrong(check_restored=_nothing),
    "restored-without-host-bit": _wrong(
        prepare_vmcs02=lambda vcpu, vmcs12, *, pending: (
            Vmx.prepare_vmcs02(vcpu, vmcs12, pending=pending)
            if pending and vmcs12.loads
            else _write(vcpu, vcpu.pre_vmenter)
        )
    ),
    "restored-from-vmcs12": _wrong(
        prepare_vmcs02=lambda vcpu, vmcs12, *, pending: Vmx.prepare_vmcs02(
            vcpu, vmcs12, pending=True
        )
    ),
    "restored-debugctl-lost": _wrong(
        keeps_debugctl=lambda vcpu, vmcs12, *, pending: not vmcs12.loads
    ),
    "svm-host-owned-bit": _wrong(Svm, OWNED=FREEZE_IN_SMM),
    "svm-lbrv-not-asked": _wrong(
        Svm, set_debugctl=lambda vcpu, value, **_: vcpu.set_virtual_debugctl(value)
    ),
    # No mutants: a stable kernel with the fix and without the quirk about vmcs12, and the repair of
    # what every kernel has wrong.
    "quirk-missing": _wrong(QUIRKS=0, has_quirk=lambda vcpu: False),
    "emulation-mended": _wrong(EMULATION_RELOADS=True),
}
