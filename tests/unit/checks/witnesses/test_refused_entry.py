"""A refused entry shows its own dump or nothing, and leaves the vCPU as it was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.stand_in import KMSG, intel_host
from support.vmcs_lines import as_kmsg, dump_lines

from kvmtest.checks.witnesses import refused_entry
from kvmtest.checks.witnesses.refused_entry import PARAMETER, Refusal, Refusals
from kvmtest.host.changes.journal import Journal
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.host.observe.vmcs_dump import VmcsDump
from kvmtest.host.tree import Tree
from kvmtest.kvm import Exit, FailEntryExit, HltExit
from kvmtest.missing import Missing

REFUSED = FailEntryExit(0x80000021, 0)
Say = Callable[[int], list[str]]


class RefusingVcpu:
    """Stands in for a vCPU and the log of its KVM: each run logs what ``say`` makes of FS's base.

    No machine without VMX dumps a VMCS.
    """

    def __init__(self, tree: Tree, say: Say, end: Exit | Exception = REFUSED) -> None:
        self.bases: list[int] = [0x1000]
        self.first = 1
        self._log = tree.path(KMSG)
        self._say, self._end = say, end

    def get_sregs(self) -> Any:
        return SimpleNamespace(fs=SimpleNamespace(base=self.bases[-1]))

    def set_sregs(self, sregs: Any) -> None:
        self.bases.append(sregs.fs.base)

    def run(self) -> Exit:
        lines = self._say(self.bases[-1])
        with self._log.open("ab") as file:
            file.write(as_kmsg(lines, self.first))
        self.first += len(lines)
        if isinstance(self._end, Exception):
            raise self._end
        return self._end


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return intel_host(tmp_path)


@pytest.fixture
def refusals(tree: Tree) -> Iterator[Refusals]:
    with Journal.open(tree) as journal:
        made = Refusals.open(tree, journal)
        assert isinstance(made, Refusals)
        with made:
            yield made


def good(base: int) -> list[str]:
    return dump_lines(base, 0x4000)


def refuse(refusals: Refusals, vcpu: RefusingVcpu) -> Refusal:
    return refusals.refuse(vcpu)  # type: ignore[arg-type]


def test_the_dump_is_that_of_the_refusal_and_the_state_is_put_back(
    tree: Tree, refusals: Refusals
) -> None:
    vcpu = RefusingVcpu(tree, good)
    refusal = refuse(refusals, vcpu)
    assert refusal.problem is None
    assert isinstance(refusal.dump, VmcsDump)
    assert (refusal.dump.debugctl, refusal.dump.fs_base) == (0x4000, refusal.fs_base)
    assert vcpu.bases == [0x1000, refusal.fs_base, 0x1000]
    assert tree.read(PARAMETER) == "1"


def test_every_refusal_has_a_base_of_its_own(tree: Tree, refusals: Refusals) -> None:
    vcpu = RefusingVcpu(tree, good)
    bases = {refuse(refusals, vcpu).fs_base for _ in range(8)}
    assert len(bases) == 8


def test_a_base_is_canonical_for_no_cpu() -> None:
    for base in (refused_entry.non_canonical() for _ in range(1000)):
        assert 0 < base < 1 << 64
        for width in (48, 57):
            assert base >> width - 1 not in (0, (1 << 65 - width) - 1)


def test_the_dump_of_another_refusal_does_not_count(tree: Tree, refusals: Refusals) -> None:
    refusal = refuse(refusals, RefusingVcpu(tree, lambda base: good(base ^ 1)))
    assert refusal.problem is not None
    assert "no VMCS dump with FS base" in refusal.problem.what


@pytest.mark.parametrize("length", [0, 2, 11, 18])
def test_a_dump_that_is_cut_off_shows_nothing(tree: Tree, refusals: Refusals, length: int) -> None:
    refusal = refuse(refusals, RefusingVcpu(tree, lambda base: good(base)[:length]))
    assert isinstance(refusal.problem, Missing)


def test_a_dump_among_lost_lines_shows_nothing(tree: Tree, refusals: Refusals) -> None:
    def with_gap(base: int) -> list[str]:
        with tree.path(KMSG).open("ab") as file:
            file.write(as_kmsg(["a", "b"]) + as_kmsg(["c"], 9))
        vcpu.first = 10
        return good(base)

    vcpu = RefusingVcpu(tree, with_gap)
    refusal = refuse(refusals, vcpu)
    assert refusal.lost == 6
    assert refusal.problem == Missing(
        "6 lines of the kernel log were lost", "boot with a larger log_buf_len"
    )


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (HltExit(), "ended in HltExit"),
        (FailEntryExit(0x80000022, 0), "ended in FailEntryExit 0x80000022"),
        (FailEntryExit(7, 0), "ended in FailEntryExit 0x7"),
    ],
)
def test_an_entry_that_was_not_refused_for_its_state_shows_nothing(
    tree: Tree, refusals: Refusals, end: Exit, said: str
) -> None:
    refusal = refuse(refusals, RefusingVcpu(tree, good, end))
    assert refusal.problem is not None
    assert refusal.problem.what.endswith(said)


def test_the_state_is_put_back_where_the_run_breaks(tree: Tree, refusals: Refusals) -> None:
    vcpu = RefusingVcpu(tree, good, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        refuse(refusals, vcpu)
    assert vcpu.bases[-1] == 0x1000


def test_without_a_kernel_log_there_are_no_refusals(tree: Tree) -> None:
    tree.path(KMSG).unlink()
    with Journal.open(tree) as journal:
        assert isinstance(Refusals.open(tree, journal), Missing)
        assert journal.changes == []


def test_a_log_that_is_given_is_read_and_left_open(tree: Tree) -> None:
    log = KernelLog.open(tree)
    assert isinstance(log, KernelLog)
    with log, Journal.open(tree) as journal:
        made = Refusals.open(tree, journal, log)
        assert isinstance(made, Refusals)
        with made:
            assert refuse(made, RefusingVcpu(tree, good)).problem is None
        assert len(log.since_marker().records) == len(good(0))


def test_a_log_of_its_own_is_closed(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        made = Refusals.open(tree, journal)
        assert isinstance(made, Refusals)
        held = descriptors_of(tree.path(KMSG))
        made.close()
        assert (held, descriptors_of(tree.path(KMSG))) == (1, 0)


def descriptors_of(path: Path) -> int:
    return [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.exists()].count(path)
