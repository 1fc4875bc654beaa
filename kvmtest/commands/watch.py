"""kvmtest watch
=============

Does a running VMM's next VM-entry after each toggle of the knob take the host's new bit?
"""

import argparse
import sys

from kvmtest.interruption import Interruption

from .parser import Commands, Parser, add_command, number, whole_number

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(
        commands,
        "watch",
        run,
        "say whether a running VMM's vCPUs see toggles of the knob",
        _add_arguments,
        "exit status: 0 each vCPU saw each toggle, 1 some vCPU missed one, or the kernel reported "
        "trouble, 2 usage, 3 an error, 4 nothing decided, 130 interrupted",
    )


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    parser.add_argument("pid", metavar="PID", type=_pid, help="the process of the VMM")
    parser.add_argument(
        "--toggles",
        metavar="N",
        type=whole_number(0, 100_000),
        default=10,
        help="toggles (default: 10; 0: none)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=number(3600, "seconds"),
        default=1.0,
        help="how long each rate is measured (default: 1)",
    )
    parser.add_argument(
        "--no-stop",
        action="store_true",
        help="never stop a thread of the VMM (no ptrace): watch by tracing alone",
    )
    parser.add_argument("--json", action="store_true", help="print what was seen as JSON")
    option("allow_other_vms").add_to(parser)
    option("root").add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Watch the VMM and print what was seen; return the exit status."""
    with Interruption() as interruption:
        import json

        from kvmtest.host.machine import Machine
        from kvmtest.host.tree import Tree
        from kvmtest.report.progress import Progress
        from kvmtest.report.terminal import console
        from kvmtest.report.watch import page
        from kvmtest.watch import WatchOptions, watch

        wanted = WatchOptions(
            options.pid,
            options.toggles,
            options.seconds,
            stops=not options.no_stop,
            allow_other_vms=options.allow_other_vms,
        )
        with Progress() as progress:
            watched = watch(
                Machine(Tree(options.root)),
                wanted,
                progress.step,
                lambda: bool(interruption.signal),
            )
        for line in (*(f"undone for a dead run: {each}" for each in watched.recovered),
                     *watched.undo_failures):  # fmt: skip
            print(f"kvmtest: {line}", file=sys.stderr)  # noqa: T201
        if options.json:
            print(json.dumps(watched.to_dict(), indent=1))  # noqa: T201
        else:
            screen = console()
            for part in page(watched):
                screen.print(part)
        if interruption.signal:
            print("kvmtest: interrupted; the host is as it was", file=sys.stderr)  # noqa: T201
            return 128 + interruption.signal
        return watched.exit_status


def _pid(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) <= 1 << 22:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: give a process ID")
