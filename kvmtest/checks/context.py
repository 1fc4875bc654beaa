"""The context of a check
======================

The things that a check may use: the machine's facts, the journal, the run's kernel log and probe.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, Reading
from kvmtest.missing import Missing

if TYPE_CHECKING:  # doctor asks for preconditions alone, and is to be quick
    from kvmtest.host.changes.clear_warn_once import EarlierWarnings
    from kvmtest.host.changes.journal import Journal
    from kvmtest.host.changes.kprobes import ProbePool
    from kvmtest.host.observe.kernel_log import KernelLog, Marker

__all__ = ["Check", "Context", "Observations", "RunLog"]


@dataclass(frozen=True, slots=True)
class RunLog:
    """The kernel log since the run began, and the warnings before the run."""

    log: "KernelLog"
    marker: "Marker"
    before: "EarlierWarnings | None" = None


@dataclass(frozen=True, slots=True)
class Context:
    """Made once a run and handed to every check.

    Changes through the journal are undone when the check ends; the probe stays for the run.
    """

    machine: Machine
    journal: "Journal"
    kernel_log: RunLog | Missing
    probe: "ProbePool"
    #: Called with the step that a long check has reached.
    on_step: Callable[[str], None] = lambda _: None
    #: How many steps the longest schedules have that a check plays.
    schedule_steps: int = 2
    #: Findings of one check that later checks use, by the name of the module that keeps them.
    found: dict[str, Any] = field(default_factory=dict)


#: Readings, and absences of witnesses that could not look, in order of time.
Observations = Iterator[Reading | Absence]
#: A check yields readings as it takes them, so that a failure loses no earlier reading.
Check = Callable[[Context], Generator[Reading | Absence, None, None]]
