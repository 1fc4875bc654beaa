"""Hosts over a shell
==================

A machine that a shell reaches: it boots kernels that are brought to it, runs jobs on them, and is
left with its own kernel and nothing of ours.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from kvmtest.cache import Cache
from kvmtest.errors import printable
from kvmtest.target import Job, Outcome

from .boot import HostKernel, Power, Running, Way
from .host import HostLost, KernelKind, PlannedKernel, WrongKernel
from .packed_kernel import pack
from .remote import RemoteTarget
from .shell import ConnectionLost, Shell, TooSlow, patiently, seconds_left

__all__ = ["BootedHost", "ShellHost"]

OnText = Callable[[str], None]

_FOLDER = "/var/lib/kvmtest"
_OWNER = f"{_FOLDER}/fleet-owner"
# Words: who asks. A link can't replace a file, so the first one to come stays.
# A shell's own printf calls a full disk an I/O error.
_CLAIM = f"""
mkdir -p {_FOLDER} && env printf %s "$1" >{_OWNER}.$$ || {{ rm -f {_OWNER}.$$; exit 1; }}
ln {_OWNER}.$$ {_OWNER} 2>/dev/null
rm {_OWNER}.$$
cat {_OWNER}
"""
_WHOSE = f"cat {_OWNER} 2>/dev/null; :"
# A host with power that answered, and then not for so long, is not asked to end its run any more.
_SILENCE_S = 120.0
# Of what a host calls its kernel this much goes into a message.
_TOLD = 80


@dataclass
class ShellHost:
    """A host (kvmtest.fleet.host.Host); ``first`` is the way of booting a kernel to try first.

    ``on_step`` gets a line before each step that takes seconds. ``power`` switches the host off and
    on where it does not answer. ``owner`` names who has the host, the same after a kill: another
    one is refused until the host was restored. "": somebody else sees to that.
    """

    name: str
    shell: Shell
    on_step: OnText
    power: Power | None = None
    first: Way = Way.GRUB
    owner: str = ""
    cache: Cache = field(default_factory=Cache.default)

    def boot(self, kernel: PlannedKernel, deadline: float) -> "BootedHost":
        """Boot a kernel (kvmtest.fleet.host.Host)."""
        until = time.monotonic() + deadline
        packed = None
        if kernel.kind is not KernelKind.OWN:
            packed = pack(kernel, self.cache, self.on_step)
        self._claim(until)
        return BootedHost(self._target, self._kernel.boot(packed, seconds_left(until)))

    def restore(self, deadline: float) -> None:
        """End the run, return to the host's own kernel, remove all (kvmtest.fleet.host.Host)."""
        until = time.monotonic() + deadline
        if self.power:
            self._kernel.wake(deadline)
        try:
            left = seconds_left(until)
            is_ours = self._cleared(min(left, _SILENCE_S) if self.power else left)
        except HostLost:
            if not self.power:
                raise
            # Switched off and on, it boots its own kernel; what outlasts that is undone now.
            self._kernel.restore(seconds_left(until))
            is_ours = self._cleared(seconds_left(until))
        if is_ours:
            self._kernel.restore(seconds_left(until))
            self._release(until)

    def _cleared(self, deadline: float) -> bool:
        """End the run, and remove what was brought for it; tell whether the host is ours."""
        until = time.monotonic() + deadline
        if self._is_anothers(until):
            return False
        self._target.restore(seconds_left(until))
        return True

    def _claim(self, until: float) -> None:
        """Have the host; raises HostLost where another owner has it."""
        if self.owner:
            whose = self._asked("have it", until, "sh", "-c", _CLAIM, "sh", self.owner)
            if whose != self.owner:
                raise HostLost(
                    f"{self.name}: another fleet has it; wait for its end, and resume; if it has "
                    f"none, restore the host and remove {_OWNER} there",
                    "",
                )

    def _is_anothers(self, until: float) -> bool:
        if not self.owner:
            return False
        return self._asked("see who has it", until, "sh", "-c", _WHOSE) not in ("", self.owner)

    def _release(self, until: float) -> None:
        if self.owner:
            self._asked("give it back", until, "rm", "-f", _OWNER)

    def _asked(self, to: str, until: float, *words: str) -> str:
        """Return what a command says; raises HostLost where the host does not answer."""
        try:
            return patiently(self.shell, words, until).must(f"{self.name}: can't {to}").text
        except (ConnectionLost, TooSlow) as error:
            raise HostLost(str(error), "") from None

    @cached_property
    def _kernel(self) -> HostKernel:
        return HostKernel(self.shell, self.on_step, self.power, self.first)

    @cached_property
    def _target(self) -> RemoteTarget:
        return RemoteTarget(self.shell, self.on_step, self.cache)


@dataclass(frozen=True, slots=True)
class BootedHost:
    """A host, and the kernel that it was seen to run (kvmtest.target.Target)."""

    target: RemoteTarget
    running: Running

    def run(self, job: Job) -> Outcome:
        """Run a job; raises WrongKernel where the host had rebooted into another kernel by then."""
        outcome = self.target.run(job)
        kernel = outcome.evidence.kernel
        if not self.running.is_named(kernel.release, kernel.version_string):
            found = printable(kernel.release or "an unknown kernel")[:_TOLD]
            raise WrongKernel(
                f"{self.target.shell.name}: its run was made on {found}, and "
                f"{self.running.release} was booted: it rebooted in between; see its console",
                outcome.console,
            )
        return outcome
