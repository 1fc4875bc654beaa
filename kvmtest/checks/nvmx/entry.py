"""Nested entries
==============

nvmx.entry.l2: the host's bit in L2 and in L1 after it. nvmx.entry.vmfail-reload: L1's DEBUGCTL
after an entry to L2 that the CPU, not KVM, refuses.
"""

from collections.abc import Callable

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.walk import Step
from kvmtest.checks.scene import Scene
from kvmtest.checks.stimuli.nesting import CodedL2, GivenL2
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.checks.witnesses.witness import Entry
from kvmtest.guests import Guest, commands
from kvmtest.judge import control

__all__ = ["l2", "vmfail_reload"]


def l2(context: Context) -> Observations:
    """Toggle the knob before, in and after L2, and across an exit to L1, by both ways into L2.

    The VMCS of L2 is in no dump: a refused entry of L2 is a VM-exit to L1. Its run flags show that
    a toggle is loaded, the dump of L1's next entry shows what a toggle in L2 left there, and SMIs
    show what L2 runs with.
    """
    with Scene(context, "vmcs", "runflags") as scene, scene.guest() as guest:
        yield from scene.begin()
        scene.run(guest)
        coded = CodedL2()
        for loads in (True, False):
            way = f"by L1's code, {'' if loads else 'not '}loading DEBUGCTL"

            def enter(loads: bool = loads) -> bool:
                return coded.enter(guest, loads=loads)

            yield from _episodes(scene, guest, way, enter, lambda: coded.leave(guest))
        coded.end(guest)
        given = GivenL2()
        yield from _episodes(
            scene, guest, "by userspace", lambda: given.enter(guest), lambda: given.leave(guest)
        )
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.L2)


def _episodes(
    scene: Scene, guest: Guest, way: str, enter: Callable[[], bool], leave: Callable[[], bool]
) -> Observations:
    """Toggle before an entry to L2, twice in L2, right before an exit to L1, and in L1; both ways.

    At the exit the knob is not what it was at the entry, so that a bit from before shows.
    """
    for value in (1, 0):
        other = 1 - value
        yield from scene.set_knob(other)
        scene.run(guest)
        yield from scene.set_knob(value)
        yield from _told(scene, guest, f"at an entry to L2 {way} after a toggle to {value}", enter)
        for toggled in (other, value):
            yield from scene.set_knob(toggled)
            state = f"in L2, entered {way}, after a toggle to {toggled}"
            yield from _told(scene, guest, state, lambda: bool(guest.execute(commands.nop())))
        yield from scene.set_knob(other)
        state = f"at an exit from L2, entered {way}, after a toggle to {other}"
        yield from _told(scene, guest, state, leave)
        yield from scene.look(guest, f"in L1 {state}", other)
        yield from scene.set_knob(value)
        yield from scene.look(guest, f"in L1 {state} and back", value, flagged=1)


def _told(scene: Scene, guest: Guest, state: str, act: Callable[[], bool]) -> Observations:
    """Have a guest make entries; claim that the first of them was told to load DEBUGCTL."""
    runflags = scene.witness(RunFlagsWitness)
    if runflags:
        runflags.prepare(guest)
    done = act()
    for witness in scene.looking:
        yield control(witness, f"it ran {state}", done, True, "report this KVM")
    if runflags:
        yield from runflags.look(Entry(guest, state, None, flagged=1))


def vmfail_reload(context: Context) -> Observations:
    """Toggle the knob before an entry to L2 that fails, and look at L1's next entry.

    The failing entry is the first after the toggle, so that KVM knows the new value afterwards.
    """
    with Scene(context, "vmcs") as scene, scene.guest() as guest:
        yield from scene.begin()
        scene.run(guest)
        l2 = GivenL2()
        for value in (1, 0, 1):
            yield from scene.set_knob(1 - value)
            l2.enter_to_fail(guest)
            yield from scene.set_knob(value)
            state = f"after an entry to L2 failed that saw freeze_on_smi go to {value}"
            what, remedy = f"L1 went on {state}", "report this KVM: it does not refuse it"
            yield control("vmcs", what, l2.fail(guest), True, remedy)
            yield from scene.look(guest, state, value)
        yield from scene.end(guest)
    yield from look_for_leaks(context, Step.VMFAIL)
