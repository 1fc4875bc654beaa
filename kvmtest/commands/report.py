"""kvmtest report
==============

Shows the evidence of a run.
"""

import argparse
import sys

from kvmtest.errors import EnvironmentUnfit

from .parser import Commands, Parser, add_command, add_evidence

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, "report", run, "show the evidence of a run", _add_arguments)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option, path

    add_evidence(parser)
    option("verbose").add_to(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ktap", action="store_true", help="print KTAP")
    form.add_argument("--junit", metavar="FILE", type=path, help="write JUnit XML to FILE")
    form.add_argument(
        "--plots",
        metavar="DIR",
        type=path,
        help="draw the leak experiment to a folder, as SVG and PNG",
    )


def run(options: argparse.Namespace) -> int:
    """Print or write the evidence in the form that was asked for."""
    from kvmtest.evidence import load

    evidence = load(options.evidence)
    if options.ktap:
        from kvmtest.report.files import ktap_of

        sys.stdout.write(ktap_of(evidence))
    elif options.junit:
        from kvmtest.evidence.file import write_to
        from kvmtest.report.files import junit_of

        write_to(options.junit, junit_of(evidence))
    elif options.plots:
        from kvmtest.run_folder import write_plots

        if not write_plots(evidence, options.plots):
            raise EnvironmentUnfit(
                f"{options.evidence}: no result has samples to draw; name a run that decided a "
                "property by the witness leak"
            )
    elif options.verbose:
        from kvmtest.report.terminal import show_evidence

        show_evidence(evidence)
    else:
        from kvmtest.report.screen import show_screen

        show_screen(evidence, str(options.evidence))
    return 0
