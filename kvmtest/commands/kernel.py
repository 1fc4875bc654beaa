"""kvmtest kernel
==============

Facts about kernels: is the fix in the running one, or in one that lies here as a file?
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parser import Commands, Parser, add_command, add_group

if TYPE_CHECKING:
    from kvmtest.errors import KvmtestError
    from kvmtest.kernels.parts import KernelParts

__all__ = ["add"]

_STATUSES = {"present": 0, "absent": 1, "unknown": 4}
_WORST_FIRST = (1, 3, 2, 4, 0)

EPILOG = (
    "A TARGET is a package (.deb, .rpm), a tree (/, /lib/modules/RELEASE, an unpacked package), a "
    "folder of any of these, vmlinuz, vmlinux, kvm.ko (.xz, .zst, .gz), a kernel's source as a "
    "tree, a tarball, a linux-source package, or REPOSITORY@REVISION; without one, the running "
    "kernel. Exit status: 0 all have the fix, 1 one lacks it, 2 one is no kernel, 3 one can't be "
    "read, 4 unknown."
)


def add(commands: Commands) -> None:
    """Add the commands."""
    group = add_group(commands, "kernel", "examine kernels")
    words = "say which commits of the fix a kernel has, without booting it"
    add_command(group, "inspect", inspect, words, _add_arguments, EPILOG)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    parser.add_argument("targets", metavar="TARGET", nargs="*", help="a kernel, see below")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also print each subject and what was seen"
    )
    option("root").add_to(parser)


def inspect(options: argparse.Namespace) -> int:
    """Print what is found of the series in each kernel; return as EPILOG says."""
    import json

    from kvmtest.errors import KvmtestError
    from kvmtest.kernels.inspection import inspected
    from kvmtest.kernels.series import FIX, finding_of
    from kvmtest.report.kernel import as_json, show
    from kvmtest.report.terminal import console

    screen = console()
    kernels, errors, statuses = [], [], []
    for kernel in _kernels(options):
        if isinstance(kernel, KvmtestError):
            errors.append(str(kernel))
            statuses.append(kernel.exit_status)
            print(f"kvmtest: {kernel}", file=sys.stderr)  # noqa: T201
            continue
        findings = inspected(kernel)
        statuses.append(_STATUSES[finding_of(FIX, findings).state])
        if options.json:
            kernels.append(as_json(kernel, findings))
            continue
        if len(statuses) > 1:
            screen.print()
        show(screen, kernel, findings, verbose=options.verbose)
    if options.json:
        print(json.dumps({"kernels": kernels, "errors": errors}, indent=1))  # noqa: T201
    return next(status for status in _WORST_FIRST if status in statuses)


def _kernels(options: argparse.Namespace) -> "Iterator[KernelParts | KvmtestError]":
    """Give each kernel that is named, or why a target has none."""
    from kvmtest.errors import KvmtestError, UsageError
    from kvmtest.kernels import targets

    if not options.targets:
        yield _running(options)
        return
    if str(options.root) != "/":
        raise UsageError("--root names the machine of the running kernel; name no TARGET with it")
    for names in targets.grouped(options.targets):
        try:
            yield from targets.opened(names)
        except KvmtestError as error:
            yield error


def _running(options: argparse.Namespace) -> "KernelParts | KvmtestError":
    from kvmtest.errors import EnvironmentUnfit
    from kvmtest.host.facts.kernel_parts import running_parts
    from kvmtest.host.tree import Tree
    from kvmtest.missing import Missing

    parts = running_parts(Tree(options.root))
    return EnvironmentUnfit(str(parts)) if isinstance(parts, Missing) else parts
