"""The parser of a command
=======================

argparse as the commands use it.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from kvmtest.errors import printable

__all__ = [
    "Commands",
    "Parser",
    "add_command",
    "add_evidence",
    "add_group",
    "fill",
    "number",
    "whole_number",
]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, whatever the words hold.

    ``add_arguments`` adds the arguments when they are needed: those of one command a start.
    """

    add_arguments: "Callable[[Parser], None] | None" = None

    def parse_known_args(self, *args: Any, **keywords: Any) -> Any:
        """Parse the words of this command."""
        self._add_own()
        return super().parse_known_args(*args, **keywords)

    def _add_own(self) -> None:
        add, self.add_arguments = self.add_arguments, None
        if add is not None:
            add(self)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        super().error(printable(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would hide the error if help can't be written.
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""The parent of a command: the command line, or a group of commands."""


def fill(parser: Parser) -> Parser:
    """Add the arguments of every command below, for readers of a whole parser; return it."""
    parser._add_own()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                fill(command)
    return parser


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    words: str,
    add_arguments: Callable[[Parser], None] | None = None,
    epilog: str = "",
) -> None:
    """Add a command that ``run`` runs and ``words`` describe."""
    parser = commands.add_parser(
        name, help=words, description=words, epilog=epilog, allow_abbrev=False
    )
    parser.add_arguments = add_arguments
    parser.set_defaults(function=run)


def add_group(commands: Commands, name: str, words: str) -> Commands:
    """Add a word that commands follow; return what they are added to."""
    parser = commands.add_parser(name, help=words, allow_abbrev=False)
    return parser.add_subparsers(dest=f"{name}_command", required=True, metavar="COMMAND")


def add_evidence(parser: Parser) -> None:
    """Add the evidence of a run, which commands take that read it."""
    from kvmtest.run_options import path

    parser.add_argument(
        "evidence",
        metavar="EVIDENCE",
        type=path,
        help="an evidence.json, or its folder",
    )


def number(most: int, unit: str, *, or_zero: bool = False) -> Callable[[str], float]:
    """Return what takes an argument from 0.01 to ``most``, or 0 if that is allowed."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if 0.01 <= value <= most or (or_zero and value == 0):
            return value
        zero = "0, or " * or_zero
        raise argparse.ArgumentTypeError(f"{text}: give {zero}0.01 to {most} {unit}")

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return what takes an argument from ``least`` to ``most``, in ASCII digits."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text}: give {least} to {most}")

    return parse
