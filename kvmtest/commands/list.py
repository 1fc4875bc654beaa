"""kvmtest list
============

The table of properties.
"""

import argparse

from .parser import Commands, Parser, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "list the properties with their claims, witnesses and markers"
    add_command(commands, "list", run, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the table as a table or as JSON."""
    if options.json:
        import json
        from dataclasses import asdict

        from kvmtest.properties import PROPERTIES

        print(json.dumps([asdict(p) for p in PROPERTIES], indent=1))  # noqa: T201
        return 0
    from kvmtest.report.terminal import console, properties_table

    console().print(properties_table())
    return 0
