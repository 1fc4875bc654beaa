"""Hosts over a shell
==================

A machine that a shell reaches: it boots kernels that are brought to it, runs jobs on them, and is
left with its own kernel and nothing of ours.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kvmtest.cache import Cache

from .boot import HostKernel, Power, Way
from .host import HostLost, KernelKind, PlannedKernel
from .packed_kernel import pack
from .remote import RemoteTarget
from .shell import Shell

__all__ = ["ShellHost"]

OnText = Callable[[str], None]

# A host with power that has been silent for so long is not asked to end its run any more.
_SILENCE_S = 120.0


@dataclass
class ShellHost:
    """A host (kvmtest.fleet.host.Host); ``ways`` of booting a kernel once are tried in this order.

    ``on_step`` gets a line before each step that takes seconds. ``power`` switches the host off and
    on where it does not answer.
    """

    name: str
    shell: Shell
    on_step: OnText
    power: Power | None = None
    ways: Sequence[Way] = tuple(Way)
    cache: Cache = field(default_factory=Cache.default)

    def boot(self, kernel: PlannedKernel, deadline: float) -> RemoteTarget:
        """Boot a kernel (kvmtest.fleet.host.Host)."""
        own = kernel.kind is KernelKind.OWN
        self._kernel.boot(None if own else pack(kernel, self.cache, self.on_step), deadline)
        return self._target

    def restore(self, deadline: float) -> None:
        """End the run, return to the host's own kernel, remove all (kvmtest.fleet.host.Host)."""
        until = time.monotonic() + deadline
        if self.power:
            try:
                self._target.restore(min(deadline, _SILENCE_S))
            except HostLost:
                # Switched off and on, it boots its own kernel; what outlasts that is undone below.
                self._kernel.restore(_rest(until))
        self._target.restore(_rest(until))
        self._kernel.restore(_rest(until))

    @cached_property
    def _kernel(self) -> HostKernel:
        return HostKernel(self.shell, self.on_step, self.power, self.ways)

    @cached_property
    def _target(self) -> RemoteTarget:
        return RemoteTarget(self.shell, self.on_step, self.cache)


def _rest(until: float) -> float:
    return max(0.0, until - time.monotonic())
