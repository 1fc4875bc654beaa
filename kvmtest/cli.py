"""The command line
================

``kvmtest doctor | list | run | restore | report | compare | finding | reproduce | replay |
lab | fleet | smi | kernel | watch | completion``: gathers the commands, runs one, and makes an exit
status of every way in which it ends.
"""

import argparse
import copy
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache

from kvmtest import __version__
from kvmtest.commands import (
    compare,
    completion,
    doctor,
    finding,
    fleet,
    kernel,
    lab,
    replay,
    report,
    reproduce,
    restore,
    run,
    smi,
    watch,
)
from kvmtest.commands import list as listing
from kvmtest.commands.parser import Parser, fill
from kvmtest.errors import KvmtestError, UsageError, printable

__all__ = ["main", "whole_parser"]

AFTER_DASHES = (
    "-- PYTEST ARGS: a run takes none; use pytest itself: "
    "pytest --pyargs kvmtest.suite --kvmtest-output DIR PYTEST ARGS"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status is the process's."""
    _open_standard_streams()
    try:
        status = _main(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as end:
        # argparse, which has printed help, or said what is wrong.
        sys.exit(_flushed(end.code if isinstance(end.code, int) else 0))
    status = _flushed(status)
    if argv is None:
        # The process ends: no signal may change the status that it ends with.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    return status


def _flushed(status: int) -> int:
    """Write what stdout holds; return the status, or that of output that can't be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _forget_stdout()
        if not isinstance(error, BrokenPipeError):
            print(f"kvmtest: can't write the output: {error.strerror}", file=sys.stderr)  # noqa: T201
            return status or 3
    return status


def _main(words: list[str]) -> int:
    # To git bisect run, 1 to 124 would say that the kernel is bad.
    runs = words[:1] == ["run"] or words[:2] == ["lab", "run"]
    unfit = 125 if runs and "--bisect" in words else 0
    try:
        if words[:1] == ["run"] and "--" in words:
            raise UsageError(AFTER_DASHES)
        options = _parser().parse_args(words)
        options.command = ("kvmtest", *words)
        run: Callable[[argparse.Namespace], int] = options.function
        return run(options)
    except KvmtestError as error:
        print(f"kvmtest: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return unfit or error.exit_status
    except KeyboardInterrupt:
        print("kvmtest: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        # Unless stdout still holds what it could not take, and says so.
        if not _flushed(0):
            print(f"kvmtest: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return unfit or 3
    except SystemExit as end:
        # argparse, which has said why.
        if end.code and unfit:
            return unfit
        raise
    except Exception:
        import traceback

        # Python's own status for it is 1, which would say that a property FAILs.
        traceback.print_exc()
        print("kvmtest: this is a bug of kvmtest: please report it", file=sys.stderr)  # noqa: T201
        return unfit or 3


def _open_standard_streams() -> None:
    """Open what the caller closed (>&-), else the next file of ours would get its number.

    Nobody would write to such a file by mistake alone: a child's own 0, 1 and 2 replace it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    # What the stream's encoding lacks is shown as a number, and costs nothing else.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """Drop what nobody reads, so that it is not tried again at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def whole_parser() -> Parser:
    """Return a parser with the arguments of every command, as the manual shows it."""
    return fill(copy.deepcopy(_parser()))


@cache
def _parser() -> Parser:
    parser = Parser(
        prog="kvmtest",
        description="Prove whether KVM keeps the host's FREEZE_IN_SMM in force while guests run.",
        allow_abbrev=False,
    )
    # The short form gives the longest command its place in the help: releases of Python differ in
    # whether commands count for the width of the column.
    parser.add_argument("-V", "--version", action="version", version=f"kvmtest {__version__}")
    commands = parser.add_subparsers(dest="named", required=True, metavar="COMMAND")
    for command in (
        doctor,
        listing,
        run,
        restore,
        report,
        compare,
        finding,
        reproduce,
        replay,
        lab,
        fleet,
        smi,
        kernel,
        watch,
    ):
        command.add(commands)
    completion.add(commands, parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
