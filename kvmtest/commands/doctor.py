"""kvmtest doctor
==============

Do SMIs pollute what is counted here? What can this machine prove, what can't it, why, and how to
change that?
"""

import argparse

from .parser import Commands, Parser, add_command, number

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "say what this machine can prove, what it can't, why, and what to do"
    add_command(commands, "doctor", run, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    parser.add_argument(
        "--seconds",
        metavar="S",
        type=number(3600, "seconds", or_zero=True),
        default=1.0,
        help="how long SMIs are counted (default: 1; 0: not at all)",
    )
    parser.add_argument("--json", action="store_true", help="print facts and answers as JSON")
    option("root").add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Diagnose the machine, and print that as a page or as JSON."""
    import json

    from kvmtest.diagnosis import diagnose
    from kvmtest.host.machine import Machine
    from kvmtest.host.tree import Tree

    machine = Machine(Tree(options.root))
    found = diagnose(machine, options.seconds)
    if options.json:
        print(json.dumps(found.to_dict(machine), indent=1))  # noqa: T201
        return 0
    from kvmtest.report.doctor import page
    from kvmtest.report.terminal import console

    screen = console()
    for part in page(found):
        screen.print(part)
    return 0
