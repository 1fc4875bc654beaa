"""A soak on AMD
=============

svm.soak: many vCPUs, made and ended, moved between CPUs, stopped and started at random, two of them
at once.
"""

import os
import random
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field

from kvmtest.guests import Guest, Spinning, mailbox
from kvmtest.judge import Absence, control, measure
from kvmtest.missing import Missing

from .context import Context
from .svm_entry import look_at, places
from .vmx_scene import Observations, Scene, only_on

__all__ = ["Crowd", "soak"]

STEPS = 40
#: So many guests there are at most.
MOST = 6
#: Exits of a guest in one step.
EXITS = 20


@dataclass
class Crowd:
    """The guests, each with what ends it, and what they did."""

    scene: Scene
    choose: random.Random
    cpus: list[int]
    guests: list[tuple[Guest, ExitStack]] = field(default_factory=list)
    entries: int = 0
    done: dict[str, int] = field(default_factory=dict)

    def step(self) -> None:
        """Do one thing at random; raises what goes wrong with a guest."""
        able = ["run", "run", "spin"]
        able += ["make"] * (len(self.guests) < MOST) + ["end"] * (len(self.guests) > 2)
        name = self.choose.choice(able) if len(self.guests) > 1 else "make"
        {"run": self._run, "spin": self._spin, "make": self.make, "end": self._end}[name]()
        self.done[name] = self.done.get(name, 0) + 1

    def make(self) -> None:
        """Make a guest, and run it on some CPU."""
        with ExitStack() as stack:
            guest = stack.enter_context(self.scene.guest())
            self._enter(guest)
            self.guests.append((guest, stack.pop_all()))

    def _end(self) -> None:
        _, stack = self.guests.pop(self.choose.randrange(len(self.guests)))
        stack.close()

    def _run(self) -> None:
        guest, _ = self.choose.choice(self.guests)
        self._enter(guest)

    def _enter(self, guest: Guest) -> None:
        before = guest.vcpu.entries
        with only_on(self.choose.choice(self.cpus)):
            self.scene.run(guest)
            guest.ring(EXITS)
        self.entries += guest.vcpu.entries - before

    def _spin(self) -> None:
        """Have two guests spin at once, each on a CPU, and stop them while they run."""
        pair = [guest for guest, _ in self.choose.sample(self.guests, 2)]
        places = self.choose.sample(self.cpus, 2) if len(self.cpus) > 1 else self.cpus * 2
        with ExitStack() as stack:
            spinning = [
                stack.enter_context(Spinning(guest, cpu))
                for guest, cpu in zip(pair, places, strict=True)
            ]
        for each in spinning:
            each.release()

    def answering(self) -> int:
        """Return how many guests still execute commands; their last entries are counted."""
        answers = 0
        for guest, _ in self.guests:
            before = guest.vcpu.entries
            (result,) = guest.execute(mailbox.nop())
            answers += result.fault is None
            self.entries += guest.vcpu.entries - before
        return answers

    def close(self) -> None:
        """End all guests."""
        for _, stack in self.guests:
            stack.close()


def soak(context: Context) -> Observations:
    """Do random things to guests, and look at the entries that this thread made."""
    fetch = places(context.machine)
    if isinstance(fetch, Missing):
        yield Absence("runflags", fetch)
        return
    seed = secrets.randbits(32)
    yield measure("runflags", "the seed of what was done", seed)
    with Scene(context, "runflags", fetch=fetch) as scene, ExitStack() as stack:
        yield from scene.begin()
        if scene.probe is None:
            return
        crowd = Crowd(scene, random.Random(seed), sorted(os.sched_getaffinity(0)))
        stack.callback(crowd.close)
        crowd.make()
        for _ in range(STEPS):
            crowd.step()
        there, answers = len(crowd.guests), crowd.answering()
        what = f"guests that execute commands after {STEPS} steps, of {there}"
        yield control("runflags", what, answers, there, "look at the kernel log")
        did = ", ".join(f"{name} {count}" for name, count in sorted(crowd.done.items()))
        yield measure("runflags", "what was done how often", did)
        yield from look_at(scene, crowd.entries, f"while {STEPS} random steps were done")
        yield from scene.end(crowd.guests[0][0])
