"""kvmtest run
===========

Decides the properties on this machine.
"""

import argparse
import sys

from kvmtest.interruption import Interruption

from .parser import Commands, Parser, add_command, add_root, add_smi_source, path

__all__ = ["EXIT", "add", "add_verdict_options"]

EXIT = (
    "exit status of run: 0 all decided properties PASS and at least one was decided, 1 some FAIL, "
    "2 usage, 3 some ERROR, 4 nothing decided, 130 interrupted"
)


def add(commands: Commands) -> None:
    """Add the command."""
    words = "decide the properties on this machine"
    parser = add_command(commands, "run", run, words, epilog=EXIT)
    add_verdict_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="list every host change, make none")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no tables")
    parser.add_argument("--allow-other-vms", action="store_true", help="run beside other VMs")
    parser.add_argument(
        "--reload-modules",
        action="store_true",
        help="reload the KVM module with other parameters for properties that need it",
    )
    add_root(parser)
    parser.usage = "kvmtest run [options] [-- PYTEST ARGS]"
    parser.set_defaults(run_options={name for a in parser._actions for name in a.option_strings})


def add_verdict_options(parser: Parser) -> None:
    """Add what a run takes on any machine, also one of the lab's."""
    parser.add_argument(
        "-o",
        metavar="DIR",
        type=path,
        dest="output",
        help="write evidence.json, junit.xml, ktap.txt, kernel.log and plots to DIR, a new folder",
    )
    parser.add_argument(
        "--only",
        metavar="ID",
        action="append",
        default=[],
        help="decide this property alone (may be repeated)",
    )
    parser.add_argument(
        "--require",
        metavar="X",
        action="append",
        default=[],
        help="FAIL unless the property ID is decided, witness:NAME speaks wherever it can look, or "
        "the precondition feature:NAME is met (may be repeated)",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="for git bisect run: exit 0 for good, 1 for bad, 125 otherwise",
    )
    parser.add_argument("--strict", action="store_true", help="count known defects as FAIL")
    add_smi_source(parser, "--smi-source")


def run(options: argparse.Namespace) -> int:
    """Do the run; return its exit status."""
    with Interruption() as interruption:
        from kvmtest.run import Options, run

        wanted = Options(
            command=options.command_line,
            root=options.root,
            output=options.output,
            only=options.only,
            require=options.require,
            bisect=options.bisect,
            dry_run=options.dry_run,
            allow_other_vms=options.allow_other_vms,
            quiet=options.quiet,
            reload_modules=options.reload_modules,
            smi_source=options.smi_source,
            strict=options.strict,
            pytest_args=options.pytest_args,
        )
        try:
            return run(wanted, interruption)
        except KeyboardInterrupt:
            print("kvmtest: interrupted", file=sys.stderr)  # noqa: T201
            return 128 + interruption.signal
