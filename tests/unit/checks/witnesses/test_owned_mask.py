"""What hits of the probe say of KVM's mask of host-owned bits."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from kvmtest.checks.witnesses.owned_mask import ENTRY_BYTES, look
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.host.changes.kprobes import KprobeEvent
from kvmtest.host.facts.run_flags import RunFlags
from kvmtest.host.observe.trace import Hit, Hits
from kvmtest.judge import Reading, Role

RUN = 0xFFFFFFFFC0500000
RIGHT = {"flags": 1, "owned": 0, "run": RUN, "ip": RUN + 4}


def looked_at(*values: Mapping[str, int]) -> list[Reading]:
    """What is read of hits with these values, where bit 2 is the flag."""
    hits = Hits(tuple(Hit(1, 0, at, each, "svm_vcpu_run") for at, each in enumerate(values)))
    probe = cast(KprobeEvent, SimpleNamespace(read=lambda: hits))
    witness = RunFlagsWitness(probe, RunFlags("svm_vcpu_run", "si", 4, 7, "svm_vcpu_run"))
    return [r for r in look(witness, len(values), "here") if isinstance(r, Reading)]


def test_entries_without_a_flag_and_a_mask_agree() -> None:
    readings = looked_at(RIGHT, {**RIGHT, "flags": 3})
    assert [reading.role for reading in readings] == [Role.CLAIM, Role.CLAIM, Role.CONTROL]
    assert all(reading.agrees for reading in readings)


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        ({"flags": 4}, 0),
        ({"owned": 1 << 14}, 1),
        ({"ip": RUN - 1}, 2),
        ({"ip": RUN + ENTRY_BYTES}, 2),
        ({"run": 0}, 2),
    ],
)
def test_one_wrong_hit_among_others_is_enough(wrong: Mapping[str, int], at: int) -> None:
    readings = looked_at(RIGHT, {**RIGHT, **wrong}, RIGHT)
    assert [reading.agrees for reading in readings] == [number != at for number in range(3)]


def test_no_hit_at_all_speaks_for_nothing() -> None:
    assert not looked_at()[1].agrees
