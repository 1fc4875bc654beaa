"""kvmtest/fleet/course.py: what is done next on a host, whatever becomes of it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kvmtest.fleet.course import (
    Boot,
    Course,
    Ended,
    Ending,
    Fact,
    GivenUp,
    Restore,
    Resumed,
    Run,
    Step,
)
from kvmtest.fleet.tasks import Task

DONE = Ended(Ending.DONE)
A1, A2, B1 = Task("a", 1), Task("a", 2), Task("b", 1)

endings = st.builds(
    Ended, st.sampled_from([*[Ending.DONE] * 4, *Ending]), st.sampled_from(["", "why"])
)
tasks = st.lists(st.integers(1, 3), min_size=1, max_size=3).flatmap(
    lambda counts: st.just(
        tuple(
            Task(f"k{kernel}", number, retries=kernel % 3)
            for kernel, count in enumerate(counts)
            for number in range(1, count + 1)
        )
    )
)


def steps(course: Course, *endings: Ended) -> list[Step]:
    """Return the steps of a course whose steps end so; all later ones are done."""
    made: list[Step] = []
    left = list(endings)
    while step := course.next:
        made.append(step)
        course = course.begun(step).ended(left.pop(0) if left else DONE)
    return made


def facts(course: Course, endings: Sequence[Ended]) -> list[Fact]:
    found: list[Fact] = []
    left = list(endings)
    while step := course.next:
        end = left.pop(0) if left else DONE
        found += [step, end]
        course = course.begun(step).ended(end)
    return found


def test_a_kernel_is_booted_once_and_the_host_restored_at_the_end() -> None:
    assert steps(Course((A1, A2, B1))) == [
        Boot("a"), Run("a", 1), Run("a", 2), Boot("b"), Run("b", 1), Restore(),
    ]  # fmt: skip
    assert steps(Course(())) == []


def test_a_failed_run_is_tried_again_by_another_name_on_a_restored_host() -> None:
    failed = Ended(Ending.FAILED, "no evidence")
    assert steps(Course((A1,)), DONE, failed) == [
        Boot("a"), Run("a", 1), Restore(), Boot("a"), Run("a", 1, 1), Restore(),
    ]  # fmt: skip
    course = Course.of((A1,), facts(Course((A1,)), [DONE, failed, DONE, DONE, failed]))
    assert course.failed == {("a", 1): GivenUp(Run("a", 1, 1), failed)}


def test_a_kernel_that_does_not_boot_is_given_up_and_the_next_one_tried() -> None:
    wrong = Ended(Ending.FAILED, "it came back with another kernel")
    course = Course((A1, A2, B1))
    assert steps(course, wrong, DONE, wrong) == [
        Boot("a"), Restore(), Boot("a"), Restore(), Boot("b"), Run("b", 1), Restore(),
    ]  # fmt: skip
    assert Course.of(course.tasks, facts(course, [wrong, DONE, wrong])).failed.keys() == {
        ("a", 1), ("a", 2),
    }  # fmt: skip


def test_what_a_host_can_not_do_is_not_tried_again() -> None:
    unfit = Ended(Ending.UNFIT, "no such kernel")
    assert steps(Course((A1, B1)), unfit) == [
        Boot("a"), Restore(), Boot("b"), Run("b", 1), Restore(),
    ]  # fmt: skip


def test_a_host_that_can_not_be_restored_is_lost() -> None:
    lost = Ended(Ending.LOST, "no answer")
    course = Course.of((A1, B1), [Boot("a"), lost, Restore(), lost])
    assert course.next is None
    assert course.lost == "no answer"
    assert [task.key for task in course.left] == [("a", 1), ("b", 1)]


def test_a_lost_host_is_restored_before_its_course_goes_on() -> None:
    course = Course.of((A1,), [Boot("a"), DONE, Run("a", 1), Ended(Ending.LOST), Restore(),
                               Ended(Ending.LOST)])  # fmt: skip
    assert steps(course.resumed(course.done)) == [Restore(), Boot("a"), Run("a", 1, 1), Restore()]


def test_a_killed_fleet_asks_for_the_job_that_was_at_work_by_its_name() -> None:
    at_work = Course.of((A1,), [Boot("a"), DONE, Run("a", 1)])
    assert steps(at_work.resumed({})) == [Boot("a"), Run("a", 1, 0), Restore()]
    # Its evidence was kept, and the ledger does not say so yet.
    assert steps(at_work.resumed({("a", 1): 0})) == [Restore()]


def test_a_job_that_a_restoration_ended_is_not_asked_for_again() -> None:
    killed = [Boot("a"), DONE, Run("a", 1), Resumed()]
    course = Course.of((A1,), [*killed, Boot("a"), Ended(Ending.STOPPED), Restore(), DONE])
    assert steps(course.resumed({})) == [Boot("a"), Run("a", 1, 1), Restore()]


@given(tasks, st.lists(endings, max_size=30), st.lists(st.integers(1, 20), max_size=4))
def test_no_job_is_named_as_one_that_ended_or_was_ended(
    of: tuple[Task, ...], ends: list[Ended], kills: list[int]
) -> None:
    ledger: list[Fact] = []
    over: set[tuple[str, int, int]] = set()
    at_work: tuple[str, int, int] | None = None
    for length in [*kills, 1000]:
        before = Course.of(of, ledger)
        course = before.resumed(before.done)
        ledger += [Resumed()] if ledger else []
        # Killed after so many facts, of which the last may be a step that has just begun.
        for _ in range(length):
            if isinstance(course.at, Boot | Run | Restore):
                end = ends.pop(0) if ends else DONE
                ledger.append(end)
                course = course.ended(end)
                if isinstance(ledger[-2], Run) and at_work:
                    over.add(at_work)
                    at_work = None
            elif step := course.next:
                ledger.append(step)
                course = course.begun(step)
                if isinstance(step, Run):
                    job = step.kernel, step.number, step.attempt
                    assert job not in over
                    assert at_work in (None, job)
                    at_work = job
                elif isinstance(step, Restore) and at_work:
                    over.add(at_work)
                    at_work = None
        assert before.done.items() <= course.done.items()
    assert course.next is None
    assert Course.of(of, ledger) == course


def test_an_interrupted_fleet_restores_and_counts_no_failure() -> None:
    stopped = Ended(Ending.STOPPED)
    course = Course.of((A1,), [Boot("a"), DONE, Run("a", 1), stopped])
    assert course.next == Restore()
    restored = course.begun(Restore()).ended(DONE)
    assert restored.is_clean
    assert steps(restored.resumed({})) == [Boot("a"), Run("a", 1, 1), Restore()]
    again = Course.of((A1,), [Boot("a"), DONE, Run("a", 1), stopped, Restore(), stopped])
    assert steps(again.resumed({}))[0] == Restore()


def test_what_somebody_removed_is_run_again_as_another_job() -> None:
    course = Course.of((A1,), facts(Course((A1,)), []))
    assert course.next is None
    assert steps(course.resumed({})) == [Boot("a"), Run("a", 1, 1), Restore()]


def test_what_is_done_has_its_exit_status() -> None:
    ends = [DONE, Ended(Ending.DONE, status=1)]
    assert Course.of((A1, A2), facts(Course((A1, A2)), ends)).done == {("a", 1): 1, ("a", 2): 0}


def test_what_was_given_up_is_tried_again_by_a_resume() -> None:
    unfit = Ended(Ending.UNFIT, "no such kernel")
    course = Course.of((A1,), [Boot("a"), unfit, Restore(), DONE])
    assert course.next is None
    assert steps(course.resumed(course.done)) == [Boot("a"), Run("a", 1), Restore()]


@given(tasks, st.lists(endings, max_size=60))
def test_every_course_ends_and_leaves_the_host_as_it_was_or_lost(
    of: tuple[Task, ...], ends: list[Ended]
) -> None:
    course = Course(of)
    made = facts(course, ends)
    for fact in made:
        course = course.ended(fact) if isinstance(fact, Ended) else course.begun(fact)
    assert course.lost or (course.is_clean and not course.left)
    assert not course.done & course.failed.keys()
    # A run's kernel was booted after the last restoration, and no run is made of what is done.
    running, done, jobs = None, set(), set()
    for step, end in zip(made[::2], made[1::2], strict=True):
        assert isinstance(end, Ended)
        match step:
            case Boot(kernel):
                running = kernel if end.ending is Ending.DONE else None
            case Run(kernel, number, attempt):
                assert running == kernel
                assert (kernel, number) not in done
                assert (kernel, number, attempt) not in jobs
                jobs.add((kernel, number, attempt))
                running = kernel if end.ending is Ending.DONE else None
                if end.ending is Ending.DONE:
                    done.add((kernel, number))
            case Restore():
                running = None
    assert done == course.done.keys()


@given(tasks, st.lists(endings, max_size=30), st.data())
def test_a_course_that_was_killed_anywhere_goes_on(
    of: tuple[Task, ...], ends: list[Ended], data: st.DataObject
) -> None:
    made = facts(Course(of), ends)
    cut = made[: data.draw(st.integers(0, len(made)))]
    before = Course.of(of, cut)
    after = before.resumed(before.done)
    assert after.done == before.done
    assert before.is_clean == after.is_clean
    rest = steps(after)
    assert {(s.kernel, s.number) for s in rest if isinstance(s, Run)} == {
        t.key for t in of
    } - before.done.keys()
    assert not rest or rest[-1] == Restore()
    assert rest or before.is_clean
