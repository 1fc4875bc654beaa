"""Plays schedules on the vCPUs of ``debugctl_model``, instead of real ones in processes."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from kvmtest.checks.schedules.player import Look, Player
from kvmtest.checks.witnesses.refused_entry import non_canonical
from kvmtest.interleave.schedule import VCPUS, Does, Schedule, Step, vcpus_of
from kvmtest.kvm import System


class FakePlayer(Player):
    """A player without processes; ``system`` is the class of a fake KVM."""

    def __init__(
        self,
        system: type[System],
        cpus: tuple[int, ...],
        toggle: Callable[[int], None],
        smi: Callable[[], None],
        unplug: Callable[[int], None],
    ) -> None:
        super().__init__(cpus, toggle, smi, unplug)
        self._system = system

    def __enter__(self) -> Self:
        return self

    @property
    def pids(self) -> tuple[int, ...]:
        return (threading.get_native_id(),) * len(VCPUS)

    def steps(self, schedule: Schedule, knob: int = 1) -> Iterator[Step | Look]:
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
                yield Step(does, of)
            looks = [Look(v, non_canonical(), self._cpus[cpu[v]]) for v in vcpus]
            for look in looks:
                os.sched_setaffinity(0, {look.cpu})
                sregs = vcpus[look.vcpu].get_sregs()
                sregs.cs.base = sregs.cs.selector = 0
                sregs.fs.base = look.fs_base
                vcpus[look.vcpu].set_sregs(sregs)
                vcpus[look.vcpu].run()
        yield from looks


def _run(vcpu: Any, does: Does) -> None:
    model = vcpu.model
    model.vcpu_run()
    if does is Does.KICK:
        model.cancel_entry()
    else:
        model.needs_emulation = does is Does.EMULATE
        model.vcpu_enter_guest()
        model.needs_emulation = False
