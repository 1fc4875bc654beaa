"""kvmtest list
============

The table of properties.
"""

import argparse

from .parser import Commands, Parser, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "list the properties, or say what one claims"
    add_command(commands, "list", run, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "properties",
        metavar="ID",
        nargs="*",
        help="say of this property what it claims, needs and comes from",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(options: argparse.Namespace) -> int:
    """Print all properties, or those that are named, as tables or as JSON."""
    from kvmtest.properties import select

    chosen = select(options.properties)
    if options.json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(p) for p in chosen], indent=1))  # noqa: T201
        return 0
    from kvmtest.report.terminal import console, properties_table, property_table

    screen = console()
    if not options.properties:
        screen.print(properties_table())
        return 0
    for number, prop in enumerate(chosen):
        if number:
            screen.print()
        screen.print(property_table(prop))
    return 0
