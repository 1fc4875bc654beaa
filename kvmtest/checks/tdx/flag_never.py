"""VM-entries of TDs
=================

tdx.flag-never: the TDX module runs a TD with a DEBUGCTL of its own, so that no entry is told to
load the host's bits, or anything else; tdx_vcpu_run would warn.
"""

from contextlib import ExitStack

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.guests import Guest, td_guest
from kvmtest.judge import Absence, claim, control
from kvmtest.missing import Missing

from .answers import is_a_td
from .trouble import open_log

__all__ = ["flag_never"]

#: Exits of the TD after each toggle.
MANY = 100


def flag_never(context: Context) -> Observations:
    """Toggle the knob, and look at the run flags of a TD's entries, and at the kernel log.

    The control of the flags: after the same toggle, an ordinary guest's entry is told to load.
    """
    log = context.kernel_log
    names = ["runflags"] if isinstance(log, Missing) else ["runflags", "klog"]
    with Scene(context, *names) as scene, ExitStack() as stack:
        if isinstance(log, Missing):
            yield Absence("klog", log)
        yield from scene.begin()
        klog = None if isinstance(log, Missing) else open_log(log)
        flags = None
        if scene.witness(RunFlagsWitness):
            flags = RunFlagsWitness.open_for_tds(context, stack)
        if isinstance(flags, Missing):
            yield Absence("runflags", flags)
            flags = None
        with td_guest(scene.system) as td, scene.guest() as ordinary:
            yield from scene.set_knob(0)
            yield from is_a_td(scene, td)
            scene.run(ordinary)
            for value in (1, 0, 1):
                yield from scene.set_knob(value)
                yield from _enter(scene, td, flags, f"after freeze_on_smi went to {value}")
                yield from _enter_ordinary(scene, ordinary, value)
            if flags:
                yield from flags.controls(td)
            yield from scene.end(ordinary)
        if klog:
            yield from klog.look("at entries of TDs")


def _enter(scene: Scene, td: Guest, flags: RunFlagsWitness | None, state: str) -> Observations:
    """Enter the TD many times, and claim that no entry had a flag."""
    if flags:
        flags.collect()
    before = td.vcpu.entries
    scene.run(td)
    td.ring(MANY)
    entries = td.vcpu.entries - before
    if flags:
        hits = flags.collect(entries).hits
        raised = 0
        for hit in hits:
            raised |= hit.values["flags"]
        what = f"run flags in {entries} KVM_RUNs of a TD {state}"
        yield claim("runflags", what, hex(raised), hex(0), hits=len(hits))


def _enter_ordinary(scene: Scene, guest: Guest, value: int) -> Observations:
    """Enter an ordinary guest, and show that its entry had the flag that a TD's never has."""
    flags = scene.witness(RunFlagsWitness)
    if flags is None:
        return
    flags.collect()
    before = guest.vcpu.entries
    scene.run(guest)
    raised = bool(flags.flagged(flags.collect(guest.vcpu.entries - before)))
    what = f"KVM_RUN_LOAD_DEBUGCTL raised for an ordinary guest after freeze_on_smi went to {value}"
    yield control("runflags", what, raised, True, "use a kernel with the fix (kernel.fix-present)")
