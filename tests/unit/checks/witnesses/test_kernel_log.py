"""kvmtest/checks/witnesses/kernel_log.py: what counts of a log, and from when on."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.observing import judged
from support.stand_in import KMSG, write

from kvmtest.checks.context import RunLog
from kvmtest.checks.witnesses.kernel_log import LogWitness
from kvmtest.host.observe.kernel_log import KernelLog, Marker
from kvmtest.host.tree import Tree
from kvmtest.judge import Verdict
from kvmtest.missing import Missing

TDX_WARN = (
    b"4,%d,100,-;WARNING: CPU: 1 PID: 7 at arch/x86/kvm/vmx/tdx.c:1043 tdx_vcpu_run+0x2/0x3\n"
)
OTHER_WARN = b"4,%d,100,-;WARNING: CPU: 1 PID: 7 at fs/namei.c:1 path_put+0x2/0x3\n"
NOTE = b"6,%d,50,-;kvm: nothing special\n"
PROVEN = Marker("token", None)


class GrowingLog:
    """A kernel log that is a file, to which a test adds."""

    def __init__(self, root: Path) -> None:
        tree = Tree(root)
        self._path = write(tree, KMSG, NOTE % 1)
        log = KernelLog.open(tree)
        assert isinstance(log, KernelLog)
        log.write_marker()
        self.log = log

    def add(self, lines: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(lines)


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[GrowingLog]:
    made = GrowingLog(tmp_path)
    yield made
    made.log.close()


def verdict(
    growing: GrowingLog, before: bytes, after: bytes, marker: Marker = PROVEN
) -> tuple[Verdict, str]:
    growing.add(before)
    witness = LogWitness.open(RunLog(growing.log, marker), re.compile("tdx"))
    growing.add(after)
    judgement = judged(list(witness.look("while a TD ran")))
    return judgement.verdict, judgement.reason


@pytest.mark.parametrize("after", [TDX_WARN % 3, OTHER_WARN % 3])
def test_any_trouble_since_its_opening_counts(growing: GrowingLog, after: bytes) -> None:
    assert verdict(growing, NOTE % 2, after)[0] is Verdict.FAIL


def test_trouble_of_another_check_before_it_does_not_count(growing: GrowingLog) -> None:
    assert verdict(growing, OTHER_WARN % 2, NOTE % 3)[0] is Verdict.PASS


def test_trouble_of_its_own_kind_counts_from_the_runs_beginning_on(growing: GrowingLog) -> None:
    """What is reported once a boot is silent the second time."""
    told = verdict(growing, TDX_WARN % 2, NOTE % 3)
    assert told == (Verdict.FAIL, "klog: warnings while a TD ran: 1, expected 0")


def test_a_silent_log_needs_its_controls(growing: GrowingLog) -> None:
    unproven = Marker(None, Missing("no marker"))
    assert verdict(growing, NOTE % 2, NOTE % 3, unproven)[0] is Verdict.INCONCLUSIVE


def test_lines_lost_since_the_run_began_decide_nothing(growing: GrowingLog) -> None:
    assert verdict(growing, NOTE % 2, NOTE % 9)[0] is Verdict.INCONCLUSIVE


def test_a_headline_is_put_into_words(growing: GrowingLog) -> None:
    witness = LogWitness.open(RunLog(growing.log, PROVEN), re.compile("tdx"), str.upper)
    growing.add(OTHER_WARN % 2)
    (*_, claim) = witness.look("while a TD ran")
    assert str(claim.raw["headlines"]).startswith("WARNING: CPU: 1 PID: 7 AT FS/NAMEI.C")
