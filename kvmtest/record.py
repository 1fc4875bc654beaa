"""The record of a run
===================

A run's results, its host changes and how their undoing ended. The evidence and the exit status are
made from this value.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from kvmtest import __version__
from kvmtest.evidence import (
    ChangeRecord,
    Evidence,
    JournalRecord,
    KernelLogRecord,
    Required,
    Result,
    RunRecord,
    WarningsRecord,
)
from kvmtest.evidence.coding import decode
from kvmtest.evidence.counting import bisect_status, run_status
from kvmtest.host.as_json import host_facts, kernel_facts, machine_facts, plain
from kvmtest.host.changes.clear_warn_once import EarlierWarnings
from kvmtest.host.changes.journal import Change
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import LogSlice
from kvmtest.missing import Missing
from kvmtest.run_options import RunOptions

__all__ = ["Record"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run that has ended.

    ``problems`` are failures other than verdicts and ``undo_failures``. ``recovered`` are the
    changes of a dead run that this run undid. ``log`` is the kernel log of the run, and ``before``
    the warnings before the run. Times are in seconds since the epoch. ``interrupted_by`` is the
    number of the signal that ended the run, or 0.
    """

    options: RunOptions
    machine: Machine
    results: Sequence[Result]
    required: Sequence[Required]
    problems: Sequence[str]
    undo_failures: Sequence[str]
    changes: Sequence[Change]
    recovered: Sequence[str]
    log: LogSlice | Missing
    before: EarlierWarnings | None
    taint_after: int | Missing | None
    started: float
    ended: float
    interrupted_by: int

    @property
    def status(self) -> int:
        """The exit status by verdicts and problems, as the evidence records it."""
        return run_status(
            self.results,
            [*self.problems, *self.undo_failures],
            strict=self.options.strict,
            dry_run=self.options.dry_run,
            signal=self.interrupted_by,
        )

    @property
    def exit_status(self) -> int:
        """The exit status of the process: ``status``, or its translation for git bisect run."""
        return bisect_status(self.status, self.required) if self.options.bisect else self.status

    @cached_property
    def evidence(self) -> Evidence:
        """The evidence, with the facts of the machine."""
        return Evidence(
            kvmtest=RunRecord(
                version=__version__,
                command=list(self.options.command),
                started=_utc(self.started),
                ended=_utc(self.ended),
                interrupted=bool(self.interrupted_by),
                strict=self.options.strict,
                problems=list(self.problems),
            ),
            machine=machine_facts(self.machine),
            host=host_facts(self.machine),
            kernel=replace(kernel_facts(self.machine), warnings=self._warnings()),
            journal=JournalRecord(
                changes=[decode(ChangeRecord, asdict(change)) for change in self.changes],
                failures=list(self.undo_failures),
                recovered=list(self.recovered),
            ),
            kernel_log=self._kernel_log(),
            results=list(self.results),
            exit_status=self.status,
            requirements=list(self.required),
        )

    def _kernel_log(self) -> KernelLogRecord:
        if isinstance(self.log, Missing):
            return KernelLogRecord(missing=str(self.log), records=0, lost=0)
        return KernelLogRecord(missing=None, records=len(self.log.records), lost=self.log.lost)

    def _warnings(self) -> WarningsRecord:
        before = self.before
        return WarningsRecord(
            taint_before=plain(before and before.taint),
            taint_after=plain(self.taint_after),
            once_not_given_back=plain(before and before.not_cleared),
        )


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
