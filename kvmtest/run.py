"""kvmtest run
===========

One run from beginning to end: other VMs looked for, the suite under pytest, host restored, evidence
written, and an exit status that tells the verdict.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from rich.text import Text

from kvmtest import __version__
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.evidence import Evidence, save
from kvmtest.evidence.directory import claim
from kvmtest.evidence.file import write_whole
from kvmtest.host.facts import host_facts, kernel_facts, machine_facts
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.judge import Verdict, exit_status
from kvmtest.judge.requirements import Requirement
from kvmtest.missing import Missing
from kvmtest.properties import Property, select
from kvmtest.report.junit import junit
from kvmtest.report.ktap import ktap
from kvmtest.report.terminal import Progress, console, show_results, summary
from kvmtest.session import Session, requirement

__all__ = ["Options", "run"]

# "Good", "bad" and "skip this commit" of git bisect run.
BISECT = {0: 0, 1: 1}
BISECT_SKIP = 125


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    command: list[str]
    root: Path = Path("/")
    output: Path | None = None
    only: list[str] = field(default_factory=list)
    require: list[str] = field(default_factory=list)
    bisect: bool = False
    dry_run: bool = False
    allow_other_vms: bool = False
    pytest_args: list[str] = field(default_factory=list)


def run(options: Options) -> int:
    """Do the run and return the exit status; raises KvmtestError before anything was changed."""
    chosen = select(options.only)
    requirements = [requirement(text) for text in options.require]
    for required in requirements:
        if not required.properties & {p.id for p in chosen}:
            raise UsageError(f"--require {required.text}: --only leaves it out; name it there too")
    machine = Machine(Tree(options.root))
    if not options.allow_other_vms:
        _stop_for_other_vms(machine)
    output = claim(options.output) if options.output and not options.dry_run else None
    session = Session(machine, requirements, options.dry_run)
    problems: list[str] = []
    with _interruptible() as interruption:
        try:
            try:
                interruption.arm()
                session.begin()
                problems = _pytest(session, options)
            finally:
                # From here on an interruption waits: the host is put back, the evidence written.
                interruption.defer()
        except KeyboardInterrupt:
            pass  # Raised once at most, be it at the first step of the lines above.
        finally:
            session.end()
        if not interruption.signal and not options.dry_run:
            problems += _never_run(requirements, chosen, session)
        return _finish(session, options, output, problems, interruption.signal)


def _never_run(
    requirements: Sequence[Requirement], chosen: Sequence[Property], session: Session
) -> Iterator[str]:
    """Give a line for each property that is required and was not even tried."""
    left_out = {p.id for p in chosen} - {r.id for r in session.results}
    for required in requirements:
        for property_id in sorted(required.properties & left_out):
            yield f"--require {required.text}: {property_id} was not run (see what follows --)"


def _stop_for_other_vms(machine: Machine) -> None:
    others = [user for user in machine.census.users if user.vms]
    if others:
        named = ", ".join(map(str, others))
        raise EnvironmentUnfit(f"other VMs run here: {named}; stop them, or use --allow-other-vms")


class _Interruption:
    """SIGINT, SIGTERM and SIGHUP as one exception, once; those before and after it wait."""

    def __init__(self) -> None:
        self.signal = 0
        self._deferred = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if not self._deferred:
            self._deferred = True
            raise KeyboardInterrupt

    def arm(self) -> None:
        self._deferred = False
        if self.signal:
            self._deferred = True
            raise KeyboardInterrupt

    def defer(self) -> None:
        self._deferred = True


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interruption]:
    interruption = _Interruption()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = [signal.signal(number, interruption.handle) for number in signals]
    try:
        yield interruption
    finally:
        for number, handler in zip(signals, old, strict=True):
            signal.signal(number, handler)


def _pytest(session: Session, options: Options) -> list[str]:
    """Run the suite and return what went wrong besides verdicts."""
    # Foreign plugins cost seconds and change what runs; the suite needs none. Nor may options that
    # the user keeps for other suites leave something out.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    import pytest

    import kvmtest.suite
    from kvmtest.plugin import Driver

    suite = Path(kvmtest.suite.__file__).parent
    arguments = [
        str(suite), f"--rootdir={suite}", "-c", os.devnull, "--noconftest",
        "-p", "no:cacheprovider",
        *(f"--only={property_id}" for property_id in options.only),
    ]  # fmt: skip
    # Without arguments of the user's own pytest is silent: the table says it all.
    arguments += options.pytest_args or ["-p", "no:terminal"]
    with Progress() as progress:
        driver = Driver(session, progress.property)
        status = pytest.main(arguments, plugins=["kvmtest.plugin", _Named(driver)])
    if status == pytest.ExitCode.USAGE_ERROR:
        raise UsageError("pytest refused the arguments after --; see its message")
    if status == pytest.ExitCode.INTERNAL_ERROR:
        driver.problems.append("pytest broke; run again with -- -v for its message")
    return driver.problems


class _Named:
    """Registers the driver under the name that the plugin looks for."""

    def __init__(self, driver: object) -> None:
        self._driver = driver

    def pytest_configure(self, config: "object") -> None:
        config.pluginmanager.register(self._driver, "kvmtest-driver")  # type: ignore[attr-defined]


def _finish(
    session: Session,
    options: Options,
    output: Path | None,
    problems: Sequence[str],
    interrupted_by: int,
) -> int:
    """Write, print and return the exit status."""
    problems = [*problems, *session.undo_failures]
    if options.dry_run:
        problems += [f"{r.id}: {r.reason}" for r in session.results if r.verdict is Verdict.ERROR]
    status = _status(session, options, problems, interrupted_by)
    if output:
        try:
            _write(session, options, output, status, bool(interrupted_by))
        except KvmtestError as error:
            problems.append(str(error))
            status = error.exit_status if status in (0, 4) else status
    # The verdict stands, even where nobody reads on (head) or the terminal has gone.
    with contextlib.suppress(OSError):
        _print(session, options, interrupted_by)
    with contextlib.suppress(OSError):
        _complain(session, problems)
    # git bisect stops at 128 and above.
    if options.bisect and not interrupted_by:
        return BISECT.get(status, BISECT_SKIP)
    return status


def _status(
    session: Session, options: Options, problems: Sequence[str], interrupted_by: int
) -> int:
    if interrupted_by:
        return 128 + interrupted_by
    status = 0 if options.dry_run else exit_status(r.verdict for r in session.results)
    return 3 if problems and status != 1 else status


def _complain(session: Session, problems: Sequence[str]) -> None:
    errors = console(sys.stderr)
    for line in [*(f"undone for a dead run: {line}" for line in session.recovered), *problems]:
        errors.print(Text(f"kvmtest: {line}"), soft_wrap=True)


def _print(session: Session, options: Options, interrupted_by: int) -> None:
    screen = console()
    if options.dry_run:
        for change in session.changes:
            screen.print(Text(f"would {change.sentence}"), soft_wrap=True)
        if not session.changes:
            screen.print("would change nothing on this machine")
        return
    show_results(screen, session.results)
    screen.print(Text(_last_line(session, interrupted_by)), soft_wrap=True)


def _last_line(session: Session, interrupted_by: int) -> str:
    kernel = session.machine.kernel
    name = kernel.what if isinstance(kernel, Missing) else f"Linux {kernel.release}"
    if not session.machine.tree.is_live:
        name += f" in the stand-in tree {session.machine.tree.root}"
    by = signal.Signals(interrupted_by).name if interrupted_by else ""
    stopped = f" (stopped by {by}; the host is as it was)" if by else ""
    return f"{name}: {summary(session.results)}{stopped}"


def _write(
    session: Session, options: Options, output: Path, status: int, interrupted: bool
) -> None:
    log = session.log
    evidence = Evidence(
        kvmtest={
            "version": __version__,
            "command": options.command,
            "started": _utc(session.started),
            "ended": _utc(time.time()),
            "interrupted": interrupted,
        },
        machine=machine_facts(session.machine),
        host=host_facts(session.machine),
        kernel=kernel_facts(session.machine),
        journal={
            "changes": [asdict(change) for change in session.changes],
            "failures": session.undo_failures,
            "recovered": session.recovered,
        },
        kernel_log={
            "missing": str(session.log_missing) if session.log_missing else None,
            "records": len(log.records),
            "lost": log.lost,
        },
        results=session.results,
        exit_status=status,
    )
    lines = [f"[{r.time_us / 1e6:12.6f}] {r.message}" for r in log.records]
    write_whole(output / "kernel.log", "".join(line + "\n" for line in lines))
    write_whole(output / "ktap.txt", ktap(session.results))
    write_whole(output / "junit.xml", junit(session.results, socket.gethostname()))
    save(evidence, output / "evidence.json")


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
