"""A soak
======

any.soak: random steps create, end, move, stop and start many vCPUs, at times two at once. On Intel,
the knob is toggled between steps, and at rest each vCPU's VMCS must have the host's bit. On AMD,
the host owns no bit, and no entry may be told to load one.
"""

import os
import random
import secrets
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field

from kvmtest.checks.affinity import only_on
from kvmtest.checks.context import Context, Observations
from kvmtest.checks.scene import Scene
from kvmtest.checks.witnesses import owned_mask
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.guests import Guest, Spinning, commands
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.judge import Reading, control, measure

__all__ = ["GuestPool", "soak"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many steps a soak has, and at most how many spins, guests, and exits in one step."""

    steps: int
    spins: int
    guests: int
    exits: int


# In the lab's Intel machine a dump takes 30 ms and a new guest 20; one that spins waits for ticks.
VMX = Limits(steps=25, spins=2, guests=4, exits=2)
SVM = Limits(steps=40, spins=40, guests=6, exits=20)
#: The share of the steps on Intel that are toggles.
TOGGLES = 1 / 3


@dataclass
class GuestPool:
    """The guests, each with the stack that ends it, and a count of the steps by name.

    ``bit`` is the host's bit, which changes between steps; ``seen`` has its value at each guest's
    last entry. ``entries`` counts KVM_RUNs of this thread.
    """

    scene: Scene
    choose: random.Random
    cpus: list[int]
    limits: Limits
    bit: int = 0
    guests: list[tuple[Guest, ExitStack]] = field(default_factory=list)
    seen: dict[Guest, int] = field(default_factory=dict)
    entries: int = 0
    done: dict[str, int] = field(default_factory=dict)

    def step(self) -> None:
        """Perform one random step; raises whatever the guest's step raises."""
        there, spins = len(self.guests), self.done.get("spin", 0)
        able = ["run"] * 4 + ["spin"] * (spins < self.limits.spins)
        able += ["make"] * (there < self.limits.guests) + ["end"] * (there > 2)
        name = self.choose.choice(able) if there > 1 else "make"
        {"run": self._run, "spin": self._spin, "make": self.make, "end": self._end}[name]()
        self.count(name)

    def count(self, name: str) -> None:
        """Count one step of that name."""
        self.done[name] = self.done.get(name, 0) + 1

    def make(self) -> None:
        """Make a guest, and run it on a random CPU."""
        with ExitStack() as stack:
            guest = stack.enter_context(self.scene.guest())
            self._enter(guest, self.choose.choice(self.cpus))
            self.guests.append((guest, stack.pop_all()))

    def _end(self) -> None:
        guest, stack = self.guests.pop(self.choose.randrange(len(self.guests)))
        del self.seen[guest]
        stack.close()

    def _run(self) -> None:
        guest, _ = self.choose.choice(self.guests)
        self._enter(guest, self.choose.choice(self.cpus))

    def _enter(self, guest: Guest, cpu: int) -> None:
        before = guest.vcpu.entries
        with only_on(cpu):
            self.scene.run(guest)
            guest.ring(self.limits.exits)
        self.entries += guest.vcpu.entries - before
        self.seen[guest] = self.bit

    def _spin(self) -> None:
        """Spin one guest on a CPU while another guest runs on a second CPU; then stop the spin.

        Only one guest spins: with two CPUs, a second one would leave this thread none.
        """
        (spinner, _), (other, _) = self.choose.sample(self.guests, 2)
        several = len(self.cpus) > 1
        there, here = self.choose.sample(self.cpus, 2) if several else self.cpus * 2
        with only_on(here), Spinning(spinner, there) as spinning:
            self._enter(other, here)
        spinning.release()
        self.seen[spinner] = self.bit

    def answering(self) -> int:
        """Return how many guests still execute commands; their last entries are counted."""
        answers = 0
        for guest, _ in self.guests:
            before = guest.vcpu.entries
            (result,) = guest.execute(commands.nop())
            answers += result.fault is None
            self.entries += guest.vcpu.entries - before
        return answers

    def close(self) -> None:
        """End all guests."""
        for _, stack in self.guests:
            stack.close()


def soak(context: Context) -> Observations:
    """Perform random steps on guests, and look with the witnesses of this vendor's KVM."""
    module = context.machine.kvm_module
    is_svm = isinstance(module, KvmModule) and module.name == "kvm_amd"
    yield from (_svm if is_svm else _vmx)(context)


def _vmx(context: Context) -> Observations:
    """Toggle the knob between steps; then look at each vCPU's next entry, with both values."""
    with Scene(context, "vmcs", "runflags") as scene, ExitStack() as stack:
        yield from scene.begin()
        if not scene.looking:
            return
        pool = yield from _pool(scene, stack, VMX)
        # From 1 on, a stale bit in a VMCS differs from one that was never loaded.
        pool.bit = 1
        yield from scene.set_knob(pool.bit)
        for _ in range(VMX.steps):
            if pool.choose.random() < TOGGLES:
                yield from _toggle(scene, pool)
            else:
                pool.step()
        if runflags := scene.witness(RunFlagsWitness):
            runflags.collect(pool.entries)
        # First without a toggle, which could hide that an earlier one was lost.
        yield from _at_rest(scene, pool)
        yield from _toggle(scene, pool)
        yield from _at_rest(scene, pool)
        yield from _done(scene, pool)
        yield from scene.end(pool.guests[0][0])


def _toggle(scene: Scene, pool: GuestPool) -> Observations:
    pool.bit = 1 - pool.bit
    pool.count("toggle")
    yield from scene.set_knob(pool.bit)


def _at_rest(scene: Scene, pool: GuestPool) -> Observations:
    """Look at the next entry of each guest, on a random CPU."""
    for number, (guest, _) in enumerate(pool.guests, 1):
        state = f"of guest {number} at rest with freeze_on_smi={pool.bit}"
        flagged = 1 if pool.seen[guest] != pool.bit else None
        with only_on(pool.choose.choice(pool.cpus)):
            yield from scene.look(guest, state, pool.bit, flagged=flagged)
        pool.seen[guest] = pool.bit


def _svm(context: Context) -> Observations:
    """Claim that no entry of this thread is told to load a bit, and that KVM owns none."""
    with Scene(context, "runflags") as scene, ExitStack() as stack:
        yield from scene.begin()
        runflags = scene.witness(RunFlagsWitness)
        if runflags is None:
            return
        pool = yield from _pool(scene, stack, SVM)
        for _ in range(SVM.steps):
            pool.step()
        yield from _done(scene, pool)
        state = f"while {SVM.steps} random steps were done"
        yield from owned_mask.look(runflags, pool.entries, state)
        yield from scene.end(pool.guests[0][0])


def _pool(scene: Scene, stack: ExitStack, limits: Limits) -> Generator[Reading, None, GuestPool]:
    """Record the seed first, and return an empty pool, which ``stack`` closes."""
    seed = secrets.randbits(32)
    yield measure(scene.looking[0], "the seed of what was done", seed)
    pool = GuestPool(scene, random.Random(seed), sorted(os.sched_getaffinity(0)), limits)
    stack.callback(pool.close)
    return pool


def _done(scene: Scene, pool: GuestPool) -> Observations:
    """Show that every guest still executes commands, and record the steps by name."""
    there, answers = len(pool.guests), pool.answering()
    what = f"guests that execute commands after {pool.limits.steps} steps, of {there}"
    for witness in scene.looking:
        yield control(witness, what, answers, there, "look at the kernel log")
    did = ", ".join(f"{name} {count}" for name, count in sorted(pool.done.items()))
    yield measure(scene.looking[0], "what was done how often", did)
