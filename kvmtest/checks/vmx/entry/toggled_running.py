"""Toggles while the vCPU runs
===========================

vmx.entry.toggled-running: the knob's IPI takes the vCPU out of guest mode and in again, all in one
KVM_RUN.
"""

import os

from kvmtest.checks.affinity import two_cpus
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step as Leg
from kvmtest.checks.scene import Scene
from kvmtest.checks.schedules.player import Look, Player
from kvmtest.checks.schedules.stage import dumps_of, opened_log, opened_player
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.checks.witnesses.vmcs import VmcsWitness, claimed
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.host.observe.vmcs_dump import VmcsDump
from kvmtest.interleave.schedule import Does, Step
from kvmtest.judge import Absence, claim, control
from kvmtest.missing import Missing

__all__ = ["toggled_running"]

#: Three toggles while the vCPU stays in the guest. After each the player waits until the guest has
#: run on, so that the vCPU has left guest mode for the knob's IPI, and entered it again.
TOGGLES = 3
SCHEDULE = (Step(Does.RUN, 0), Step(Does.STAY, 0), *[Step(Does.TOGGLE)] * TOGGLES)


def toggled_running(context: Context) -> Observations:
    """Toggle the knob three times while a vCPU stays in the guest on another CPU; look.

    The run flags show the re-entries inside the KVM_RUN; the VMCS shows the entry after it. The
    last toggle is once on, once off.
    """
    cpus = two_cpus()
    if isinstance(cpus, Missing):
        yield from (Absence(witness, cpus) for witness in ("vmcs", "runflags"))
        return
    with Scene(context, "vmcs", "runflags") as scene:
        yield from scene.begin()
        with opened_log(context) as log, opened_player(context, scene) as player:
            for last in (1, 0):
                yield from scene.set_knob(1 - last)
                yield from _episode(scene, player, log, last)
        with scene.guest() as guest:
            yield from scene.end(guest)
    yield from look_for_leaks(context, Leg.RUNNING)


def _episode(scene: Scene, player: Player, log: KernelLog | Missing, last: int) -> Observations:
    runflags = scene.witness(RunFlagsWitness)
    if runflags:
        runflags.follow([os.getpid(), player.pids[0]])
        runflags.collect()
    looks = scene.witness(VmcsWitness) is not None
    before = None if isinstance(log, Missing) or not looks else log.here()
    value = 1 - last
    for done in player.steps(SCHEDULE, value):
        if isinstance(done, Look):
            # Its KVM_RUN is the third, after that of the first step and the one with the toggles.
            if runflags:
                runflags.collect(1)
            if before is not None and not isinstance(log, Missing):
                dumps = dumps_of(log, before, {done.fs_base})
                yield from _entry_after(dumps.get(done.fs_base), last)
        elif done.does is Does.TOGGLE:
            value = 1 - value
            # Without the vCPU's own CPU, where KVM owns the MSR.
            others = tuple(cpu for cpu in scene.msr.cpus if cpu != player.first_cpu)
            yield from scene.show_msrs(value, others)
            yield from _reentry(runflags, value)
        elif runflags:
            runflags.collect(1)


def _entry_after(dump: VmcsDump | None, last: int) -> Observations:
    """Claim the host's bit in the dump of the entry after the KVM_RUN, if it is there."""
    state = f"after freeze_on_smi went to {last} while the vCPU ran"
    whole = dump is not None and dump.loads_debugctl
    what = f"the dump of the entry refused {state} is whole"
    remedy = "look at the kernel log, and run without other VMs"
    yield control("vmcs", what, whole, True, remedy)
    if dump is not None:
        yield claimed(dump, state, last)


def _reentry(runflags: RunFlagsWitness | None, value: int) -> Observations:
    """Claim that the vCPU was told of the toggle as it entered again."""
    if runflags is None:
        return
    hits = runflags.collect()
    runflags.account(hits)
    flagged = int(bool(runflags.flagged(hits)))
    what = f"KVM_RUN_LOAD_DEBUGCTL at the re-entry after freeze_on_smi went to {value}"
    yield claim("runflags", what, flagged, 1, hits=len(hits.hits))
