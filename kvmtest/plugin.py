"""pytest plugin
=============

Runs the suite's properties in a :class:`~kvmtest.session.Session` and turns verdicts into pytest's
outcomes: FAIL and ERROR fail, a known defect is an expected failure; SKIP, INCONCLUSIVE and
MEASURED skip with their reason.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from kvmtest.errors import KvmtestError
from kvmtest.properties import MARKERS, Property, select

if TYPE_CHECKING:
    from kvmtest.session import Session

__all__ = ["Decide", "Driver"]

Decide = Callable[[Property], None]


class Driver:
    """What ``kvmtest run`` hands to pytest: the session, and who wants to know of progress."""

    def __init__(self, session: "Session", progress: Callable[[Property, int, int], None]) -> None:
        self.session = session
        self.progress = progress
        self.count = 0
        self.problems: list[str] = []

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Tell which property is next."""
        prop = _property_of(item)
        if prop is not None:
            self.count += 1
            self.progress(prop, self.count, item.session.testscollected)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a failure that is not a verdict."""
        if report.failed and report.when != "call":
            self.problems.append(f"{report.nodeid}: {report.when} failed: {_last_line(report)}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep a failure to collect the suite."""
        if report.failed:
            self.problems.append(f"{report.nodeid}: not collected: {_last_line(report)}")


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    lines = [line for line in report.longreprtext.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


SESSION = pytest.StashKey["Session"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what plain pytest shares with ``kvmtest run``."""
    group = parser.getgroup("kvmtest")
    group.addoption("--only", action="append", default=[], metavar="ID",
                    help="decide this property alone (may be given again)")  # fmt: skip
    group.addoption("--require", action="append", default=[], metavar="X",
                    help="FAIL unless ID is decided, witness:NAME spoke, "
                    "feature:NAME is met")  # fmt: skip
    group.addoption("--allow-other-vms", action="store_true", help="run beside other VMs")
    group.addoption("--reload-modules", action="store_true",
                    help="reload the KVM module for properties that need it")  # fmt: skip
    group.addoption("--smi-source", metavar="NAME", help="what raises SMIs (kvmtest smi probe)")
    group.addoption("--strict-defects", action="store_true", help="count known defects as FAIL")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and check the options."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    try:
        select(config.getoption("--only"))
    except KvmtestError as error:
        raise pytest.UsageError(str(error)) from None


def _property_of(item: pytest.Item) -> Property | None:
    callspec = getattr(item, "callspec", None)
    prop = callspec.params.get("prop") if callspec else None
    return prop if isinstance(prop, Property) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--only`` does not name."""
    only = config.getoption("--only")
    if not only:
        return
    kept = [i for i in items if (prop := _property_of(i)) is None or prop.id in only]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _chosen(request: pytest.FixtureRequest) -> list[Property]:
    """Return the properties that this run is to decide."""
    return [prop for item in request.session.items if (prop := _property_of(item))]


@pytest.fixture(scope="session")
def kvmtest_session(request: pytest.FixtureRequest) -> Iterator["Session"]:
    """One run: that of ``kvmtest run``, or an own one under plain pytest."""
    driver = request.config.pluginmanager.get_plugin("kvmtest-driver")
    if isinstance(driver, Driver):
        request.config.stash[SESSION] = driver.session
        driver.session.chosen = _chosen(request)
        yield driver.session  # which begins and ends it
        return
    from kvmtest.host.machine import Machine
    from kvmtest.host.tree import Tree
    from kvmtest.session import Session, requirement

    try:
        requirements = [requirement(text) for text in request.config.getoption("--require")]
        allow = request.config.getoption("--allow-other-vms")
        reload_modules = request.config.getoption("--reload-modules")
        smi_source = request.config.getoption("--smi-source")
        session = Session(
            Machine(Tree(), smi_source, allow),
            requirements,
            reload_modules=reload_modules,
            chosen=_chosen(request),
        )
        request.config.stash[SESSION] = session
        session.begin()
    except KvmtestError as error:
        pytest.exit(str(error), returncode=error.exit_status)
    yield session
    session.end()


@pytest.fixture
def decide(request: pytest.FixtureRequest, kvmtest_session: "Session") -> Decide:
    """Decide a property; the test's outcome follows the verdict."""
    from kvmtest.evidence.counting import fails, is_excused
    from kvmtest.findings import reference
    from kvmtest.judge import Verdict

    strict = request.config.getoption("--strict-defects")

    def decide(prop: Property) -> None:
        result = kvmtest_session.decide(prop)
        # As record_property has it, whose plugin a run does without.
        properties = request.node.user_properties
        properties += [("verdict", result.verdict.value), ("reason", result.reason)]
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


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where a requirement was not met that no property answered for."""
    ours = session.config.stash.get(SESSION, None)
    if ours and exitstatus == pytest.ExitCode.OK and not all(r.met for r in ours.required()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the verdicts under pytest's own report."""
    session = terminalreporter.config.stash.get(SESSION, None)
    if session is None or not session.results:
        return
    from kvmtest.report.telling import would_be_seen

    terminalreporter.section("verdicts")
    for result in session.results:
        seen = would_be_seen(result)
        reason = f"{result.reason}; {seen}" if seen else result.reason
        terminalreporter.write_line(f"{result.verdict:<12} {result.id}: {reason}")
    for required in session.required():
        if not required.met:
            line = f"--require {required.text} is not met: {required.reason}"
            terminalreporter.write_line(line, red=True)
    for failure in session.undo_failures:
        terminalreporter.write_line(f"not undone: {failure}", red=True)
