"""kvmtest smi
===========

Sources of SMIs: which of them work here? And SMIs as they come: how many, how fast, to which CPU?
"""

import argparse
import signal
import sys
import time

from kvmtest.interruption import Interruption

from .parser import Commands, Parser, add_command, add_group, number, whole_number

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the commands."""
    group = add_group(commands, "smi", "watch SMIs come, or find a source of SMIs")
    add_command(
        group,
        "probe",
        probe,
        "try which SMI sources work here, proved by a count of SMIs",
        _add_arguments,
        "exit status: 0 a source is proved, 2 usage, 3 another run holds the machine, "
        "4 no source is proved",
    )
    add_command(
        group,
        "watch",
        watch,
        "show how many SMIs each CPU takes, until Ctrl-C: a live table, or lines in a pipe",
        _add_watch_arguments,
        "exit status: 0 watched, 2 usage, 3 the count failed, 4 nothing counts SMIs here; Ctrl-C "
        "is the usual end",
    )


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    option("smi_source").add_to(parser, "--source")
    parser.add_argument(
        "--rate",
        metavar="HZ",
        type=number(10_000, "Hz"),
        default=2.0,
        help="triggers a second (default: 2)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=whole_number(1, 100_000),
        default=10,
        help="number of triggers (default: 10)",
    )
    parser.add_argument("--json", action="store_true", help="print the proofs as JSON")
    option("root").add_to(parser)


def _add_watch_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    seconds = number(1_000_000, "seconds")
    parser.add_argument(
        "--interval",
        metavar="S",
        type=seconds,
        default=1.0,
        help="how often the count is looked at (default: each second)",
    )
    parser.add_argument(
        "--seconds", metavar="S", type=seconds, help="end after so long (default: at Ctrl-C)"
    )
    option("allow_other_vms").add_to(parser)
    option("root").add_to(parser)


def watch(options: argparse.Namespace) -> int:
    """Show SMIs as they come; return 0, 4 where nothing counts them, 128 + a signal's number."""
    with Interruption() as interruption:
        from contextlib import closing

        from kvmtest.host.machine import Machine
        from kvmtest.host.tree import Tree
        from kvmtest.missing import Missing
        from kvmtest.report.sentence import number_of
        from kvmtest.report.smi_watch import SmiScreen
        from kvmtest.smi import bystander_counts
        from kvmtest.smi.watch import watch

        machine = Machine(Tree(options.root), allow_other_vms=options.allow_other_vms)
        count = bystander_counts(machine)
        if isinstance(count, Missing):
            print(f"kvmtest: {count}", file=sys.stderr)  # noqa: T201
            return 4

        def pause(seconds: float) -> bool:
            """Wait; return False as soon as a signal came."""
            try:
                try:
                    interruption.arm()
                    time.sleep(seconds)
                finally:
                    interruption.defer()
            except KeyboardInterrupt:
                return False
            return True

        cpus = number_of(len(count.cpus), "CPU")
        own = " of this virtual machine" * (machine.virtualisation.is_virtual and not machine.lab)
        every = f"looked at every {options.interval:g} s"
        head = f"SMIs counted by {count.name} on {cpus}{own}, {every}"
        with closing(count), SmiScreen(head) as screen:
            for tally in watch(count, options.interval, options.seconds, pause):
                screen.show(tally)
    # Ctrl-C is how a watch ends.
    return 128 + interruption.signal if interruption.signal not in (0, signal.SIGINT) else 0


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
