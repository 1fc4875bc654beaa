"""Leaks of TDs
============

tdx.leak.host-events: the counts that host events gain with each SMI while a TD runs. This is a
figure and no claim: no manual promises one. An SMI takes a TD out to the TDX module and to KVM
before it is handled (tdx_handle_exit, EXIT_REASON_OTHER_SMI), so that it comes in host mode. KVM
switches no counters at a TD's entry (tdx_vcpu_run), so that an event that counts guest mode alone
may count no TD at all; then that is the figure.

A gap's time is that of the host by an offset that is measured once. The TDX module may give a TD
another TSC frequency (TD_PARAMS.TSC_FREQUENCY has steps of 25 MHz), so that only the number of gaps
is used here, not their times.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.counters import Counters, HostCounters
from kvmtest.checks.leaks.experiment import Procedure, experiment, noise_as_control
from kvmtest.checks.leaks.figures import per_smi, quiet_windows, smis_told
from kvmtest.checks.leaks.watchers import Watchers
from kvmtest.checks.leaks.windows import record
from kvmtest.checks.scene import Scene
from kvmtest.guests import Guest, td_guest
from kvmtest.host.machine import Machine
from kvmtest.judge import Reading, measure
from kvmtest.judge.samples import Arm, Samples, Window

__all__ = ["figures", "host_events"]

#: SLOW_ROUNDS apply if each window has the SMIs of one trigger.
ROUNDS, SLOW_ROUNDS = 8, 20
#: The arms of a round, each with the knob's value.
KNOB: Mapping[Arm, int] = {Arm.QUIET: 0, Arm.KNOB_OFF: 0, Arm.KNOB_ON: 1}
#: Modifiers of the events: guest mode alone; guest and host.
MODES = ("kG", "k")
#: An event that counts less than this share of a TD's instructions does not count TDs.
COUNTS = 0.5


def host_events(context: Context) -> Observations:
    """Count TDs by events of the host, alternately with and without SMIs, the knob off and on."""
    procedure = Procedure(_arms, partial(_arms, rounds=SLOW_ROUNDS))
    taken = experiment(context, _with_counters, procedure, make_guest=_td)
    yield from noise_as_control(taken)


def _td(scene: Scene) -> AbstractContextManager[Guest]:
    return td_guest(scene.system)


def _with_counters(stack: ExitStack, machine: Machine, _: Guest, cpu: int) -> Counters:
    return stack.enter_context(HostCounters(machine, cpu, modes=MODES))


def _arms(scene: Scene, watchers: Watchers, rounds: int = ROUNDS) -> Observations:
    samples = Samples()
    for turn in range(rounds):
        scene.on_step(f"SMIs by {watchers.smis.source.name}: round {turn + 1} of {rounds}")
        for arm, value in KNOB.items():
            yield from scene.set_knob(value)
            watchers.settle()
            yield from record(watchers.take_windows(arm), samples)
    yield from figures(samples, watchers.smis.count.name)


def figures(samples: Samples, count: str) -> list[Reading]:
    """Return for both of the knob's values the SMIs that ``count`` counted, and what each cost."""
    quiet = quiet_windows(samples)
    readings = []
    for arm in (Arm.KNOB_OFF, Arm.KNOB_ON):
        noisy = [w for w in samples.windows if w.arm is arm and w.smis]
        state = f" with freeze_on_smi={KNOB[arm]}"
        readings.append(smis_told(noisy, count, state))
        if quiet and noisy:
            readings += [_figure(samples, noisy, name, state) for name in quiet[0].counted]
    return readings


def _figure(samples: Samples, noisy: list[Window], name: str, state: str) -> Reading:
    """Return what an event gained for each SMI, or that it does not count TDs."""
    quiet = quiet_windows(samples)
    counted = sum(window.counted[name] for window in quiet)
    executed = sum(window.known[name] for window in quiet)
    if counted < COUNTS * executed:
        what = f"{name} per SMI{state}"
        told = "the event does not count TDs"
        return measure("leak", what, told, counted=counted, executed=executed)
    return per_smi(samples, noisy, name, state)
