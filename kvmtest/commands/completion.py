"""kvmtest completion
==================

Prints what makes a shell complete the words of kvmtest, by shtab, from the parsers.
"""

import argparse
import copy
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from .parser import Commands, Parser, add_command, fill

__all__ = ["add"]

_SHELLS = ("bash", "zsh", "fish")
_WHERE = (
    "To install it for yourself: kvmtest completion bash "
    ">~/.local/share/bash-completion/completions/kvmtest, kvmtest completion fish "
    ">~/.config/fish/completions/kvmtest.fish, or kvmtest completion zsh >_kvmtest in a folder of "
    "$fpath."
)
# What a value names, as its metavar says.
_FILES = {"EVIDENCE", "FILE", "K", "KERNEL", "NEW", "OLD", "PLAN", "TARGET"}
_FOLDERS = {"DIR"}


def add(commands: Commands, root: Parser) -> None:
    """Add the command, which completes the commands of ``root``."""
    words = "print what makes a shell complete kvmtest's words"
    add_command(commands, "completion", partial(run, root), words, _add_arguments, epilog=_WHERE)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=_SHELLS, help="the shell that reads it")


def run(root: Parser, options: argparse.Namespace) -> int:
    """Print the completions for a shell."""
    from kvmtest.optional_libraries import library

    shtab = library("shtab", "completion", "completion")
    parser = copy.deepcopy(fill(root))
    _name_values(parser, _lists(), shtab)
    sys.stdout.write(shtab.complete(parser, options.shell))
    return 0


def _name_values(
    parser: argparse.ArgumentParser, lists: Mapping[tuple[str, str], Iterable[str]], shtab: Any
) -> None:
    """Say of each argument below ``parser`` what its values are, for shtab alone."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _name_values(command, lists, shtab)
        elif values := lists.get((parser.prog, action.dest)):
            action.choices = [*values]
        elif action.metavar in _FILES | _FOLDERS:
            kind = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined]


def _lists() -> Mapping[tuple[str, str], Iterable[str]]:
    """Return the values of arguments that name something of kvmtest's tables."""
    from kvmtest.findings import findings
    from kvmtest.lab.mutants import MUTANTS, REPAIRS
    from kvmtest.properties import MARKERS, PROPERTIES
    from kvmtest.reproducers import REPRODUCERS

    ids = [each.id for each in PROPERTIES]
    # bash takes the colon of --require witness:NAME for a word's end, shtab for zsh as a separator.
    of_runs = {"only": ids, "require": ids, "marker": [*MARKERS]}
    lists: dict[tuple[str, str], Iterable[str]] = {
        ("kvmtest list", "properties"): ids,
        ("kvmtest finding", "name"): findings(),
        ("kvmtest reproduce", "name"): [each.name for each in REPRODUCERS],
        ("kvmtest lab mutants", "only"): [each.name for each in (*MUTANTS, *REPAIRS)],
    }
    for command in ("kvmtest run", "kvmtest lab run"):
        lists |= {(command, dest): values for dest, values in of_runs.items()}
    return lists
