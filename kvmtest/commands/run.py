"""kvmtest run
===========

Decides the properties on this machine.
"""

import argparse
import sys

from kvmtest.interruption import Interruption

from .parser import Commands, Parser, add_command

__all__ = ["EXIT", "add"]

EXIT = (
    "exit status of run: 0 all decided properties PASS and at least one was decided, 1 some FAIL, "
    "2 usage, 3 some ERROR, 4 nothing decided, 130 interrupted"
)


def add(commands: Commands) -> None:
    """Add the command."""
    words = "decide the properties on this machine"
    add_command(commands, "run", run, words, _add_arguments, EXIT)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import options

    for each in options():
        each.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Run the properties; return the exit status."""
    with Interruption() as interruption:
        from kvmtest.run import run
        from kvmtest.run_options import RunOptions

        try:
            return run(RunOptions.of(options), interruption)
        except KeyboardInterrupt:
            print("kvmtest: interrupted", file=sys.stderr)  # noqa: T201
            return 128 + interruption.signal
