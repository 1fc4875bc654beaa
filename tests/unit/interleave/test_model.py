"""The model of KVM's bookkeeping, on a KVM that is right and on one that loses updates."""

import pytest
from support.schedules import schedule

from kvmtest.interleave.model import final_bit


@pytest.mark.parametrize(
    ("played", "bit", "lost"),
    [
        ("", 1, 1),
        ("e0", 1, 0),  # the finding: a new vCPU at the reset vector, with the knob on
        ("e0 r0", 1, 0),
        ("r0 e0", 1, 1),
        ("r0 T e0", 0, 1),
        ("r0 T e0 T r0", 1, 1),  # healed by a toggle
        ("T e0", 0, 0),  # a new VMCS holds 0
        ("T e0 T", 1, 1),
        ("e0 T T", 1, 0),
        ("e1", 1, 1),  # another vCPU's
        ("k0 T k0", 0, 0),
        ("i0 T", 0, 0),
        ("i0 T o0 T", 1, 1),
        ("e0 i0 T T o0", 1, 1),
        ("e0 i0 m0 o0", 1, 0),
    ],
)
def test_the_final_bit(played: str, bit: int, lost: int) -> None:
    assert final_bit(schedule(played), 0) == bit
    assert final_bit(schedule(played), 0, loses=True) == lost
