"""One run
=======

Decides properties one after another on one machine. A session opens the journal and the kernel log,
runs each property's check, judges the readings, and keeps the results. It knows nothing of pytest.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from kvmtest.checks import check_of
from kvmtest.checks.context import Context, RunLog
from kvmtest.checks.demands import Demands, asked_for, required_of
from kvmtest.checks.preconditions import answer, check_lab, lacking, witness_lacks
from kvmtest.checks.reload import RELOADS, reload_for
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.evidence.counting import unanswered
from kvmtest.evidence.model import Required, Result
from kvmtest.host.changes.clear_warn_once import EarlierWarnings, clear_warn_once
from kvmtest.host.changes.journal import Change, Journal
from kvmtest.host.changes.kprobes import ProbePool
from kvmtest.host.facts.taint import read_taint
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog, LogError, LogSlice
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Judgement, Reading, Verdict, judge, skip
from kvmtest.judge.requirements import Demand, Kind, Requirement, enforce, unmet
from kvmtest.known_defects import known_defect
from kvmtest.missing import Missing
from kvmtest.properties import Property
from kvmtest.record import Record
from kvmtest.run_options import RunOptions
from kvmtest.smi import choose

__all__ = ["Session"]


class Session:
    """One run of the properties ``chosen``: begin, decide each of them, end.

    Without ``chosen``, the ``options`` choose the properties. ``on_step`` is called with the step
    that a long check has reached. A dry run's journal lists changes and makes none. An unmet
    requirement makes a FAIL of its property, except under ``options.bisect``; the record keeps it
    in either case.

    Raises UsageError for options that name nothing.
    """

    def __init__(
        self,
        options: RunOptions,
        chosen: Sequence[Property] | None = None,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        if chosen is None:
            chosen, requirements = asked_for(options.only, options.marker, options.require)
        else:
            requirements = required_of(chosen, options.require)
        self.options = options
        self.chosen = chosen
        self.machine = Machine(
            Tree(options.root), options.smi_source, options.allow_other_vms, options.hotplug
        )
        self._requirements = requirements
        # For git bisect, an unmet requirement does not make a commit bad.
        self._enforces = not options.bisect
        reloads = RELOADS if options.reload_modules else ()
        self._demands = Demands(self.machine, requirements, chosen, reloads)
        #: By requirement: the properties it made demands on, and why each is not met, or "".
        self._answers: dict[str, dict[str, str]] = {}
        self._on_step = on_step
        self._started = time.time()
        self._recovered: list[str] = []
        self._results: list[Result] = []
        self._context: Context | None = None
        self._before: EarlierWarnings | None = None

    def begin(self) -> Context:
        """Take the machine's lock, undo what a dead run left, and mark the kernel log.

        WARNs that fire once a boot are re-armed first, so that they would show in the log again.

        Raises :class:`~kvmtest.errors.EnvironmentUnfit` if another run holds the machine or other
        VMs run on it, and UsageError if the user named an invalid SMI source.
        """
        if self._context is None:
            check_lab(self.machine.lab)
            if self.machine.smi_source is not None:
                choose(self.machine, self.machine.smi_source)
            journal = Journal.open(self.machine.tree, dry_run=self.options.dry_run)
            self._recovered = list(journal.recovered)
            try:
                if not self.machine.allow_other_vms:
                    self._stop_for_other_vms()
                probe = ProbePool(self.machine.tree, journal)
                self._before = clear_warn_once(self.machine.tree, journal)
                self._context = Context(
                    self.machine,
                    journal,
                    self._mark(),
                    probe,
                    on_step=self._on_step,
                    schedule_steps=self.options.schedule_steps,
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
        if self.options.dry_run:
            return Missing("a dry run does not mark the kernel log")
        log = KernelLog.open(self.machine.tree)
        if isinstance(log, Missing):
            return log
        try:
            return RunLog(log, log.write_marker(), self._before)
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
                demands = self._demands.of(prop)
                judgement = (
                    skip(map(str, missing))
                    if missing
                    else self._observe(prop, context, readings, absences)
                )
            # Asked before enforce(), which makes a FAIL of an undecided property.
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
            if self._enforces:
                decided = judgement
                judgement = enforce(decided, demands, readings, absences)
                # An unmet demand counts even where the kernel has a known defect.
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
                demands if self._enforces else [],
            )
            self._results.append(result)
        return result

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
        """Yield what the property lacks, after a reload of KVM if that alone is missing."""
        needed = (
            [need for need in prop.needs if need in RELOADS] if self.options.reload_modules else []
        )
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
        # The check's files and threads must be gone before the journal's scope undoes its changes.
        with closing(check_of(prop)(context)) as observations:
            for observation in observations:
                if isinstance(observation, Reading):
                    readings.append(observation)
                elif observation not in absences:
                    absences.append(observation)
        return judge(readings, absences)

    def end(self, problems: Sequence[str] = (), interrupted_by: int = 0) -> Record:
        """Read the rest of the kernel log, undo every host change, and return the run's record.

        ``problems`` are failures other than verdicts. ``interrupted_by`` is the number of the
        signal that ended the run, or 0.
        """
        log: LogSlice | Missing = LogSlice((), 0)
        changes: list[Change] = []
        undo_failures: list[str] = []
        taint = None
        context, self._context = self._context, None
        if context is not None:
            taint = read_taint(self.machine.tree)
            try:
                log = _rest_of_log(context.kernel_log)
            finally:
                context.probe.close()
                undo_failures = context.journal.close()
                changes = list(context.journal.changes)
        required = [self._became(each) for each in self._requirements]
        problems = list(problems)
        if self.options.dry_run:
            errors = (r for r in self._results if r.verdict is Verdict.ERROR)
            problems += [f"{result.id}: {result.reason}" for result in errors]
        elif not interrupted_by:
            problems += unanswered(required, self._requirements, self._results)
        return Record(
            options=self.options,
            machine=self.machine,
            results=self._results,
            required=required,
            problems=problems,
            undo_failures=undo_failures,
            changes=changes,
            recovered=self._recovered,
            log=log,
            before=self._before,
            taint_after=taint,
            started=self._started,
            ended=time.time(),
            interrupted_by=interrupted_by,
        )


def _rest_of_log(run: RunLog | Missing) -> LogSlice | Missing:
    if isinstance(run, Missing):
        return run
    try:
        return run.log.since_marker()
    except LogError as error:
        # The verdicts are known by now; an unreadable log must not lose them.
        return Missing(str(error))
    finally:
        run.log.close()
