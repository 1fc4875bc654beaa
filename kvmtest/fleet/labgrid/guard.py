"""A guard of pytest's runs on labgrid targets
===========================================

A run with ``--lg-env`` whose tests left all targets alone is not green, and hosts that a
KernelStrategy changed are put back before labgrid lets them go.
"""

from collections.abc import Generator, Iterator

import pytest
from labgrid import Environment

from kvmtest.errors import KvmtestError
from kvmtest.evidence.counting import UNDECIDED

from .strategy import KernelStrategy

__all__ = ["Guard", "is_ours"]

#: The fixtures by which a test uses a target: labgrid's, and kvmtest's own.
FIXTURES = frozenset({"env", "target", "strategy", "kvmtest_run"})

_USES = ("labgrid", "uses a target")


def is_ours(environment: Environment) -> bool:
    """Tell whether a target of it has a KernelStrategy: tests of others are not ours to judge."""
    name = KernelStrategy.__name__
    targets = environment.config.get_targets().values()
    return any(each == name for target in targets for each in _named(target.get("drivers", ())))


def _named(drivers: object) -> Iterator[str]:
    """Give the drivers' names; an environment file may list them in three forms."""
    if isinstance(drivers, dict):
        yield from drivers
    elif isinstance(drivers, list):
        for each in drivers:
            yield from ([each["cls"]] if "cls" in each else each)


class Guard:
    """The plugin of one run."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._used = 0
        self._told: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Mark what a test with a target reports."""
        report = yield
        if FIXTURES & set(getattr(item, "fixturenames", ())):
            report.user_properties.append(_USES)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the tests that ran with a target."""
        ran = report.when == "call" and not report.skipped
        self._used += ran and _USES in report.user_properties

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        """Put the hosts back after the last test, while their drivers are there."""
        if nextitem is None:
            self._put_back()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Put the hosts back where the run ended early; turn what is green by nothing red."""
        self._put_back()
        yield
        is_green = session.exitstatus == pytest.ExitCode.OK
        if is_green and self._told:
            session.exitstatus = KvmtestError.exit_status
        elif is_green and not self._used and not session.config.option.collectonly:
            self._told.append("no test used a labgrid target, so nothing was tried")
            session.exitstatus = UNDECIDED
        # pytest has printed its summary.
        for line in self._told:
            session.config.get_terminal_writer().line(f"kvmtest: {line}", red=True)

    def _put_back(self) -> None:
        for target in self._environment.targets.values():
            for strategy in target.drivers:
                if isinstance(strategy, KernelStrategy):
                    try:
                        strategy.put_back()
                    except KvmtestError as error:
                        self._told.append(f"{target.name}: not put back: {error}")
