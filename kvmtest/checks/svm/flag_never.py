"""VM-entries on AMD
=================

svm.flag-never: SVM has no host-owned DEBUGCTL bit, so that no entry is told to load one.
"""

import os

from kvmtest.checks.context import Context
from kvmtest.checks.scene import Observations, Scene
from kvmtest.checks.scene.affinity import only_on
from kvmtest.checks.scene.guest_msrs import guest_write, user_write
from kvmtest.guests import real_guest
from kvmtest.host.facts.freeze_knob import paths
from kvmtest.host.facts.kernel import module_btf
from kvmtest.host.facts.msr import IA32_DEBUGCTL, freeze_bit
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, claim, control
from kvmtest.kvm import System
from kvmtest.missing import Missing

__all__ = ["flag_never", "look_at", "places"]

#: AMD APM volume 2, 3.1.7: EFER's long mode active and SVM enable.
EFER, EFER_LMA, EFER_SVME = 0xC0000080, 1 << 10, 1 << 12

#: Exits that a guest is made to have where many entries are counted.
MANY = 100
#: What guest and userspace write to DEBUGCTL between entries: LBR, bit 14, all bits.
WRITES = (1, 1 << 14, (1 << 64) - 1, 0)

# Members of struct kvm_x86_ops (arch/x86/include/asm/kvm_host.h) that the probe reads at each hit.
OWNED, RUN = "HOST_OWNED_DEBUGCTL", "vcpu_run"
#: Where in a function a probe of its first instruction may find the instruction pointer: behind
#: ENDBR64 and the call of ftrace.
ENTRY_BYTES = 16


def flag_never(context: Context) -> Observations:
    """Have guests of several kinds entered, on every CPU, and look at the run flags of each entry.

    Nothing on an AMD host changes a host-owned bit, so that a flag that is never seen says little.
    The probe therefore reads KVM's mask of such bits, too, from the live kvm_x86_ops: it must be 0.
    Its vCPU entry point is read beside it, and must be the probed function: the control.
    """
    fetch = places(context.machine)
    if isinstance(fetch, Missing):
        yield Absence("runflags", fetch)
        fetch = {}
    wanted = ("runflags",) if fetch else ()
    with Scene(context, *wanted, fetch=fetch) as scene:
        yield from scene.begin()
        yield from _no_knob(context.machine, scene.system)
        if scene.probe is None:
            return
        yield from _entries(scene)


def _entries(scene: Scene) -> Observations:
    """Make entries by the kind, and count those with the flag."""
    with scene.system.create_vm() as vm:
        guest = real_guest(vm)
        guest.boot()
        guest.ring(MANY)
        yield from look_at(scene, guest.vcpu.entries, "of a real-mode guest")
    with scene.guest() as guest:
        for cpu in sorted(os.sched_getaffinity(0)):
            before = guest.vcpu.entries
            with only_on(cpu):
                scene.run(guest)
                guest.ring(MANY)
            yield from look_at(scene, guest.vcpu.entries - before, f"of a guest on CPU {cpu}")
        before = guest.vcpu.entries
        for value in WRITES:
            guest_write(guest, value)
            user_write(guest, value)
            scene.run(guest)
        state = "between writes of the guest's DEBUGCTL"
        yield from look_at(scene, guest.vcpu.entries - before, state)
        yield from scene.end(guest)


def look_at(scene: Scene, entries: int, state: str) -> Observations:
    """Look at the hits since the last count: no flag, no mask, and the right operations."""
    hits = scene.collect(entries).hits
    raised = sum(scene.is_flagged(hit.values["flags"]) for hit in hits)
    what = f"KVM_RUN_LOAD_DEBUGCTL raised in {entries} KVM_RUNs {state}"
    yield claim("runflags", what, raised, 0, hits=len(hits))
    masks = {hit.values["owned"] for hit in hits}
    what = f"kvm_x86_ops.{OWNED} at entries {state}"
    yield claim("runflags", what, ", ".join(map(hex, sorted(masks))), hex(0))
    elsewhere = sum(not 0 <= hit.values["ip"] - hit.values["run"] < ENTRY_BYTES for hit in hits)
    what = f"entries {state} by another function than kvm_x86_ops.{RUN}"
    yield control("runflags", what, elsewhere, 0, "report this kernel's BTF")


def places(machine: Machine) -> dict[str, str] | Missing:
    """Return what the probe fetches beside the flags, by the name that it gets."""
    found = module_btf(machine.tree, "kvm", machine.vmlinux_btf)
    if isinstance(found, Missing):
        return found
    fetch = {"ip": "%ip"}
    for name, member in (("owned", OWNED), ("run", RUN)):
        offsets = {offset.in_bytes for offset in found.btf.offsets("kvm_x86_ops", member)}
        if len(offsets) != 1:
            how = "several places for" if offsets else "no"
            return Missing(f"the BTF in {found.where} has {how} kvm_x86_ops.{member}")
        fetch[name] = f"@kvm_x86_ops+{offsets.pop()}"
    return fetch


def _no_knob(machine: Machine, system: System) -> Observations:
    """Show that there is no knob in sysfs and no bit 14 in any CPU's DEBUGCTL.

    The control is another MSR of the same CPU, EFER: while there is a VM, KVM has SVM on.
    """
    msr = machine.msr
    if isinstance(msr, Missing):
        yield Absence("hostmsr", msr)
        return
    with system.create_vm():
        for cpu in msr.cpus:
            bits = msr.read(EFER, cpu) & (EFER_LMA | EFER_SVME)
            what = f"64-bit mode and SVM in EFER of CPU {cpu}, while there is a VM"
            remedy = "read /dev/cpu/*/msr of the machine itself"
            yield control("hostmsr", what, hex(bits), hex(EFER_LMA | EFER_SVME), remedy)
            debugctl = msr.read(IA32_DEBUGCTL, cpu)
            what = f"bit 14 of CPU {cpu}'s MSR 0x1d9 on AMD"
            yield claim("hostmsr", what, freeze_bit(debugctl), 0, debugctl=hex(debugctl))
    there = paths(machine.tree)
    yield claim("hostmsr", "freeze_on_smi in sysfs on AMD", ", ".join(there) or "none", "none")
