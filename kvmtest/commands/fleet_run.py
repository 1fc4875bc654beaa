"""kvmtest fleet run
=================

Runs a plan or goes on with it, shows how the hosts get on, and writes the reports.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.text import Text

from kvmtest.errors import KvmtestError
from kvmtest.evidence import Evidence
from kvmtest.fleet.folder_lock import FolderLock, holder
from kvmtest.fleet.hosts import opening
from kvmtest.fleet.plan import Plan
from kvmtest.fleet.results import Results, require_new
from kvmtest.fleet.run import patience, unfinished
from kvmtest.fleet.run import run as run_lanes
from kvmtest.fleet.standing import exit_status, standings
from kvmtest.interruption import Interruption
from kvmtest.report.at_work import AtWork
from kvmtest.report.fleet import course_words, screen
from kvmtest.report.fleet_run import FleetRun
from kvmtest.report.sentence import number_of, one_line
from kvmtest.report.terminal import console
from kvmtest.run_folder import write_reports as write_reports_of_run

from .fleet_kcidb import write_kcidb
from .fleet_matrix import write_matrix

__all__ = ["resume", "run", "show", "write_reports"]


def run(plan: Plan, folder: Path, jobs: int | None, interruption: Interruption) -> int:
    """Run a plan; results go to the new ``folder``. Return the exit status.

    Raises UsageError, EnvironmentUnfit before anything begins.
    """
    require_new(folder)
    with FolderLock.take(folder, 0.0, _tell):
        return _go(Results.create(folder, plan), jobs, interruption)


def resume(folder: Path, jobs: int | None, interruption: Interruption) -> int:
    """Go on with the fleet whose results are in ``folder``; return the exit status."""
    results = Results.open(folder)
    with FolderLock.take(folder, patience(results), _tell):
        return _go(results, jobs, interruption)


def _go(results: Results, jobs: int | None, interruption: Interruption) -> int:
    problems: list[str] = []
    opening_of = partial(opening, token=results.token)
    left = unfinished(results)
    runs = number_of(sum(len(lane.tasks) for lane in left), "run")
    _tell(f"{runs} in {number_of(len(left), 'lane')}")
    with AtWork(len(left), course_words, prefix="kvmtest: fleet: ") as at_work:
        try:
            interruption.arm()
            ended = run_lanes(results, left, opening_of, _on_kept, at_work, jobs)
            problems = [f"{each.name}: {each.failure}" for each in ended if each.failure]
        except KeyboardInterrupt:
            pass
        finally:
            interruption.defer()
    try:
        unread = [each for each in write_reports(results) if each.is_unread]
        # Evidence was checked before it was kept: it was changed since, or is too much to read.
        problems += (f"{each.name}: {each.run.failure}" for each in unread)
    except KvmtestError as error:
        problems.append(str(error))
    for line in problems:
        console(sys.stderr).print(Text(f"kvmtest: {line}"), soft_wrap=True)
    status = show(results, [line.partition("\n")[0] for line in problems], is_over=True)
    return 128 + interruption.signal if interruption.signal else status


def _on_kept(evidence: Evidence, folder: Path) -> str:
    """Write the reports of a run that was kept; return how it ended."""
    write_reports_of_run(evidence, folder)
    return one_line(evidence)


def show(results: Results, problems: Sequence[str] = (), *, is_over: bool = False) -> int:
    """Print how a fleet stands; return its exit status. ``is_over``: we alone are at work.

    ``problems`` went wrong besides, each in one line.
    """
    hosts = standings(results)
    printer = console()
    who = "" if is_over else holder(results.folder)
    folder = str(results.folder)
    for line in screen(hosts, folder, who, problems=problems, width=printer.width):
        printer.print(line, soft_wrap=True)
    return exit_status(hosts, problems)


def write_reports(results: Results) -> list[FleetRun]:
    """Write the matrix of all runs, kept or not, and the other reports; return the runs.

    Raises EnvironmentUnfit.
    """
    runs = write_matrix(results)
    write_kcidb(results.folder)
    return runs


def _tell(text: str) -> None:
    print(f"kvmtest: fleet: {text}", file=sys.stderr, flush=True)  # noqa: T201
