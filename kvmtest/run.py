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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from kvmtest import __version__
from kvmtest.checks.demands import asked_for
from kvmtest.errors import KvmtestError, UsageError
from kvmtest.evidence import (
    ChangeRecord,
    Evidence,
    JournalRecord,
    KernelLogRecord,
    RunRecord,
    WarningsRecord,
    save,
)
from kvmtest.evidence.coding import decode
from kvmtest.evidence.counting import bisect_status, run_status, unanswered
from kvmtest.evidence.file import write_whole
from kvmtest.host.as_json import host_facts, kernel_facts, machine_facts, plain
from kvmtest.host.facts.lab import VARIABLE
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.interruption import Interruption
from kvmtest.judge import Verdict
from kvmtest.missing import Missing
from kvmtest.report.terminal import Progress, console, show_results, summary
from kvmtest.run_folder import new_folder, write_beside, write_reports
from kvmtest.session import Session

if TYPE_CHECKING:
    import pytest

__all__ = ["Options", "run"]

# pytest's own plugins that the suite has no use for: registering them takes half of pytest's time.
_IDLE_PLUGINS = (
    "terminal", "debugging", "unittest", "legacypath", "tmpdir", "monkeypatch", "recwarn",
    "pastebin", "doctest", "setuponly", "setupplan", "stepwise", "threadexception",
    "unraisableexception", "logging", "faulthandler", "subtests", "capture", "junitxml",
    "assertion", "warnings", "reports",
)  # fmt: skip


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
    quiet: bool = False
    reload_modules: bool = False
    smi_source: str | None = None
    strict: bool = False
    pytest_args: list[str] = field(default_factory=list)


def run(options: Options, interruption: Interruption) -> int:
    """Do the run and return the exit status.

    Raises KvmtestError, or KeyboardInterrupt, before anything was begun.
    """
    chosen, requirements = asked_for(options.only, options.require)
    session = Session(
        Machine(Tree(options.root), options.smi_source, options.allow_other_vms),
        requirements,
        options.dry_run,
        options.reload_modules,
        # To git bisect a missing precondition is no bad commit: see bisect_status.
        enforces=not options.bisect,
        chosen=chosen,
    )
    interruption.arm()
    output, problems = _decide(session, options, interruption)
    if not interruption.signal and not options.dry_run:
        problems += unanswered(session.required(), session.requirements, session.results)
    status = _finish(session, options, output, problems, interruption.signal)
    return bisect_status(status, session.required()) if options.bisect else status


def _decide(
    session: Session, options: Options, interruption: Interruption
) -> tuple[Path | None, list[str]]:
    """Run the suite and put the host back.

    Returns where the evidence goes, and what went wrong besides verdicts.
    """
    output = None
    try:
        try:
            session.begin()
            # Only now: a run that may not begin leaves nothing behind.
            if options.output and not options.dry_run:
                output = new_folder(options.output)
            interruption.defer()
            return output, _pytest(session, options, interruption)
        finally:
            # From here on an interruption waits: the host is put back, the evidence written.
            interruption.defer()
    except BaseException:
        # Whatever the interruption became on its way.
        if not interruption.signal:
            raise
        return output, []
    finally:
        session.end()


def _pytest(session: Session, options: Options, interruption: Interruption) -> list[str]:
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
    if options.strict:
        arguments.append("--strict-defects")
    # Without arguments of the user's own pytest is silent: the table says it all.
    arguments += options.pytest_args or [f"-pno:{name}" for name in _IDLE_PLUGINS]
    with Progress(lines=VARIABLE in os.environ) as progress:
        session.say = progress.detail
        driver = Driver(session, progress.property)
        plugins = ["kvmtest.plugin", _Named(driver), interruption]
        status = pytest.main(arguments, plugins=plugins)
    if status == pytest.ExitCode.USAGE_ERROR:
        raise UsageError("pytest refused the arguments after --; see its message")
    if status == pytest.ExitCode.INTERNAL_ERROR:
        driver.problems.append("pytest broke; run again with -- -v for its message")
    return driver.problems


