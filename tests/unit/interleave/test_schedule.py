from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.interleave.model import final_bit
from kvmtest.interleave.schedule import (
    ALIKE,
    VCPUS,
    Does,
    Schedule,
    Step,
    are_fit,
    every,
    has,
    number_of,
    schedules,
    text,
    vcpus_of,
)

T, S, h = Step(Does.TOGGLE), Step(Does.SMI), Step(Does.UNPLUG)
r0, r1 = Step(Does.RUN, 0), Step(Does.RUN, 1)
i0, o0, m0, e0 = (Step(does, 0) for does in (Does.STAY, Does.LEAVE, Does.MOVE, Does.EMULATE))

ALPHABETS = ("Tre", "TriomS", "Trk", "Trm")


def steps(letters: str) -> list[Does]:
    return [Does(letter) for letter in letters]


def outcomes(schedule: Schedule) -> frozenset[tuple[int, int]]:
    """What the vCPUs that act come to, on a KVM that is right and on one that loses updates."""
    return frozenset(
        (final_bit(schedule, v), final_bit(schedule, v, loses=True)) for v in vcpus_of(schedule)
    )


def test_a_schedule_has_a_text() -> None:
    assert text((T, r0, i0, S, o0)) == "T r0 i0 S o0"
    assert text(()) == ""


def test_the_vcpus_of_a_schedule_are_those_that_act() -> None:
    assert vcpus_of((T, r1, T)) == (1,)
    assert vcpus_of((r1, r0)) == (0, 1)
    assert vcpus_of((T,)) == (0,)


@pytest.mark.parametrize("letters", ALPHABETS)
@pytest.mark.parametrize("length", range(5))
def test_all_schedules_fit_differ_and_have_the_length(letters: str, length: int) -> None:
    all_ = list(every(steps(letters), length))
    assert len(set(all_)) == len(all_) == number_of(steps(letters), length)
    assert all(are_fit(each) and len(each) == length for each in all_)
    assert set(schedules(steps(letters), length)) <= set(all_)


@pytest.mark.parametrize("must_have", [{Does.UNPLUG}, {Does.UNPLUG, Does.EMULATE}])
@pytest.mark.parametrize("length", range(1, 5))
def test_schedules_that_have_some_steps_are_counted(must_have: set[Does], length: int) -> None:
    with_all = [s for s in every(Does, length) if all(has(s, does) for does in must_have)]
    assert number_of(Does, length, must_have) == len(with_all)


def test_without_order_among_the_steps_all_words_are_schedules() -> None:
    assert [number_of(steps("Tre"), length) for length in range(7)] == [5**n for n in range(7)]


@pytest.mark.parametrize("unfit", [(S,), (o0,), (i0, r0), (i0, r1), (i0, i0), (i0, o0, S)])
def test_one_vcpu_is_in_the_guest_while_the_other_is_stopped(unfit: Schedule) -> None:
    assert not are_fit(unfit)


@pytest.mark.parametrize(
    "left_out",
    [(r1,), (r0, r1, r0), (r0, r0), (r0, e0), (T, T, T), (m0, T), (m0, m0), (i0, S, S), (h, h)],
    ids=text,
)
def test_what_is_like_another_is_left_out(left_out: Schedule) -> None:
    assert are_fit(left_out)
    assert left_out not in set(schedules(Does, len(left_out)))


@pytest.mark.parametrize(
    "kept",
    [(r0, r1), (T, T, r0), (r0, T, r0), (m0, r0), (r0, m0), (i0, T, S, o0), (r0, h, r0), (h, T)],
    ids=text,
)
def test_what_is_like_no_other_is_kept(kept: Schedule) -> None:
    assert kept in set(schedules(Does, len(kept)))


@pytest.mark.parametrize("letters", ALPHABETS)
@pytest.mark.parametrize("length", range(1, 5))
def test_what_is_left_out_comes_to_nothing_else(letters: str, length: int) -> None:
    """A schedule's outcome is one of those of the schedules that are no longer."""
    kept = {outcomes(s) for n in range(length + 1) for s in schedules(steps(letters), n)}
    assert {outcomes(schedule) for schedule in every(steps(letters), length)} <= kept


def test_there_are_few() -> None:
    assert [len(list(schedules(steps("Tre"), n))) for n in range(1, 7)] == [3, 9, 22, 64, 170, 468]


def test_each_rule_has_its_reason() -> None:
    assert len(ALIKE) == 6
    assert all(one != other for one, other in combinations(ALIKE, 2))


@given(st.lists(st.sampled_from([T, r0, r1]), max_size=8))
def test_a_vcpu_has_the_hosts_bit_whatever_the_order(played: list[Step]) -> None:
    for vcpu in VCPUS:
        for host in (0, 1):
            wanted = host ^ played.count(T) % 2
            assert final_bit(tuple(played), vcpu, host=host) == wanted
            assert final_bit(tuple(played), vcpu, host=host, loses=True) == wanted
