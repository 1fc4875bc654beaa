"""kvmtest fleet
=============

Runs a plan: many kernels on many machines.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from kvmtest.interruption import Interruption

from .parser import Commands, Parser, add_command, add_group

if TYPE_CHECKING:
    from kvmtest.fleet.plan import Plan

__all__ = ["add"]

EXIT = (
    "exit status: 0 all that was decided passes, 1 some runs FAIL, 2 usage, 3 some broke or left "
    "no evidence, a host is not as it was, or a report is missing, 4 nothing decided, 130 "
    "interrupted"
)


def add(commands: Commands) -> None:
    """Add the commands."""
    group = add_group(commands, "fleet", "run many kernels on many machines")
    words = "run a plan, and keep the evidence of every run in a new folder"
    add_command(group, "run", run, words, _add_run_arguments, EXIT)
    words = "say how far a fleet is, and what became of each host"
    add_command(group, "status", status, words, _add_folder, EXIT)
    words = "go on with a fleet that was interrupted; what is done is not done again"
    add_command(group, "resume", resume, words, _add_resume_arguments, EXIT)
    words = "write the matrix and the other reports of a fleet anew"
    add_command(group, "matrix", matrix, words, _add_folder)


def run(options: argparse.Namespace) -> int:
    """Run a plan; return the exit status."""
    from kvmtest.errors import UsageError

    with Interruption(repeats=True) as interruption:
        from kvmtest.commands.fleet_run import run
        from kvmtest.fleet.plan import load

        plan = load(options.plan)
        _check(plan)
        if options.dry_run:
            _print_dry_run(plan)
            return 0
        if not options.output:
            raise UsageError("kvmtest fleet run: name the folder of the results: -o DIR")
        return run(plan, options.output, options.jobs, interruption)


def resume(options: argparse.Namespace) -> int:
    """Go on with a fleet; return the exit status."""
    with Interruption(repeats=True) as interruption:
        from kvmtest.commands.fleet_run import resume

        return resume(options.folder, options.jobs, interruption)


def status(options: argparse.Namespace) -> int:
    """Print how a fleet stands; return its exit status."""
    from kvmtest.commands.fleet_run import show
    from kvmtest.fleet.results import Results

    return show(Results.open(options.folder))


def matrix(options: argparse.Namespace) -> int:
    """Write the reports of a fleet; return 0."""
    from kvmtest.commands.fleet_run import write_reports
    from kvmtest.fleet.results import Results

    write_reports(Results.open(options.folder))
    return 0


def _check(plan: "Plan") -> None:
    """Raise PlanError where an entry asks for properties, or requires, what does not exist."""
    from kvmtest.checks.demands import asked_for
    from kvmtest.errors import UsageError
    from kvmtest.fleet.plan import PlanError

    for entry in plan.runs:
        for name in entry.hosts:
            wanted = plan.options(entry, plan.hosts[name])
            try:
                asked_for(wanted.only, wanted.marker, wanted.require)
            except UsageError as error:
                advice = "correct this entry, or that of the host's kind"
                raise PlanError(plan.path, entry.line, f"on {name}: {error}", advice) from None


def _print_dry_run(plan: "Plan") -> None:
    from kvmtest.errors import printable
    from kvmtest.fleet.tasks import lanes
    from kvmtest.report.fleet import dry_run

    for line in dry_run(lanes(plan)):
        sys.stdout.write(f"{printable(line)}\n")


def _add_run_arguments(parser: Parser) -> None:
    from kvmtest.run_options import path

    parser.add_argument("plan", metavar="PLAN", type=path, help="the plan, a YAML file")
    parser.add_argument(
        "-o",
        metavar="DIR",
        type=path,
        dest="output",
        help="the folder of the results, a new one",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be done on which host, and do nothing",
    )
    _add_jobs(parser)


def _add_resume_arguments(parser: Parser) -> None:
    _add_folder(parser)
    _add_jobs(parser)


def _add_folder(parser: Parser) -> None:
    from kvmtest.run_options import path

    parser.add_argument("folder", metavar="DIR", type=path, help="the folder of the results")


def _add_jobs(parser: Parser) -> None:
    from .lab import count

    parser.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        help="have so many hosts, and so many lab machines, at work at a time (default: 64 hosts, "
        "and as many lab machines as there are CPUs and memory for)",
    )
