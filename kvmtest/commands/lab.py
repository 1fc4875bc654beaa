"""kvmtest lab
===========

Runs in emulated machines.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from kvmtest.errors import UsageError

from .parser import Commands, Parser, add_command, add_group
from .run import EXIT

if TYPE_CHECKING:
    from kvmtest.lab.target import LabOptions

__all__ = ["add", "count"]


def add(commands: Commands) -> None:
    """Add the commands."""
    group = add_group(commands, "lab", "run the suite in emulated machines")
    words = "run the suite on a kernel in an emulated machine"
    add_command(group, "run", run, words, _add_run_arguments, EXIT)
    words = "list the kernels that Debian's archive offers to the lab"
    add_command(group, "list", list_kernels, words)
    words = "run the suite on a list of kernels, and write kernels.json and kernels.md"
    add_command(group, "survey", survey, words, _add_survey_arguments)
    words = "break KVM on purpose, one line at a time, and see which property notices"
    epilog = (
        "exit status: 0 no mutant survived, 1 some survived, 2 usage, 3 a run broke, "
        "4 no mutant was decided"
    )
    add_command(group, "mutants", mutants, words, _add_mutants_arguments, epilog)


def run(options: argparse.Namespace) -> int:
    """Run this same kvmtest in a machine; return its exit status there."""
    from dataclasses import replace

    from kvmtest.checks.demands import asked_for
    from kvmtest.commands.lab_run import run
    from kvmtest.run_options import RunOptions
    from kvmtest.target import Job

    wanted = replace(RunOptions.of(options), output=None, verbose=False)
    # Refused inside the machine they would have cost a boot.
    asked_for(wanted.only, wanted.marker, wanted.require)
    job = Job(wanted.words(), parameters=options.parameters, deadline=options.deadline)
    return run(_lab_options(options), job, options.output, verbose=options.verbose)


def _lab_options(options: argparse.Namespace) -> "LabOptions":
    """Return the options of machine and kernel; a command may lack some."""
    from dataclasses import fields

    from kvmtest.lab.target import LabOptions

    given = {field.name for field in fields(LabOptions)} & vars(options).keys()
    return LabOptions(**{name: getattr(options, name) for name in given})


def list_kernels(options: argparse.Namespace) -> int:
    """Print the kernels on offer."""
    from kvmtest.cache import Cache
    from kvmtest.kernels.archive import Archive
    from kvmtest.report.terminal import console, kernels_table

    def on_step(step: str) -> None:
        print(f"kvmtest: lab: {step}", file=sys.stderr)  # noqa: T201

    offers = Archive(Cache.default(), on_step).offers()
    rows = [(o.release, o.debian_version, ", ".join(o.suites)) for o in offers]
    console().print(kernels_table(rows))
    return 0


def survey(options: argparse.Namespace) -> int:
    """Run the suite on each kernel; return the exit status."""
    from dataclasses import replace

    from kvmtest.commands.lab_survey import run
    from kvmtest.target import Job

    if bool(options.kernels) == options.all:
        raise UsageError("kvmtest lab survey: name kernels, or give --all")
    machines = [options.machine or "intel"]
    if options.all and not options.machine:
        machines = ["intel", "amd"]
    job = Job(parameters=options.parameters)
    used = [replace(_lab_options(options), machine=name) for name in machines]
    return run(options.kernels or None, options.output, used, job, options.jobs)


def mutants(options: argparse.Namespace) -> int:
    """Run the suite on each mutant; return the exit status."""
    from kvmtest.commands.lab_mutants import run

    return run(_lab_options(options), options.only, options.output, options.jobs)


def _add_run_arguments(parser: Parser) -> None:
    from pathlib import Path

    from kvmtest.run_options import option, options

    _add_emulator(parser)
    _add_kernel(parser)
    parser.add_argument(
        "--modules",
        metavar="DIR",
        type=Path,
        help="a folder with a kvm.ko or kvm-intel.ko that replaces the kernel's own, or with all "
        "modules that the machine loads",
    )
    parser.add_argument(
        "--show-cpu-feature",
        metavar="F",
        dest="cpu_features",
        action="append",
        default=[],
        help="show guests a CPUID feature that the CPU lacks: rtm",
    )
    parser.add_argument(
        "--cold", action="store_true", help="boot the kernel instead of restoring a saved machine"
    )
    parser.add_argument(
        "--deadline",
        metavar="S",
        type=_seconds,
        default=900.0,
        help="give up after this many seconds (default: 900)",
    )
    _add_parameters(parser)
    for name in ("output", "verbose"):
        option(name).add_to(parser)
    for each in options():
        if each.in_lab:
            each.add_to(parser)
    parser.usage = "kvmtest lab run [options] [run options]"


def _add_survey_arguments(parser: Parser) -> None:
    from pathlib import Path

    from kvmtest.run_options import path

    parser.add_argument("kernels", metavar="KERNEL", nargs="*", help="as for lab run --kernel")
    parser.add_argument(
        "--all",
        action="store_true",
        help="all kernels that lab list shows, in both machines (intel and amd) unless --machine "
        "names one; those whose row this kvmtest made in this machine are left out",
    )
    parser.add_argument(
        "-o",
        metavar="DIR",
        type=path,
        dest="output",
        default=Path(),
        help="the folder for both files (default: .)",
    )
    _add_emulator(parser)
    parser.set_defaults(machine=None)
    _add_parameters(parser)
    _add_jobs(parser)


def _add_mutants_arguments(parser: Parser) -> None:
    from kvmtest.run_options import path

    _add_machine(parser)
    _add_kernel(parser)
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="run this mutant alone"
    )
    parser.add_argument(
        "-o",
        metavar="DIR",
        type=path,
        dest="output",
        help="write the matrix, and the evidence of every run, to a new folder",
    )
    _add_jobs(parser)


def _add_jobs(parser: Parser) -> None:
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        help="run so many machines at a time (default: as there are CPUs and memory for)",
    )


def _add_machine(parser: Parser) -> None:
    parser.add_argument(
        "--machine",
        choices=["intel", "amd", "amd-uefi"],
        default="intel",
        help="the machine to emulate (default: intel)",
    )


def _add_emulator(parser: Parser) -> None:
    _add_machine(parser)
    parser.add_argument(
        "--cpus",
        metavar="N",
        type=int,
        choices=[1, 2],
        help="number of CPUs (default: 1 for intel, which is faster; 2 for amd)",
    )


def _add_parameters(parser: Parser) -> None:
    parser.add_argument(
        "--kvm-parameter",
        metavar="MODULE.NAME=VALUE",
        dest="parameters",
        action="append",
        default=[],
        help="load KVM's modules with this parameter, e.g. kvm_intel.enable_mediated_pmu=1",
    )


def _add_kernel(parser: Parser) -> None:
    parser.add_argument(
        "--kernel",
        metavar="K",
        action="append",
        help="a version in Debian's archive, a linux-image .deb (repeat for its other .debs), a "
        "folder of .debs, an unpacked tree, a build tree or a bzImage (default: the newest 6.12)",
    )


def count(text: str) -> int:
    """Return the number of machines that ``text`` names, for argparse."""
    if text.isdecimal() and 1 <= int(text) <= 4096:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: give 1 to 4096 machines")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # The limit is poll(2)'s; it excludes nan and inf, too.
    if 0 < seconds <= 86400:
        return seconds
    raise argparse.ArgumentTypeError(f"{text}: give 1 to 86400 seconds")
