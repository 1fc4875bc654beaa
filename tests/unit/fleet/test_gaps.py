"""kvmtest/fleet/gaps.py: why a task has no evidence, whatever its lane went through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.fleet.course import Boot, Course, Ended, Ending, Fact, Restore, Run
from kvmtest.fleet.gaps import Gap, WhyNot, gaps
from kvmtest.fleet.tasks import Task

DONE, LOST = Ended(Ending.DONE), Ended(Ending.LOST, "why")
TASKS = (Task("a", 1, retries=0), Task("a", 2, retries=0), Task("b", 1, retries=0))


def after(*facts: Fact) -> Course:
    return Course.of(TASKS, facts)


def test_what_is_done_has_no_gap_and_the_rest_was_not_run() -> None:
    never = WhyNot(Gap.NOT_RUN)
    course = after(Boot("a"), DONE, Run("a", 1), DONE, Run("a", 2))
    assert gaps(course) == {("a", 2): never, ("b", 1): never}


@pytest.mark.parametrize(
    ("ending", "gap"),
    [
        (Ending.WRONG_KERNEL, Gap.WRONG_KERNEL),
        (Ending.FAILED, Gap.NO_BOOT),
        (Ending.LOST, Gap.LOST),
        (Ending.UNFIT, Gap.UNFIT),
    ],
)
def test_a_kernel_that_was_not_booted_is_missing_in_all_its_tasks(ending: Ending, gap: Gap) -> None:
    course = after(Boot("a"), Ended(ending, "why"), Restore(), DONE, Boot("b"), DONE,
                   Run("b", 1), DONE)  # fmt: skip
    assert gaps(course) == {("a", 1): WhyNot(gap, "why"), ("a", 2): WhyNot(gap, "why")}


@pytest.mark.parametrize(
    ("ending", "gap"),
    [
        (Ending.LATE, Gap.LATE),
        (Ending.FAILED, Gap.NO_RESULT),
        (Ending.LOST, Gap.LOST),
        (Ending.UNFIT, Gap.UNFIT),
    ],
)
def test_a_run_without_evidence_is_missing_alone(ending: Ending, gap: Gap) -> None:
    course = after(Boot("a"), DONE, Run("a", 1), Ended(ending, "why"), Restore(), DONE)
    assert gaps(course)["a", 1] == WhyNot(gap, "why")
    assert gaps(course)["a", 2].gap is Gap.NOT_RUN


def test_a_lost_host_leaves_all_that_had_not_failed_before() -> None:
    failed = Ended(Ending.FAILED, "x")
    assert gaps(after(Boot("a"), DONE, Run("a", 1), failed, Restore(), LOST)) == {
        ("a", 1): WhyNot(Gap.NO_RESULT, "x"),
        ("a", 2): WhyNot(Gap.LOST, "why"),
        ("b", 1): WhyNot(Gap.LOST, "why"),
    }


def test_an_interruption_is_no_reason() -> None:
    stopped = Ended(Ending.STOPPED)
    course = after(Boot("a"), DONE, Run("a", 1), stopped, Restore(), stopped)
    assert {why.gap for why in gaps(course).values()} == {Gap.NOT_RUN}


@given(st.lists(st.sampled_from(Ending), max_size=30))
def test_every_task_is_done_or_has_a_gap_in_every_course(endings: list[Ending]) -> None:
    course = Course(TASKS)
    for ending in endings:
        if step := course.next:
            course = course.begun(step).ended(Ended(ending, "why"))
    found = gaps(course)
    assert set(found) == {task.key for task in TASKS} - set(course.done)
    for key, why in found.items():
        assert (why.gap is Gap.NOT_RUN) == (key not in course.failed and not course.lost)
