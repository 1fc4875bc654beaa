"""Spinning guests
===============

A guest that spins in guest mode, on a thread and a CPU of its own, while a check acts from outside.
Afterwards it takes commands again.
"""

import os
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from kvmtest.errors import KvmtestError
from kvmtest.kvm import Exit, Stopped
from kvmtest.workers import Supervisor

from .commands import nop, spin
from .guest import Guest

__all__ = ["Spinning"]

#: Where in the list of commands the one is that spins.
SPIN = 1
#: Upper bound on the time that a guest spins.
DEADLINE_S = 60.0
#: Upper bound on the time until it spins, in an emulated machine too.
BEGIN_S = 20.0


class Spinning:
    """A context manager in whose block a 64-bit guest spins on ``cpu``, in one KVM_RUN.

    Before the block the guest waits for commands. At its end the vCPU is stopped and the thread
    joined; each later entry goes on spinning until :meth:`release`. ``task`` is the thread's id,
    ``exit`` is None while the KVM_RUN lasts.
    """

    def __init__(self, guest: Guest, cpu: int) -> None:
        self.task = 0
        self.exit: Exit | None = None
        self.name = f"guest on CPU {cpu}"
        self._guest = guest
        self._cpu = cpu
        self._workers = Supervisor()
        self._stack = ExitStack()

    def run(self) -> None:
        """Run the vCPU; called in its thread."""
        self.task = threading.get_native_id()
        self.exit = self._guest.run(DEADLINE_S)

    def stop(self) -> None:
        """End the KVM_RUN."""
        self._guest.vcpu.stop()

    @property
    def is_running(self) -> bool:
        """Whether the KVM_RUN still lasts."""
        return self.exit is None and self._workers.failed is None

    def __enter__(self) -> Self:
        # The first command's result shows that the guest runs; the second never ends.
        self._guest.transport.send([nop(), spin()])
        with ExitStack() as stack:
            stack.callback(self._guest.vcpu.clear_stop)
            stack.enter_context(self._workers).start(self, self._cpu)
            self._await_begin()
            self._stack = stack.pop_all()
        return self

    def _await_begin(self) -> None:
        deadline = time.monotonic() + BEGIN_S
        while not self._guest.transport.has_begun(SPIN):
            if not self.is_running or time.monotonic() > deadline:
                why = self._workers.failed or self.exit or f"it did not begin in {BEGIN_S:g} s"
                raise KvmtestError(f"the {self._guest.image.name} guest does not spin: {why}")
            os.sched_yield()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is None and not isinstance(self.exit, Stopped):
            raise KvmtestError(f"the spinning guest came back with {self.exit}; try again")

    def release(self) -> None:
        """End the loop, and run the guest until it waits for commands. Sets its registers."""
        self._guest.vcpu.complete()  # a pending IN would move RIP at the next entry
        regs = self._guest.vcpu.get_regs()
        regs.rip = self._guest.image.symbols["ok"]
        self._guest.vcpu.set_regs(regs)
        self._guest.resume()
