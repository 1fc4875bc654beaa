"""Toggles while the vCPU runs
===========================

vmx.entry.toggled-running: the knob's IPI takes the vCPU out of guest mode and in again, all in one
KVM_RUN.
"""

import os
import time

from kvmtest.checks.affinity import only_on, two_cpus
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.toggles import toggle
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest, Spinning
from kvmtest.host.facts.msr import IA32_DEBUGCTL
from kvmtest.host.observe.trace import Hits
from kvmtest.judge import Absence, claim, control
from kvmtest.missing import Missing

__all__ = ["toggled_running"]

#: Upper bound on a re-entry, which takes microseconds on a real machine.
PATIENCE_S = 10.0


def toggled_running(context: Context) -> Observations:
    """Toggle the knob three times while a vCPU spins on another CPU; look inside and after.

    The run flags show the re-entries inside the KVM_RUN; the VMCS shows the entry after it. The
    last toggle is once on, once off.
    """
    cpus = two_cpus()
    if isinstance(cpus, Missing):
        yield from (Absence(witness, cpus) for witness in ("vmcs", "runflags"))
        return
    here, there = cpus
    with Scene(context, "vmcs", "runflags") as scene, scene.guest() as guest, only_on(here):
        yield from scene.begin()
        # Opened now, because KVM can't open the statistics while the vCPU runs.
        guest.vcpu.stats()
        for last in (1, 0):
            yield from scene.set_knob(1 - last)
            scene.run(guest)
            yield from _episode(scene, guest, there, last)
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.RUNNING)


def _episode(scene: Scene, guest: Guest, cpu: int, last: int) -> Observations:
    with Spinning(guest, cpu) as spinning:
        if runflags := scene.witness(RunFlagsWitness):
            runflags.follow([os.getpid(), spinning.task])
        before = guest.vcpu.entries
        for value in (last, 1 - last, last):
            yield from _toggle_and_look(scene, guest, cpu, value)
        calls, goes_on = guest.vcpu.entries - before, spinning.is_running
    what = "KVM_RUN calls between the first toggle and the last, and whether the first went on"
    for witness in scene.looking:
        yield control(witness, what, f"{calls}, {goes_on}", "0, True", "try again")
    state = f"after freeze_on_smi went to {last} while the vCPU ran"
    yield from scene.look(guest, state, last)
    spinning.release()


def _toggle_and_look(scene: Scene, guest: Guest, cpu: int, value: int) -> Observations:
    """Toggle, and wait until the vCPU has left guest mode and entered it again."""
    runflags = scene.witness(RunFlagsWitness)
    if runflags:
        runflags.collect()
    exits = guest.vcpu.stat("exits")
    toggle(scene, value)
    others = tuple(other for other in scene.msr.cpus if other != cpu)
    # Without the vCPU's own CPU, where KVM owns the MSR.
    yield from scene.show_msrs(value, others)
    hits = _hits_of_reentry(scene, runflags, guest, cpu, exits)
    if runflags:
        flagged = int(bool(runflags.flagged(hits)))
        what = f"KVM_RUN_LOAD_DEBUGCTL at the re-entry after freeze_on_smi went to {value}"
        yield claim("runflags", what, flagged, 1, hits=len(hits.hits))


def _hits_of_reentry(
    scene: Scene, runflags: RunFlagsWitness | None, guest: Guest, cpu: int, exits: int
) -> Hits:
    """Wait until the vCPU has surely entered the guest again, now that the knob was toggled.

    Return its hits since the toggle. Reading an MSR of the vCPU's CPU forces another exit, so that
    no timer tick is needed.
    """
    hits, toggled_us = Hits(), time.monotonic_ns() // 1000
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        scene.msr.read(IA32_DEBUGCTL, cpu)
        if runflags:
            hits += runflags.collect()
        is_in = not runflags or any(hit.time_us > toggled_us for hit in hits.hits)
        if is_in and guest.vcpu.stat("exits") > exits:
            if runflags:
                runflags.account(hits)
            return hits
    raise KvmtestError(f"the vCPU on CPU {cpu} did not enter again in {PATIENCE_S:g} s; try again")
