"""SMIs are counted by MSR 0x34, which has 32 bits and wraps."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in import intel_host, write

from kvmtest.host.machine import Machine
from kvmtest.host.msr import MSR_SMI_COUNT, MsrAccess
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi import SmiCount, counts
from kvmtest.smi.counts import MsrSmiCount


def count_of(root: Path, *values: int) -> SmiCount:
    tree = intel_host(root, cpus=len(values))
    for cpu, value in enumerate(values):
        path = tree.path(f"/dev/cpu/{cpu}")
        if path.is_symlink():
            path.unlink()
        write(tree, f"/dev/cpu/{cpu}/msr", bytes(MSR_SMI_COUNT) + value.to_bytes(8, "little"))
    count = counts(Machine(tree))
    assert not isinstance(count, Missing), count
    return count


def test_each_cpu_has_its_own_count_in_the_low_32_bits(tmp_path: Path) -> None:
    count = count_of(tmp_path, 7, 0xFFFF_FFFF, 0xABCD_0000_0003)
    assert count.name == "MSR 0x34"
    assert count.cpus == (0, 1, 2)
    assert count.read(1) == 0xFFFF_FFFF
    assert count.read_all() == {0: 7, 1: 0xFFFF_FFFF, 2: 3}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_increase_is_right_across_a_wrap(before: int, smis: int) -> None:
    count = MsrSmiCount(MsrAccess(Tree(), (), None))
    assert count.increase(before, (before + smis) % 2**32) == smis


@pytest.mark.parametrize(("device", "words"), [(b"", "0x34"), (None, "module msr")])
def test_a_machine_without_a_count_says_so(
    tmp_path: Path, device: bytes | None, words: str
) -> None:
    tree = intel_host(tmp_path, cpus=1)
    path = tree.path("/dev/cpu/0/msr")
    path.unlink() if device is None else path.write_bytes(device)
    missing = counts(Machine(tree))
    assert isinstance(missing, Missing)
    assert words in missing.what
