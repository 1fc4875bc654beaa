"""A TD under toggling
===================

tdx.runs-under-toggling: the knob is toggled between a TD's entries and while the TD runs. The TD
goes on answering right, and the kernel warns of nothing.
"""

import errno
import time

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.guests import Guest, UnexpectedExit, commands, td_guest
from kvmtest.host.changes.toggler import Toggler
from kvmtest.host.facts.msr import IA32_DEBUGCTL
from kvmtest.judge import Absence, Reading, claim, control, measure
from kvmtest.kvm import Deadline, KvmError
from kvmtest.missing import Missing
from kvmtest.workers import Supervisor

from .answers import RIGHT, answer, is_a_td
from .trouble import open_log

__all__ = ["runs_under_toggling"]

#: Toggles while the TD runs, each after this time and up to as much more at random.
TOGGLES, INTERVAL_S = 50, 0.002
#: Upper bound on the time that the TD runs beside the toggler.
PATIENCE_S = 20.0
#: Exits of the TD in a row.
EXITS = 20


def runs_under_toggling(context: Context) -> Observations:
    """Toggle between entries, both ways, then by a toggler while the TD runs."""
    log = context.kernel_log
    if isinstance(log, Missing):
        yield Absence("klog", log)
    names = ["guest"] if isinstance(log, Missing) else ["guest", "klog"]
    with Scene(context, *names) as scene, td_guest(scene.system) as guest:
        klog = None if isinstance(log, Missing) else open_log(log)
        yield from is_a_td(scene, guest)
        try:
            yield from _toggle(scene, guest)
        except UnexpectedExit as error:
            # A TD that is slow has not ended.
            if isinstance(error.exit, Deadline):
                raise
            yield claim("guest", "how the TD ended under toggling", str(error.exit), "not at all")
        except KvmError as error:
            # KVM gives up a TD with EIO if the TDX module does what it never should.
            if error.errno != errno.EIO:
                raise
            yield claim("guest", "how the TD ended under toggling", str(error), "not at all")
        if klog:
            yield from klog.look("while a TD ran under toggling")


def _toggle(scene: Scene, guest: Guest) -> Observations:
    """Toggle, and claim that the TD answers right. Raises UnexpectedExit where it ends."""
    for value in (1, 0, 1, 0):
        yield from scene.set_knob(value)
        what = f"what the TD answers with the knob at {value}"
        yield claim("guest", what, answer(guest), RIGHT)
    yield from _beside_toggler(scene, guest)
    yield from scene.set_knob(1)
    yield claim("guest", "what the TD answers afterwards", answer(guest), RIGHT)
    yield _debugctl(guest)


def _beside_toggler(scene: Scene, guest: Guest) -> Observations:
    """Have the TD work and exit until the toggler has written often enough."""
    path = scene.machine.tree.path(scene.knob.paths[0])
    answers: dict[str, int] = {}
    lost = 0
    before, deadline = guest.vcpu.entries, time.monotonic() + PATIENCE_S
    toggler = Toggler(path, interval=INTERVAL_S, spread=INTERVAL_S, limit=TOGGLES)
    with toggler, Supervisor() as workers:
        workers.start(toggler)
        while toggler.writes < TOGGLES and time.monotonic() < deadline:
            said = answer(guest)
            answers[said] = answers.get(said, 0) + 1
            lost += EXITS - guest.ring(EXITS).doorbells
            workers.check()
    entries = guest.vcpu.entries - before
    for witness in scene.looking:
        what = "toggles of the knob while the TD ran"
        yield control(witness, what, toggler.writes, TOGGLES, "try again", entries=entries)
    wrong = {said: count for said, count in answers.items() if said != RIGHT}
    what = "wrong answers of the TD while the knob was toggled"
    yield claim("guest", what, sum(wrong.values()), 0, of=sum(answers.values()), wrong=str(wrong))
    yield claim("guest", "exits of the TD that were lost meanwhile", lost, 0)


def _debugctl(guest: Guest) -> Reading:
    """Record what the TD reads from its own DEBUGCTL while the host's bit 14 is 1."""
    (result,) = guest.execute(commands.rdmsr(IA32_DEBUGCTL))
    value = str(result.fault) if result.fault else hex(result.values[0])
    return measure("guest", "RDMSR 0x1d9 in the TD with freeze_on_smi=1", value)
