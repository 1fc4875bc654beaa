"""kvmtest reproduce
=================

Writes a C program that shows a finding or a property without kvmtest.
"""

import argparse
import shlex

from kvmtest.errors import UsageError, printable

from .parser import Commands, Parser, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "write a C program that shows a finding or a property to a kernel's maintainers"
    add_command(commands, "reproduce", run, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import path

    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the finding or property (default: list all)"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=path, help="the folder for the program, a new one"
    )


def run(options: argparse.Namespace) -> int:
    """Write the program and its Makefile, or list what there are programs for."""
    from kvmtest.evidence.file import write_whole
    from kvmtest.report.terminal import console, facts_table
    from kvmtest.reproducers import REPRODUCERS, c_source, find, makefile
    from kvmtest.run_folder import new_folder

    if options.name is None:
        console().print(facts_table((each.name, each.title) for each in REPRODUCERS))
        return 0
    reproducer = find(options.name)
    if options.output is None:
        raise UsageError(f"no folder for {reproducer.name}; name a new one: -o DIR")
    folder = new_folder(options.output)
    write_whole(folder / f"{reproducer.name}.c", c_source(reproducer))
    write_whole(folder / "Makefile", makefile(reproducer))
    print(f"make -C {printable(shlex.quote(str(folder)))} run")  # noqa: T201
    return 0
