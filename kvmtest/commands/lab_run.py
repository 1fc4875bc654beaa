"""kvmtest lab run
===============

Runs the suite on one kernel in an emulated machine, shows the evidence, and keeps it in a folder.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from kvmtest.errors import EnvironmentUnfit, printable
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.target import VENDORS, LabOptions, LabTarget
from kvmtest.report.progress import Progress
from kvmtest.report.screen import show_screen
from kvmtest.report.terminal import console, show_evidence
from kvmtest.run_folder import new_folder, write_reports
from kvmtest.target import Job, Outcome, TargetFailed

__all__ = ["on_step", "run", "write"]


def run(options: LabOptions, job: Job, folder: Path | None, *, verbose: bool = False) -> int:
    """Run a job in a lab's machine; return the exit status of kvmtest there.

    Everything that it left goes to the new ``folder``. ``verbose`` prints tables. Raises
    UsageError, EnvironmentUnfit.
    """
    output = new_folder(folder) if folder else None
    # Refused before a kernel is looked for.
    Parameters.parse(job.parameters, VENDORS[options.machine])
    with _console_shown(output), Progress() as progress:
        target = LabTarget.of(options, on_step(progress), progress.detail)
        outcome = target.run(job)
    if output:
        write(outcome, output)
        write_reports(outcome.evidence, output)
    if verbose:
        show_evidence(outcome.evidence)
    else:
        show_screen(outcome.evidence, str(folder or ""), outcome.exit_status)
    errors = console(sys.stderr)
    # A terminal has seen the time pass.
    if verbose or not errors.is_terminal:
        errors.print(Text(f"kvmtest: lab: {_times(outcome.durations)}"), soft_wrap=True)
    return outcome.exit_status


def on_step(progress: Progress) -> Callable[[str], None]:
    """Return a function that shows a step in the progress line, or else as a line."""

    def show(step: str) -> None:
        if progress.is_shown:
            progress.step(step)
        else:
            print(f"kvmtest: lab: {step}", file=sys.stderr, flush=True)  # noqa: T201

    return show


def write(outcome: Outcome, output: Path) -> None:
    """Write files and console of an outcome to a folder. Raises EnvironmentUnfit."""
    _write({**outcome.files, "console.log": outcome.console.encode()}, output)


def _write(files: Mapping[str, bytes], output: Path) -> None:
    for name, data in files.items():
        try:
            (output / Path(name).name).write_bytes(data)
        except OSError as error:
            raise EnvironmentUnfit(
                f"can't write {output / name}: {error.strerror}; choose another -o DIR"
            ) from None


@contextmanager
def _console_shown(output: Path | None) -> Iterator[None]:
    """Print the end of a failed machine's console; write all of it to ``output``."""
    try:
        yield
    except TargetFailed as failed:
        if output:
            _write({"console.log": failed.console.encode()}, output)
        screen = console(sys.stderr)
        for line in failed.tail.splitlines():
            screen.print(Text(f"  | {printable(line)}"), soft_wrap=True)
        raise


def _times(durations: Mapping[str, float]) -> str:
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in durations.items())
    return f"{sum(durations.values()):.1f} s in all ({steps})"
