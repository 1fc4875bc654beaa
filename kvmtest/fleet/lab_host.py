"""Lab machines as hosts
=====================

A host that is emulated here: each kernel boots in a machine of its own, and nothing is left of it.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.lab.target import LabOptions, LabTarget
from kvmtest.target import Job, Outcome

from .host import KernelKind, PlannedKernel
from .plan import LabMachine

__all__ = ["LabHost", "opened"]

OnText = Callable[[str], None]


@contextmanager
def opened(name: str, machine: LabMachine, show: OnText, *, once: bool) -> Iterator["LabHost"]:
    """Give the host. With ``once`` no machine is saved, as each kernel runs one job alone."""
    options = LabOptions(
        machine.machine, cpus=machine.cpus, cpu_features=machine.cpu_features, cold=once
    )
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        # An image of 100 MB serves one run alone.
        images = Cache(Path(folder)) if once else None
        yield LabHost(name, options, machine.parameters, show, images)


@dataclass
class LabHost:
    """A lab machine (kvmtest.fleet.host.Host); ``images`` is a cache for its images alone."""

    name: str
    options: LabOptions
    parameters: Sequence[str]
    show: OnText
    images: Cache | None = None
    target: LabTarget | None = None
    """The machine with the kernel that was booted last."""

    def boot(self, kernel: PlannedKernel, deadline: float) -> "LabHostTarget":
        """Find a kernel and an emulator; each job boots."""
        options = replace(self.options, kernel=_wanted(kernel))
        target = LabTarget.of(options, self.show, self.show)
        if self.images:
            target = LabTarget(replace(target.machine, cache=self.images))
        self.target = target
        return LabHostTarget(target, self.parameters)

    def restore(self, deadline: float) -> None:
        """Do nothing: a machine is gone with its job."""


@dataclass(frozen=True, slots=True)
class LabHostTarget:
    """A lab's machine whose jobs load KVM's modules with the host's parameters."""

    target: LabTarget
    parameters: Sequence[str]

    def run(self, job: Job) -> Outcome:
        """Run a job (kvmtest.target.Target)."""
        return self.target.run(replace(job, parameters=[*self.parameters, *job.parameters]))


def _wanted(kernel: PlannedKernel) -> Sequence[str] | None:
    """Return a kernel as kvmtest.kernels.resolve takes it."""
    if kernel.kind is KernelKind.OWN:
        return None
    return [kernel.version] if kernel.kind is KernelKind.DEBIAN else list(map(str, kernel.paths))
