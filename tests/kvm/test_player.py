"""Schedules on a real KVM, without the refused entries at their end: not every KVM makes these."""

import os
from itertools import islice

import pytest
from support.schedules import schedule

from kvmtest.checks.schedules.player import Player
from kvmtest.interleave.schedule import Does, Step, text

pytestmark = pytest.mark.usefixtures("system")


@pytest.mark.parametrize(
    "played",
    [
        "T T",
        "r0 T r0 r1 T T r1",
        "i0 T T o0 T i1 o1",
        "k0 T k0 r0 k1",
        "m0 r0 m0 T r0",
        "i0 m0 T m0 T o0 r0",
        "i0 S o0 r1",
        "r0 h r0 i1 h",
    ],
)
def test_steps_are_played_in_their_order(played: str) -> None:
    if len(cpus := sorted(os.sched_getaffinity(0))[:2]) < 2:
        pytest.skip("needs two CPUs")
    done: list[object] = []
    steps = schedule(played)
    player = Player(
        tuple(reversed(cpus)), done.append, lambda: done.append("S"), lambda _: done.append("h")
    )
    with player:
        for step in islice(player.steps(steps), len(steps)):
            if step.vcpu is not None:
                done.append(str(step))
            on = os.sched_getaffinity(player.pids[0])
            assert len(on) == 1
    knob, expected = 1, [1]
    for does, vcpu in steps:
        knob ^= does is Does.TOGGLE
        expected.append(knob if does is Does.TOGGLE else text((Step(does, vcpu),)))
    assert done == expected
