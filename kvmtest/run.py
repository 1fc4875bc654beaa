"""kvmtest run
===========

One run from beginning to end: decide the properties in turn, restore the host, write the evidence,
and return the exit status.
"""

import contextlib
import os
import signal
import sys

from rich.text import Text

from kvmtest.host.facts.lab import VARIABLE
from kvmtest.interruption import Interruption
from kvmtest.missing import Missing
from kvmtest.record import Record
from kvmtest.report.progress import Progress
from kvmtest.report.screen import show_screen
from kvmtest.report.sentence import one_line
from kvmtest.report.terminal import console, show_results, summary
from kvmtest.run_folder import folder_of, written
from kvmtest.run_options import RunOptions
from kvmtest.session import Session

__all__ = ["run"]


def run(options: RunOptions, interruption: Interruption) -> int:
    """Run the properties and return the exit status.

    Raises KvmtestError or KeyboardInterrupt only before the run begins.
    """
    progress = Progress(lines=VARIABLE in os.environ)
    session = Session(options, on_step=progress.detail)
    interruption.arm()
    record = _decide(session, progress, interruption)
    # The verdict stands even if the reader (head) or the terminal is gone.
    with contextlib.suppress(OSError):
        _print(record)
    with contextlib.suppress(OSError):
        _complain(record)
    return record.exit_status


def _decide(session: Session, progress: Progress, interruption: Interruption) -> Record:
    """Decide the properties, restore the host, and write the run's files."""
    output = None
    try:
        try:
            session.begin()
            # After begin: a run that is refused leaves no folder behind.
            output = folder_of(session.options)
            interruption.defer()
            with progress:
                for number, prop in enumerate(session.chosen, 1):
                    progress.property(prop, number, len(session.chosen))
                    interruption.arm()
                    session.decide(prop)
                    interruption.defer()
        finally:
            # From here on signals wait: the host is restored and the evidence written.
            interruption.defer()
    except BaseException:
        # A check may have turned the interruption into another exception.
        if not interruption.signal:
            session.end()
            raise
    return written(session.end(interrupted_by=interruption.signal), output)


def _complain(record: Record) -> None:
    errors = console(sys.stderr)
    recovered = (f"undone for a dead run: {line}" for line in record.recovered)
    for line in [*recovered, *record.problems, *record.undo_failures]:
        errors.print(Text(f"kvmtest: {line}"), soft_wrap=True)


def _print(record: Record) -> None:
    options = record.options
    screen = console()
    if options.dry_run:
        for change in record.changes:
            screen.print(Text(f"would {change.sentence}"), soft_wrap=True)
        if not record.changes:
            none = "would change nothing on this machine"
            screen.print(none if record.results else "no property was tried")
        return
    if options.quiet:
        screen.print(Text(one_line(record.evidence, record.exit_status)), soft_wrap=True)
    elif options.verbose:
        show_results(screen, record.results, record.required)
        screen.print(Text(_last_line(record)), soft_wrap=True)
    else:
        where = str(options.output or "")
        # The problems are for stderr.
        show_screen(record.evidence, where, record.exit_status, problems=False)


def _last_line(record: Record) -> str:
    machine = record.machine
    kernel = machine.kernel
    name = kernel.what if isinstance(kernel, Missing) else f"Linux {kernel.release}"
    if not machine.tree.is_live:
        name += f" in the stand-in tree {machine.tree.root}"
    if lab := machine.lab:
        name += f" in an EMULATED machine ({lab.emulator} {lab.version})"
    by = signal.Signals(record.interrupted_by).name if record.interrupted_by else ""
    stopped = f" (stopped by {by}; the host is as it was)" if by else ""
    return f"{name}: {summary(record.results)}{stopped}"
