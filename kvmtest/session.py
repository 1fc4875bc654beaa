"""One run
=======

Decides properties one after the other on one machine: opens the journal and the kernel log, runs
each property's check, has the readings judged, and keeps the results. It knows nothing of pytest.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from kvmtest.checks import check_of
from kvmtest.checks.context import Context, RunLog
from kvmtest.checks.demands import Demands, requirement
from kvmtest.checks.preconditions import answer, check_lab, lacking, witness_lacks
from kvmtest.checks.reload import RELOADS, reload_for
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.evidence.model import Required, Result
from kvmtest.host.changes.clear_warn_once import EarlierWarnings, clear_warn_once
from kvmtest.host.changes.journal import Change, Journal
from kvmtest.host.changes.kprobes import ProbePool
from kvmtest.host.facts.taint import read_taint
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog, LogError, LogSlice
from kvmtest.judge import Absence, Judgement, Reading, Verdict, judge, skip
from kvmtest.judge.requirements import Demand, Kind, Requirement, enforce, unmet
from kvmtest.known_defects import known_defect
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, Property
from kvmtest.smi import choose

__all__ = ["Session", "requirement"]


@dataclass
class Session:
    """One run on ``machine``; with ``dry_run`` its journal lists changes and makes none.

    It does not begin beside other VMs, unless the user allows that of ``machine``. With
    ``reload_modules`` it loads the KVM module with other parameters for the properties that need
    them. ``chosen`` are the properties that it is to decide. What ``requirements`` demand of them
    and is not met makes a FAIL where the session ``enforces``; it is known afterwards in any case.
    ``say`` is told what a check is at, where it takes long.
    """

    machine: Machine
    requirements: Sequence[Requirement] = ()
    dry_run: bool = False
    reload_modules: bool = False
    enforces: bool = True
    chosen: Sequence[Property] = PROPERTIES
    results: list[Result] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    changes: list[Change] = field(default_factory=list)
    undo_failures: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    log: LogSlice = field(default_factory=lambda: LogSlice((), 0))
    log_missing: Missing | None = None
    before: EarlierWarnings | None = None
    taint_after: int | Missing | None = None
    say: Callable[[str], None] = lambda _: None
    _context: Context | None = None
    _demands: Demands | None = None
    #: By requirement: the properties it made demands on, and why each is not met ("" where it is).
    _answers: dict[str, dict[str, str]] = field(default_factory=dict)

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
                probe = ProbePool(self.machine.tree, journal)
                self.before = clear_warn_once(self.machine.tree, journal)
                self._context = Context(
                    self.machine, journal, self._mark(), probe, say=lambda text: self.say(text)
                )
            except BaseException:
                journal.close()
                raise
        return self._context

    def _stop_for_other_vms(self) -> None:
        others = [user for user in self.machine.census.processes if user.vms]
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
            return RunLog(log, log.write_marker(), self.before)
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
        demands: list[Demand] = []
        judgement, detail = Judgement(Verdict.ERROR, "interrupted"), ""
        defect = ""
        try:
            with context.journal.scope(), self._arranged(prop, context) as missing:
                demands = self._demanded(prop)
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
            for demand in demands:
                why = unmet(demand, judgement, readings, absences)
                answers = self._answers.setdefault(demand.text, {})
                answers[prop.id] = why and (demand.lacks or f"{prop.id}: {why}")
            if self.enforces:
                decided = judgement
                judgement = enforce(decided, demands, readings, absences)
                # What is demanded and not met counts, whatever the kernel is known for.
                defect = defect if judgement is decided else ""
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
                demands if self.enforces else [],
            )
            self.results.append(result)
        return result

    def _demanded(self, prop: Property) -> list[Demand]:
        if self._demands is None:
            reloads = RELOADS if self.reload_modules else ()
            self._demands = Demands(self.machine, self.requirements, self.chosen, reloads)
        return self._demands.of(prop)

    def required(self) -> list[Required]:
        """Return what became of each requirement in what was decided so far."""
        return [self._became(each) for each in self.requirements]

    def _became(self, wanted: Requirement) -> Required:
        answers = self._answers.get(wanted.text, {})
        reasons = list(dict.fromkeys(why for why in answers.values() if why))
        if wanted.kind is Kind.PROPERTY and not answers:
            reasons = [f"{wanted.name} was not run"]
        elif not answers:
            reasons = ["no property that it concerns was run"]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return Required(wanted.text, not reasons, f"{reasons[0]}{more}" if reasons else "")

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
            # Undone as the scope ends: facts cached meanwhile are stale.
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
            self.log = run.log.since_marker()
        except LogError as error:
            # Not worth the verdicts, which are known by now.
            self.log_missing = Missing(str(error))
        finally:
            run.log.close()
