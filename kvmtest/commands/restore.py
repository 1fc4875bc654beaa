"""kvmtest restore
===============

Undoes what a dead run left.
"""

import argparse
import sys

from .parser import Commands, Parser, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(
        commands, "restore", run, "undo the host changes that a dead run left", _add_arguments
    )


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    option("root").add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Undo a dead run's changes and print them; return 0, or 3 if one could not be undone."""
    from kvmtest.host.changes.journal import restore
    from kvmtest.host.tree import Tree

    restored = restore(Tree(options.root))
    for line in restored.undone:
        print(f"undone: {line}")  # noqa: T201
    for line in restored.failed:
        print(f"kvmtest: not undone: {line}", file=sys.stderr)  # noqa: T201
    if restored.failed:
        return 3
    if restored.rebooted:
        print("the machine was rebooted since that run: no other change is left")  # noqa: T201
    elif not restored.undone:
        print("nothing to restore: no dead run left a change")  # noqa: T201
    return 0
