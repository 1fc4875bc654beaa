"""Targets
=======

Where a run of kvmtest takes place when not in this process: a job goes in, an outcome comes out.
An emulated machine (:mod:`kvmtest.lab.target`) is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence

__all__ = ["DEADLINE", "Job", "Outcome", "Target", "TargetFailed", "TimeUp"]

#: Seconds that a job may take.
DEADLINE = 900.0

_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Job:
    """One run of ``kvmtest run`` on a target, and what the target does before it."""

    words: Sequence[str] = ()
    """The options of ``kvmtest run``, as its command line takes them."""

    modules: Path | None = None
    """A folder; its modules of KVM replace the kernel's own."""

    parameters: Sequence[str] = ()
    """Parameters that KVM's modules are loaded with, each ``MODULE.NAME=VALUE``."""

    commands: Sequence[Sequence[str]] = ()
    """Commands that run last before kvmtest; the job fails where one fails."""

    deadline: float = DEADLINE
    """Seconds that the target may take for it."""

    id: str = ""
    """Names the job where its target may outlive the process that asks for it.

    A target takes up a job that it has by that name, at work or ended, and starts no second one.
    """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job left behind."""

    exit_status: int
    """That of kvmtest there."""

    evidence: Evidence

    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files that it wrote to its output folder, by name; evidence.json is one."""

    console: str = ""
    """All that the target's kernel printed."""

    durations: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each step took, in order, from the target's making on."""


class TargetFailed(EnvironmentUnfit):
    """A target did not finish a job; ``console`` is all that it printed."""

    def __init__(self, what: str, console: str) -> None:
        self.console = console
        super().__init__(what)

    @property
    def tail(self) -> str:
        """The last lines of the console."""
        return "\n".join(self.console.strip().splitlines()[-_TAIL_LINES:])


class TimeUp(TargetFailed):
    """A target did not finish a job within the job's deadline."""


class Target(Protocol):
    """A machine that runs jobs, one at a time, each as if it were the first."""

    def run(self, job: Job) -> Outcome:
        """Run a job; return what came of it, whatever its verdicts.

        Raises UsageError and EnvironmentUnfit for a job that does not fit the target, before
        anything starts; TargetFailed where the target fails or sends no evidence.
        """
