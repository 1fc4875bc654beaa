"""The parser of a command
=======================

argparse as the commands use it, and the arguments that several of them take.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from kvmtest.errors import UsageError

__all__ = [
    "Commands",
    "Parser",
    "add_command",
    "add_evidence",
    "add_group",
    "add_root",
    "add_smi_source",
    "line",
    "path",
]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, whatever the words hold."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        super().error(line(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would hide that help can't be written.
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What a command is added to: the command line, or a group of commands."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    words: str,
    epilog: str = "",
) -> Parser:
    """Add a command that ``run`` runs and ``words`` describe; return its parser."""
    parser = commands.add_parser(
        name, help=words, description=words, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(function=run)
    return parser


def add_group(commands: Commands, name: str, words: str) -> Commands:
    """Add a word that commands follow; return what they are added to."""
    parser = commands.add_parser(name, help=words, allow_abbrev=False)
    return parser.add_subparsers(dest=f"{name}_command", required=True, metavar="COMMAND")


def line(words: object) -> str:
    """Return words as one line, without what a terminal might obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(words))


def add_root(parser: Parser) -> None:
    """Add ``--root``."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=_root,
        default=Path("/"),
        help="read and change host files below DIR, a stand-in tree, instead of /",
    )


def add_evidence(parser: Parser) -> None:
    """Add the evidence of a run."""
    parser.add_argument(
        "evidence",
        metavar="EVIDENCE",
        type=path,
        help="an evidence.json, or its folder",
    )


def add_smi_source(parser: Parser, option: str) -> None:
    """Add an option that names a source of SMIs."""
    parser.add_argument(
        option,
        metavar="NAME",
        type=_smi_source,
        dest="smi_source",
        help="the source of SMIs: lab, efivar[:VARIABLE], efivarfs-statfs, dell-smm-hwmon, "
        "efivar-refused; used only if named: passive, command:CMD, efivar-write[:VARIABLE], "
        "dcdbas, apm-port[:VALUE] (default: the gentlest that proves itself)",
    )


def path(text: str) -> Path:
    """Return the path that ``text`` names, which is not empty."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("the name is empty")


def _root(text: str) -> Path:
    try:
        root = path(text).resolve(strict=True)
        if root.is_dir():
            return root
        problem = "not a folder"
    except (OSError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or "a loop of symbolic links"
    raise argparse.ArgumentTypeError(f"{text}: {problem}")


def _smi_source(text: str) -> str:
    from kvmtest.smi import split

    try:
        split(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
