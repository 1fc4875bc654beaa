"""kvmtest finding
===============

The findings about kernels that go along with kvmtest.
"""

import argparse
import sys

from .parser import Commands, Parser, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "print the report on a known defect of kernels"
    add_command(commands, "finding", run, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the finding (default: list all)")


def run(options: argparse.Namespace) -> int:
    """Print a finding, or the list of all."""
    from kvmtest.findings import findings, read

    if options.name is not None:
        sys.stdout.write(read(options.name))
        return 0
    from kvmtest.report.terminal import console, facts_table

    console().print(facts_table(findings().items()))
    return 0
