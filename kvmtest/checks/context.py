"""The context of a check
======================

What a check may use: the machine's facts, the journal for what it changes, the run's kernel log.
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
    """The kernel log from the run's beginning on, and what is known of warnings before it."""

    log: "KernelLog"
    marker: "Marker"
    before: "EarlierWarnings | None" = None


@dataclass(frozen=True, slots=True)
class Context:
    """Made once a run and handed to every check.

    What a check changes through the journal is undone when the check ends; the probe stays.
    """

    machine: Machine
    journal: "Journal"
    kernel_log: RunLog | Missing
    probe: "ProbePool"
    #: Who wants to know what a check is at.
    on_step: Callable[[str], None] = lambda _: None
    #: What one check found that later ones use too, by the name of who put it there.
    found: dict[str, Any] = field(default_factory=dict)


#: What was seen, or why a witness could not look, in the order of time.
Observations = Iterator[Reading | Absence]
#: A check yields readings as it takes them, so that those before a failure are kept.
Check = Callable[[Context], Generator[Reading | Absence, None, None]]
