"""Plays schedules on the vCPUs of ``debugctl_model``, instead of real ones in processes."""

import os
from collections.abc import Callable
from typing import Any

from kvmtest.checks.schedules.player import Look
from kvmtest.checks.witnesses.refused_entry import non_canonical
from kvmtest.interleave.schedule import Does, Schedule, vcpus_of
from kvmtest.kvm import System


class FakePlayer:
    """As Player; ``system`` is the class of a fake KVM."""

    def __init__(
        self,
        system: type[System],
        cpus: tuple[int, ...],
        toggle: Callable[[int], None],
        smi: Callable[[], None],
    ) -> None:
        self._system = system
        self._cpus = cpus
        self._toggle = toggle

    def __enter__(self) -> "FakePlayer":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def play(self, schedule: Schedule, knob: int = 1) -> list[Look]:
        self._toggle(knob)
        with self._system().create_vm() as vm:
            vcpus: dict[int, Any] = {v: vm.create_vcpu() for v in vcpus_of(schedule)}
            cpu = dict.fromkeys(vcpus, 0)
            inside: int | None = None
            for does, of in schedule:
                if does is Does.TOGGLE:
                    knob ^= 1
                    self._toggle(knob)
                    if inside is not None:
                        vcpus[inside].model.vcpu_enter_guest()
                elif does is Does.MOVE:
                    cpu[of] ^= 1
                elif does is Does.LEAVE:
                    inside = None
                elif of is not None:
                    os.sched_setaffinity(0, {self._cpus[cpu[of]]})
                    _run(vcpus[of], does)
                    inside = of if does is Does.STAY else inside
            looks = [Look(v, non_canonical(), self._cpus[cpu[v]]) for v in vcpus]
            for look in looks:
                os.sched_setaffinity(0, {look.cpu})
                sregs = vcpus[look.vcpu].get_sregs()
                sregs.cs.base = sregs.cs.selector = 0
                sregs.fs.base = look.fs_base
                vcpus[look.vcpu].set_sregs(sregs)
                vcpus[look.vcpu].run()
        return looks


def _run(vcpu: Any, does: Does) -> None:
    model = vcpu.model
    model.vcpu_run()
    if does is Does.KICK:
        model.cancel_entry()
    else:
        model.needs_emulation = does is Does.EMULATE
        model.vcpu_enter_guest()
        model.needs_emulation = False
