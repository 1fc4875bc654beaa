"""All schedules up to a length, on the model of KVM and on models with a fault."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.debugctl_model import FAULTS, Vmx
from support.fake_kvm import fake_kvm

from kvmtest.checks.context import Context
from kvmtest.checks.schedules.enumeration import alphabet, enumerated
from kvmtest.interleave.schedule import Does
from kvmtest.judge import Reading, Role


@pytest.fixture
def readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Play on a model; return the claims, one for each length."""

    def play(model: type[Vmx], steps: frozenset[Does], **host_has: str) -> list[Reading]:
        with fake_kvm(tmp_path, monkeypatch, model, **host_has) as context:
            return list(_taken(replace(context, schedule_steps=3), steps))

    return play


def _taken(context: Context, steps: frozenset[Does]) -> Iterator[Reading]:
    for each in enumerated(context, steps):
        assert isinstance(each, Reading)
        if "schedules of" in each.what:
            yield each


def claims(readings: list[Reading]) -> list[tuple[object, object]]:
    return [(r.observed, r.raw["first"]) for r in readings if r.role is Role.CLAIM]


WITH_EMULATION = frozenset({Does.TOGGLE, Does.RUN, Does.EMULATE})
WITHOUT = frozenset(Does) - {Does.EMULATE, Does.UNPLUG}


def test_a_right_kvm_agrees_with_the_model(readings) -> None:
    taken = readings(Vmx, WITHOUT)
    assert claims(taken) == [(0, "none")] * 3
    assert all(r.observed == "none" for r in taken if r.role is Role.CONTROL)


def test_the_lost_update_is_found_and_is_what_the_model_with_it_says(readings) -> None:
    taken = readings(Vmx, WITH_EMULATION)
    assert claims(taken) == [
        (1, "e0"),
        (3, "r0 e1, e0 r1, e0 e1"),
        (3, "T T e0, r0 T e0, e0 T T"),
    ]
    figures = [r.observed for r in taken if r.role is Role.MEASURE]
    assert figures == ["1, these", "3, these", "3, these"]


def test_where_updates_are_not_lost_no_schedule_is_wrong(readings) -> None:
    assert claims(readings(FAULTS["emulation-mended"], WITH_EMULATION)) == [(0, "none")] * 3


def test_a_fault_that_a_signal_shows_is_found(readings) -> None:
    taken = readings(FAULTS["signal-loses-toggle"], WITHOUT)
    assert claims(taken)[0] == (1, "k0")
    assert any(r.observed == "0, others" for r in taken)


def test_a_fault_that_only_a_move_shows_is_found(readings) -> None:
    _, _, (wrong, first) = claims(readings(FAULTS["migration-not-compared"], WITHOUT))
    assert wrong
    assert "m0" in str(first)


def test_schedules_without_whole_dumps_break_the_control(readings) -> None:
    taken = readings(Vmx, WITH_EMULATION, hides="dumps")
    broken = [r for r in taken if "without a whole dump" in r.what]
    assert next(r.observed for r in broken) == "T, r0, e0"
    assert claims(taken) == [(0, "none")] * 3


def test_without_a_labs_source_no_smi_is_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_kvm(tmp_path, monkeypatch) as context:
        assert alphabet(context) >= WITHOUT - {Does.SMI, Does.MOVE}
        assert Does.SMI not in alphabet(context)


def test_a_vcpu_moves_only_where_there_is_a_second_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_kvm(tmp_path, monkeypatch) as context:
        for cpus, moves in (([3], False), ([3, 5], True)):
            monkeypatch.setattr("os.sched_getaffinity", lambda _, cpus=cpus: set(cpus))
            assert (Does.MOVE in alphabet(context)) is moves
