"""kvmtest compare
===============

Says what changed between two runs: a backport's before and after.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .parser import Commands, Parser, add_command

if TYPE_CHECKING:
    from kvmtest.evidence.expectations import Expectation
    from kvmtest.evidence.pairs import Pairs

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    words = "say what changed between two runs: a backport's before and after"
    epilog = (
        "exit status: 0 no regression, 1 a regression or not as expected, 2 not comparable or "
        "usage, 3 unreadable evidence"
    )
    add_command(commands, "compare", run, words, _add_arguments, epilog)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import path

    either = "an evidence.json, a run's folder, or a folder of runs"
    parser.add_argument("old", metavar="OLD", type=path, help=either)
    parser.add_argument("new", metavar="NEW", type=path, help="the same for the new kernel")
    parser.add_argument(
        "--expect",
        metavar="pass:ID|fail:ID",
        action="append",
        default=[],
        help="the property must come to this verdict, which it had not in OLD (repeatable)",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="compare runs of machines that are not alike, too"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also print every other difference"
    )


def run(options: argparse.Namespace) -> int:
    """Print what changed; return 0 for no regression, 1 for one, 2 if runs can't be compared.

    Raises UsageError, :class:`~kvmtest.evidence.EvidenceUnreadable`.
    """
    from kvmtest.report.comparison import as_json, show

    expected = [_expectation(text) for text in options.expect]
    pairs = _pairs(options.old, options.new, expected, anyway=options.anyway)
    if options.json:
        json.dump(as_json(pairs), sys.stdout, indent=1)
        print()  # noqa: T201
    else:
        show(pairs, verbose=options.verbose)
    return pairs.status


def _expectation(text: str) -> "Expectation":
    """Return what ``text`` expects, of a property that exists. Raises UsageError."""
    from kvmtest.evidence.expectations import Expectation
    from kvmtest.properties import find

    expected = Expectation.parse(text)
    find(expected.id)
    return expected


def _pairs(old: Path, new: Path, expected: "list[Expectation]", *, anyway: bool) -> "Pairs":
    """Compare the runs that two paths name. Raises UsageError, EvidenceUnreadable."""
    from kvmtest.errors import UsageError
    from kvmtest.evidence import load
    from kvmtest.evidence.compare import compare
    from kvmtest.evidence.file import OtherSchema
    from kvmtest.evidence.folder import runs
    from kvmtest.evidence.pairs import Pairs

    before, after = runs(old), runs(new)
    if ("" in before) != ("" in after):
        one, many = (old, new) if "" in before else (new, old)
        raise UsageError(f"{one} is one run and {many} a folder of runs; name two of a kind")
    compared, unread = {}, {}
    for name in before.keys() & after.keys():
        try:
            compared[name] = compare(load(before[name]), load(after[name]))
        except OtherSchema as error:
            unread[name] = str(error)
    return Pairs(
        dict(sorted(compared.items())),
        dict(sorted(unread.items())),
        sorted(before.keys() - after.keys()),
        sorted(after.keys() - before.keys()),
        expected,
        anyway,
    )
