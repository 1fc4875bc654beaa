"""kvmtest finding
===============

The findings about kernels that go along with kvmtest.
"""

import argparse
import sys

from kvmtest.errors import UsageError

from .parser import Commands, Parser, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "print the report on a known defect of kernels"
    add_command(commands, "finding", run, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the finding (default: list all)")
    parser.add_argument("--patch", action="store_true", help="print its patch alone, for git apply")


def run(options: argparse.Namespace) -> int:
    """Print a finding, or the list of all."""
    from kvmtest.findings import findings, patch, read

    if options.name is not None:
        sys.stdout.write(patch(options.name) if options.patch else read(options.name))
        return 0
    if options.patch:
        raise UsageError("--patch needs the name of a finding; kvmtest finding lists them")
    from kvmtest.report.terminal import console, facts_table

    console().print(facts_table(findings().items()))
    return 0
