"""One run
=======

Decides properties one after the other on one machine: opens the journal and the kernel log, runs
each property's check, has the readings judged, and keeps the results. It knows nothing of pytest.
"""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from kvmtest.checks import check_of
from kvmtest.checks.context import Context, RunLog
from kvmtest.checks.preconditions import (
    PRECONDITIONS,
    answer,
    check_lab,
    lacking,
    witness_lacks,
)
from kvmtest.checks.reload import RELOADS, reload_for
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.evidence.model import Result
from kvmtest.host.earlier_warnings import EarlierWarnings, give_onces_back, read_taint
from kvmtest.host.journal import Change, Journal
from kvmtest.host.kernel_log import KernelLog, LogError, LogSlice
from kvmtest.host.machine import Machine
from kvmtest.host.tracing import RunProbe
from kvmtest.judge import Absence, Judgement, Reading, Verdict, judge, skip
from kvmtest.judge.requirements import Requirement, enforce
from kvmtest.known_defects import known_defect
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES, Property, find
from kvmtest.smi import choose

__all__ = ["Session", "requirement"]


def requirement(text: str) -> Requirement:
    """Return what ID, witness:NAME or feature:NAME makes compulsory; raises UsageError."""
    kind, colon, name = text.partition(":")
    if not colon:
        return Requirement(text, frozenset({find(text).id}))
    tables = {"witness": list(WITNESSES), "feature": list(PRECONDITIONS)}
    known = tables.get(kind)
    if known is None or name not in known:
        names = ", ".join(known or ("witness:NAME", "feature:NAME", "a property's id"))
        raise UsageError(f"--require {text}: it takes {names}")
    return Requirement(text, frozenset(p.id for p in PROPERTIES if name in _asks_for(p, kind)))


def _asks_for(prop: Property, kind: str) -> set[str]:
    if kind == "witness":
        return set(prop.witnesses)
    return {*prop.asks, *(need for w in prop.witnesses for need in WITNESSES[w].needs)}


@dataclass
class Session:
    """One run on ``machine``; with ``dry_run`` its journal lists changes and makes none.

    It does not begin beside other VMs, unless the user allows that of ``machine``. With
    ``reload_modules`` it loads the KVM module with other parameters for the properties that need
    them.
    """

    machine: Machine
    requirements: Sequence[Requirement] = ()
    dry_run: bool = False
    reload_modules: bool = False
    results: list[Result] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    changes: list[Change] = field(default_factory=list)
    undo_failures: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    log: LogSlice = field(default_factory=lambda: LogSlice((), 0))
    log_missing: Missing | None = None
    before: EarlierWarnings | None = None
    taint_after: int | Missing | None = None
    _context: Context | None = None

    def begin(self) -> Context:
        """Take the machine's lock, undo what a dead run left, and mark the kernel log.

        What warned once before gets its once back first, so that it would show in the log.

        Raises :class:`~kvmtest.errors.EnvironmentUnfit` where another run holds the machine, or
        other VMs run on it, and UsageError where the user named an SMI source that makes no sense.
        """
        if self._context is None:
            check_lab(self.machine.lab)
            if self.machine.smi_source is not None:
                choose(self.machine, self.machine.smi_source)
            journal = Journal.open(self.machine.tree, dry_run=self.dry_run)
            self.recovered = list(journal.recovered)
            try:
                if not self.machine.allow_other_vms:
                    self._stop_for_other_vms()
                probe = RunProbe(self.machine.tree, journal)
                self.before = give_onces_back(self.machine.tree, journal)
                self._context = Context(self.machine, journal, self._mark(), probe)
            except BaseException:
                journal.close()
                raise
        return self._context

    def _stop_for_other_vms(self) -> None:
        others = [user for user in self.machine.census.users if user.vms]
        if others:
            named = ", ".join(map(str, others))
            advice = "stop them, or use --allow-other-vms"
            raise EnvironmentUnfit(f"other VMs run here: {named}; {advice}")

    def _mark(self) -> RunLog | Missing:
        if self.dry_run:
            return Missing("a dry run does not mark the kernel log")
        log = KernelLog.open(self.machine.tree)
        if isinstance(log, Missing):
            return log
        try:
            return RunLog(log, log.mark(), self.before)
        except BaseException:
            log.close()
            raise

    def decide(self, prop: Property) -> Result:
        """Run the property's check, judge it, and keep and return the result."""
        context = self.begin()
        start = time.monotonic()
        readings: list[Reading] = []
        absences: list[Absence] = []
        missing: list[Missing] = []
        judgement, detail = Judgement(Verdict.ERROR, "interrupted"), ""
        defect = ""
        try:
            with context.journal.scope(), self._arranged(prop, context) as missing:
                judgement = (
                    skip(map(str, missing))
                    if missing
                    else self._observe(prop, context, readings, absences)
                )
            # Before a requirement makes a FAIL of what nobody decided.
            if judgement.verdict in (Verdict.PASS, Verdict.FAIL):
                defect = known_defect(prop.id, self.machine)
        except KvmtestError as error:
            judgement, detail = Judgement(Verdict.ERROR, str(error)), traceback.format_exc()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            judgement, detail = Judgement(Verdict.ERROR, reason), traceback.format_exc()
        finally:
            judgement = enforce(prop.id, judgement, self.requirements)
            result = Result(
                prop.id,
                judgement.verdict,
                judgement.reason,
                time.monotonic() - start,
                readings,
                absences,
                missing,
                detail,
                defect,
            )
            self.results.append(result)
        return result

    @contextmanager
    def _arranged(self, prop: Property, context: Context) -> Iterator[list[Missing]]:
        """Reload the KVM module for a property that lacks nothing else; give what is missing."""
        needed = [need for need in prop.needs if need in RELOADS] if self.reload_modules else []
        met_by_it = {answer(self.machine, need) for need in needed}
        missing = lacking(self.machine, prop)
        if not missing or not set(missing) <= met_by_it:
            yield missing
            return
        try:
            refusals = [reload_for(need, self.machine, context.journal) for need in needed]
            yield [each for each in refusals if each is not None] or lacking(self.machine, prop)
        finally:
            # Undone as the scope ends; what was looked up in between is no longer so.
            self.machine.forget_kvm()

    def _observe(
        self,
        prop: Property,
        context: Context,
        readings: list[Reading],
        absences: list[Absence],
    ) -> Judgement:
        for witness in prop.witnesses:
            absences += [Absence(witness, m) for m in witness_lacks(self.machine, witness)]
        # Closed before the journal's scope ends, whatever ends the check: its files and threads go.
        with closing(check_of(prop)(context)) as observations:
            for observation in observations:
                if isinstance(observation, Reading):
                    readings.append(observation)
                elif observation not in absences:
                    absences.append(observation)
        return judge(readings, absences)

    def end(self) -> None:
        """Read the rest of the kernel log and undo every host change; again is harmless."""
        if self._context is None:
            return
        context, self._context = self._context, None
        self.taint_after = read_taint(self.machine.tree)
        try:
            self._read_log(context.kernel_log)
        finally:
            context.probe.close()
            self.undo_failures = context.journal.close()
            self.changes = list(context.journal.changes)

    def _read_log(self, run: RunLog | Missing) -> None:
        if isinstance(run, Missing):
            self.log_missing = run
            return
        try:
            self.log = run.log.since_mark()
        except LogError as error:
            # Not worth the verdicts, which are known by now.
            self.log_missing = Missing(str(error))
        finally:
            run.log.close()
