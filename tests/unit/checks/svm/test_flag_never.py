"""svm.flag-never: what hits of the probe say, and what they come to on a KVM and its mutant."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest
from support.fake_kvm import Decide, mutants_of

from kvmtest.checks.scene import Scene
from kvmtest.checks.svm.flag_never import ENTRY_BYTES, look_at
from kvmtest.host.observe.trace import Hit, Hits
from kvmtest.judge import Reading, Role, Verdict

RUN = 0xFFFFFFFFC0500000
RIGHT = {"flags": 1, "owned": 0, "run": RUN, "ip": RUN + 4}


def looked_at(*values: Mapping[str, int]) -> list[Reading]:
    """What is read of hits with these values, where bit 2 is the flag."""
    hits = Hits(tuple(Hit(1, 0, at, each, "svm_vcpu_run") for at, each in enumerate(values)))
    scene = SimpleNamespace(collect=lambda entries: hits, is_flagged=lambda flags: bool(flags & 4))
    return [r for r in look_at(cast(Scene, scene), len(values), "here") if isinstance(r, Reading)]


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


def test_a_kvm_without_a_host_owned_bit_passes_by_each_witness(decide: Decide) -> None:
    decided = decide("svm.flag-never")
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"hostmsr", "runflags"})


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("svm.flag-never"))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["hits", "function"])
def test_without_a_control_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide("svm.flag-never", hides=hidden).verdict is Verdict.INCONCLUSIVE
