"""Checks over a machine of a test: what they observe, and what is made of it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from kvmtest.checks import Context, check_of
from kvmtest.checks.context import RunLog
from kvmtest.host.changes.journal import Journal
from kvmtest.host.changes.kprobes import ProbePool
from kvmtest.host.machine import Machine
from kvmtest.judge import Absence, Judgement, Reading, Role, judge
from kvmtest.missing import Missing
from kvmtest.properties import find

NO_LOG = Missing("no kernel log in this test")


@contextmanager
def context_of(machine: Machine, log: RunLog | Missing = NO_LOG) -> Iterator[Context]:
    """Give a context whose journal changes stand-in trees, and of the live machine nothing."""
    with ExitStack() as stack:
        journal = Journal.open(machine.tree, dry_run=machine.tree.is_live)
        stack.callback(journal.close)
        if isinstance(log, RunLog):
            stack.callback(log.log.close)
        probe = ProbePool(machine.tree, journal)
        stack.callback(probe.close)
        yield Context(machine, journal, log, probe)


def observe(
    property_id: str, machine: Machine, log: RunLog | Missing = NO_LOG
) -> list[Reading | Absence]:
    with context_of(machine, log) as context:
        return list(check_of(find(property_id))(context))


def judged(observations: Sequence[Reading | Absence]) -> Judgement:
    readings = [o for o in observations if isinstance(o, Reading)]
    return judge(readings, [o for o in observations if isinstance(o, Absence)])


def controls(observations: Sequence[Reading | Absence]) -> list[Reading]:
    readings = [o for o in observations if isinstance(o, Reading)]
    found = [r for r in readings if r.role is Role.CONTROL]
    assert all(r.remedy for r in found), "a control that can't be mended"
    return found
