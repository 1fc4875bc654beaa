"""pytest plugin
=============

The second front end of a run. One :class:`~kvmtest.session.Session` decides the suite's properties,
and verdicts become pytest's outcomes: FAIL and ERROR fail, a known defect is an expected failure,
and SKIP, INCONCLUSIVE and MEASURED skip with their reason. Evidence and exit status equal those of
``kvmtest run``.
"""

import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from kvmtest.errors import KvmtestError
from kvmtest.properties import MARKERS, Property, select
from kvmtest.run_options import RunOptions, options

if TYPE_CHECKING:
    from kvmtest.evidence import Evidence, Required, Result
    from kvmtest.fleet.labgrid.measurement import Measurement
    from kvmtest.record import Record
    from kvmtest.session import Session

__all__ = ["Decide"]

Decide = Callable[[Property], None]

#: The prefix of every option, so that none clashes with another plugin's.
PREFIX = "kvmtest_"


class Run:
    """The plugin of one run: decides properties, and collects pytest's own failures as problems.

    It ends the run when pytest's session ends, and does nothing if no property is decided.
    """

    def __init__(self, wanted: RunOptions) -> None:
        self.options = wanted
        self.session: Session | None = None
        self.measurement: Measurement | None = None
        self._evidence: Evidence | None = None
        self._record: Record | None = None
        self._output: Path | None = None
        self._problems: list[str] = []
        self._interrupted_by = 0

    def begin(self, chosen: list[Property]) -> None:
        """Begin the session that decides the ``chosen`` properties."""
        from kvmtest.run_folder import folder_of
        from kvmtest.session import Session

        session = Session(self.options, chosen)
        try:
            session.begin()
            self._output = folder_of(self.options)
        except BaseException:
            session.end()
            raise
        self.session = session

    def begin_on_target(self, strategy: object, chosen: list[Property]) -> None:
        """Have the ``chosen`` properties decided on a labgrid target. Raises UsageError."""
        from kvmtest.fleet.labgrid.measurement import Measurement
        from kvmtest.run_folder import folder_of

        self.measurement = Measurement(strategy, self.options, chosen)
        self._output = folder_of(self.options)

    def decide(self, prop: Property) -> "Result":
        """Return the property's result; raises KeyboardInterrupt after a signal."""
        from kvmtest.interruption import Interruption

        if self.measurement is not None:
            return self.measurement.decide(prop)
        assert self.session is not None
        with Interruption() as interruption:
            interruption.arm()
            try:
                result = self.session.decide(prop)
            finally:
                interruption.defer()
                self._interrupted_by = interruption.signal
        if interruption.signal:
            raise KeyboardInterrupt
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a failure that is not a verdict."""
        has_verdict = "verdict" in dict(report.user_properties)
        if report.failed and not (report.when == "call" and has_verdict):
            self._problems.append(f"{report.nodeid}: {report.when} failed: {_last_line(report)}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep a failure to collect tests."""
        if report.failed:
            self._problems.append(f"{report.nodeid}: not collected: {_last_line(report)}")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Undo host changes, write the run's files, and set the run's exit status."""
        if self.measurement is not None:
            session.exitstatus = self._end_on_target(self.measurement)
        if self.session is None:
            return
        from kvmtest.run_folder import written

        if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
            self._problems.append("pytest broke; see its message")
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self._interrupted_by = self._interrupted_by or signal.SIGINT
        self._record = written(self.session.end(self._problems, self._interrupted_by), self._output)
        session.exitstatus = self._record.exit_status

    def _end_on_target(self, measurement: "Measurement") -> int:
        """Write the run's files; return the exit status of the run and of pytest's own failures."""
        from kvmtest.evidence import save
        from kvmtest.evidence.file import EVIDENCE
        from kvmtest.run_folder import write_reports

        try:
            self._evidence = measurement.outcome.evidence
            if self._output:
                save(self._evidence, self._output / EVIDENCE)
                (self._output / "kernel.log").write_bytes(measurement.outcome.files["kernel.log"])
                write_reports(self._evidence, self._output)
        except KvmtestError as error:
            self._problems.append(str(error))
        failed = KvmtestError.exit_status if self._problems else 0
        return (self._evidence.exit_status if self._evidence else 0) or failed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the verdicts under pytest's own report."""
        if self._record is not None:
            _summarize(terminalreporter, self._record)
        if self._evidence is not None:
            evidence = self._evidence
            _write_results(terminalreporter, evidence.results, evidence.requirements or ())
        if self.measurement is not None:
            for line in self._problems:
                terminalreporter.write_line(f"kvmtest: {line}", red=True)


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    lines = [line for line in report.longreprtext.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _summarize(reporter: pytest.TerminalReporter, record: "Record") -> None:
    changes = record.changes if record.options.dry_run else ()
    told = [f"would {change.sentence}" for change in changes]
    _write_results(reporter, record.results, record.required, told)
    for line in record.recovered:
        reporter.write_line(f"undone for a dead run: {line}")
    for line in [*record.problems, *record.undo_failures]:
        reporter.write_line(f"kvmtest: {line}", red=True)


def _write_results(
    reporter: pytest.TerminalReporter,
    results: "Iterable[Result]",
    requirements: "Iterable[Required]",
    told: Iterable[str] = (),
) -> None:
    """Write the verdicts, the lines ``told``, and the requirements that are not met."""
    from kvmtest.report.telling import would_be_seen

    reporter.section("verdicts")
    for result in results:
        seen = would_be_seen(result)
        reason = f"{result.reason}; {seen}" if seen else result.reason
        reporter.write_line(f"{result.verdict:<12} {result.id}: {reason}")
    for line in told:
        reporter.write_line(line)
    for required in requirements:
        if not required.met:
            line = f"--kvmtest-require {required.text} is not met: {required.reason}"
            reporter.write_line(line, red=True)


RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``kvmtest run``."""
    group = parser.getgroup("kvmtest", "kvmtest: as kvmtest run has them")
    for each in options():
        if each.in_pytest:
            name = f"{PREFIX}{each.name}"
            group.addoption(f"--{name.replace('_', '-')}", dest=name, **each.keywords)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and check the options."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    wanted = RunOptions.of(config.option, PREFIX)
    try:
        select(list(wanted.only))
    except KvmtestError as error:
        _refuse(error, wanted)
    command = ("pytest", *map(str, config.invocation_params.args))
    run = config.stash[RUN] = Run(replace(wanted, command=command))
    config.pluginmanager.register(run, "kvmtest-run")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Guard a run on labgrid targets that kvmtest boots kernels on."""
    environment = _labgrid_environment(session.config)
    if environment is not None:
        from kvmtest.fleet.labgrid.guard import Guard, is_ours

        if is_ours(environment):
            session.config.pluginmanager.register(Guard(environment), "kvmtest-labgrid")


def _labgrid_environment(config: pytest.Config) -> object:
    """Return what labgrid's plugin was given by ``--lg-env`` or LG_ENV; None without either."""
    hooks = sys.modules.get("labgrid.pytestplugin.hooks")
    return config.stash.get(hooks.LABGRID_ENV_KEY, None) if hooks else None


def _refuse(error: KvmtestError, wanted: RunOptions) -> NoReturn:
    """End pytest with the exit status that kvmtest gives the error."""
    from kvmtest.evidence.counting import BISECT_SKIP

    pytest.exit(str(error), returncode=BISECT_SKIP if wanted.bisect else error.exit_status)


def _property_of(item: pytest.Item) -> Property | None:
    callspec = getattr(item, "callspec", None)
    prop = callspec.params.get("prop") if callspec else None
    return prop if isinstance(prop, Property) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--kvmtest-only`` does not name."""
    only = config.stash[RUN].options.only
    if not only:
        return
    kept = [i for i in items if (prop := _property_of(i)) is None or prop.id in only]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(scope="session")
def kvmtest_run(request: pytest.FixtureRequest) -> Run:
    """The run, already begun; pytest's session end ends it."""
    run = request.config.stash[RUN]
    chosen = [prop for item in request.session.items if (prop := _property_of(item))]
    try:
        if _labgrid_environment(request.config) is None:
            run.begin(chosen)
        else:
            run.begin_on_target(request.getfixturevalue("strategy"), chosen)
    except KvmtestError as error:
        _refuse(error, run.options)
    return run


@pytest.fixture
def decide(request: pytest.FixtureRequest, kvmtest_run: Run) -> Decide:
    """Decide a property; the test's outcome follows the verdict."""
    from kvmtest.evidence.counting import fails, is_excused
    from kvmtest.findings import reference
    from kvmtest.judge import Verdict

    strict = kvmtest_run.options.strict

    def decide(prop: Property) -> None:
        result = kvmtest_run.decide(prop)
        request.node.user_properties += [
            ("verdict", result.verdict.value),
            ("reason", result.reason),
        ]
        if result.verdict is Verdict.PASS:
            return
        message = f"{result.verdict}: {result.reason}"
        if is_excused(result, strict=strict):
            known = f"known defect, {reference(result.known_defect)}: {message}"
            raise pytest.xfail.Exception(known, pytrace=False)
        if fails(result, strict=strict):
            pytest.fail("\n".join([message, result.detail]).strip(), pytrace=False)
        pytest.skip(message)

    return decide