class _Named:
    """Registers the driver under the name that the plugin looks for."""

    def __init__(self, driver: object) -> None:
        self._driver = driver

    def pytest_configure(self, config: "pytest.Config") -> None:
        import pytest

        others = getattr(config.option, "file_or_dir", [])[1:]
        if others:
            raise pytest.UsageError(f"{others[0]}: a run has kvmtest's own suite alone; use -k")
        config.pluginmanager.register(self._driver, "kvmtest-driver")


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
    counted = partial(
        run_status,
        session.results,
        strict=options.strict,
        dry_run=options.dry_run,
        signal=interrupted_by,
    )
    status = counted(problems)
    if output:
        try:
            _write(session, options, output, status, bool(interrupted_by), problems)
        except KvmtestError as error:
            problems.append(str(error))
            status = counted(problems)
    # The verdict stands, even where nobody reads on (head) or the terminal has gone.
    with contextlib.suppress(OSError):
        if not options.quiet:
            _print(session, options, interrupted_by)
    with contextlib.suppress(OSError):
        _complain(session, problems)
    return status


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
            none = "would change nothing on this machine"
            screen.print(none if session.results else "no property was tried")
        return
    show_results(screen, session.results, session.required())
    screen.print(Text(_last_line(session, interrupted_by)), soft_wrap=True)


def _last_line(session: Session, interrupted_by: int) -> str:
    kernel = session.machine.kernel
    name = kernel.what if isinstance(kernel, Missing) else f"Linux {kernel.release}"
    if not session.machine.tree.is_live:
        name += f" in the stand-in tree {session.machine.tree.root}"
    if lab := session.machine.lab:
        name += f" in an EMULATED machine ({lab.emulator} {lab.version})"
    by = signal.Signals(interrupted_by).name if interrupted_by else ""
    stopped = f" (stopped by {by}; the host is as it was)" if by else ""
    return f"{name}: {summary(session.results)}{stopped}"


def _write(
    session: Session,
    options: Options,
    output: Path,
    status: int,
    interrupted: bool,
    problems: Sequence[str],
) -> None:
    log = session.log
    evidence = Evidence(
        kvmtest=RunRecord(
            version=__version__,
            command=options.command,
            started=_utc(session.started),
            ended=_utc(time.time()),
            interrupted=interrupted,
            strict=options.strict,
            # Those of undoing are the journal's.
            problems=[line for line in problems if line not in session.undo_failures],
        ),
        machine=machine_facts(session.machine),
        host=host_facts(session.machine),
        kernel=replace(kernel_facts(session.machine), warnings=_warnings(session)),
        journal=JournalRecord(
            changes=[decode(ChangeRecord, asdict(change)) for change in session.changes],
            failures=session.undo_failures,
            recovered=session.recovered,
        ),
        kernel_log=KernelLogRecord(
            missing=str(session.log_missing) if session.log_missing else None,
            records=len(log.records),
            lost=log.lost,
        ),
        results=session.results,
        exit_status=status,
        requirements=session.required(),
    )
    lines = [f"[{r.time_us / 1e6:12.6f}] {r.message}" for r in log.records]
    # The others can be made from the evidence, so it comes first where there is little room.
    # That of a lab's machine, which is slow, is checked outside, where it is read.
    save(evidence, output / "evidence.json", unchecked=session.machine.lab is not None)
    write_whole(output / "kernel.log", "".join(line + "\n" for line in lines))
    # Those of a lab's machine, which is slow, are made outside.
    if session.machine.lab is None:
        write_reports(evidence, output, socket.gethostname())
        write_beside(evidence, output)


def _warnings(session: Session) -> WarningsRecord:
    before = session.before
    return WarningsRecord(
        taint_before=plain(before and before.taint),
        taint_after=plain(session.taint_after),
        once_not_given_back=plain(before and before.not_cleared),
    )


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
