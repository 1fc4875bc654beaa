"""Leaks on Intel
==============

vmx.leak.*: what is counted while SMIs come in guest mode, by the host's events and the guest's own.
"""

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.leaks.counters import GuestCounters, with_host_counters
from kvmtest.checks.leaks.experiment import Procedure, experiment, noise_as_control
from kvmtest.checks.leaks.guests_own_pmu import guest_with_pmu, make_way, refused, whose_counters
from kvmtest.checks.leaks.procedures import (
    interleaved,
    interleaved_and_toggled,
    stages,
    stages_and_toggled,
)
from kvmtest.checks.leaks.watchers import Watchers
from kvmtest.checks.scene import Scene
from kvmtest.judge import Absence
from kvmtest.kvm import KvmError

__all__ = ["guest_pmu", "host_events"]


def host_events(context: Context) -> Observations:
    """Count a guest's execution by perf events of the host."""
    procedure = Procedure(interleaved_and_toggled, stages_and_toggled)
    yield from noise_as_control(experiment(context, with_host_counters, procedure))


def guest_pmu(context: Context) -> Observations:
    """Have the guest count its own execution.

    Without a toggler: the guest runs to read its counters, and a toggle between that and its watch
    would have one window count under two states of the knob.
    """
    lacking = make_way(context)
    if lacking:
        yield Absence("leak", lacking)
        return
    try:
        yield from noise_as_control(
            experiment(
                context,
                lambda _, __, guest, ___: GuestCounters(guest),
                Procedure(_own_arms, _own_stages),
                make_guest=guest_with_pmu,
            )
        )
    except KvmError as error:
        why = refused(error)
        if why is None:
            raise
        yield Absence("leak", why)


def _own_arms(scene: Scene, watchers: Watchers) -> Observations:
    yield from whose_counters(scene)
    yield from interleaved(scene, watchers)


def _own_stages(scene: Scene, watchers: Watchers) -> Observations:
    yield from whose_counters(scene)
    yield from stages(scene, watchers)
