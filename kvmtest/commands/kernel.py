"""kvmtest kernel
==============

Facts about kernels: is the fix in the running one?
"""

import argparse

from .parser import Commands, Parser, add_command, add_group

__all__ = ["add"]

PRESENT, ABSENT, UNKNOWN = 0, 1, 4


def add(commands: Commands) -> None:
    """Add the commands."""
    group = add_group(commands, "kernel", "examine kernels")
    words = "say whether the running kernel has the fix (exit status: 0 yes, 1 no, 4 unknown)"
    add_command(group, "inspect", inspect, words, _add_arguments)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option

    option("root").add_to(parser)


def inspect(options: argparse.Namespace) -> int:
    """Print what the running kernel's BTF says; return 0 present, 1 absent, 4 unknown."""
    from kvmtest.host.machine import Machine
    from kvmtest.host.tree import Tree
    from kvmtest.missing import Missing
    from kvmtest.report.kernel import page
    from kvmtest.report.terminal import console

    machine = Machine(Tree(options.root))
    screen = console()
    for part in page(machine.kernel, machine.fix):
        screen.print(part)
    fix = machine.fix
    if isinstance(fix, Missing) or not fix.is_of_kvm:
        return UNKNOWN
    return PRESENT if fix.is_present else ABSENT
