"""kvmtest smi
===========

Sources of SMIs: which of them work here?
"""

import argparse

from .parser import Commands, Parser, add_command, add_group

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the commands."""
    group = add_group(commands, "smi", "find a source of SMIs")
    add_command(
        group,
        "probe",
        probe,
        "try which SMI sources work here, proved by a count of SMIs",
        _add_arguments,
        "exit status: 0 a source is proved, 2 usage, 3 another run holds the machine, "
        "4 no source is proved",
    )


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    option("smi_source").add_to(parser, "--source")
    parser.add_argument(
        "--rate", metavar="HZ", type=_rate, default=2.0, help="triggers a second (default: 2)"
    )
    parser.add_argument(
        "--count", metavar="N", type=_count, default=10, help="number of triggers (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print the proofs as JSON")
    option("root").add_to(parser)


def probe(options: argparse.Namespace) -> int:
    """Prove sources and print the proofs; return 0 if one is proved, else 4.

    Raises UsageError for a rate that a source does not take, and LockHeld where another run would
    see the SMIs.
    """
    import json

    from kvmtest.host.machine import Machine
    from kvmtest.host.tree import Tree
    from kvmtest.report.progress import Progress
    from kvmtest.report.smi import page
    from kvmtest.report.terminal import console
    from kvmtest.smi.probe import probe

    machine = Machine(Tree(options.root))
    with Progress() as progress:
        probed = probe(
            machine,
            options.smi_source,
            triggers=options.count,
            rate_hz=options.rate,
            say=progress.step,
        )
    if options.json:
        print(json.dumps(probed.to_dict(machine), indent=1))  # noqa: T201
    else:
        screen = console()
        for part in page(probed):
            screen.print(part)
    return 0 if probed.is_any_proved else 4


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) <= 100_000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: give 1 to 100000")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if 0.01 <= rate <= 10_000:
        return rate
    raise argparse.ArgumentTypeError(f"{text}: give 0.01 to 10000 Hz")
