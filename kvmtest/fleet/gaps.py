"""Gaps
====

Why a task of a lane has no evidence, by where its course stands.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from .course import Boot, Course, Ending, GivenUp
from .tasks import TaskKey

__all__ = ["Gap", "WhyNot", "gaps"]


class Gap(StrEnum):
    """Why a task has no evidence."""

    LOST = "lost"
    """The host does not answer."""

    WRONG_KERNEL = "wrong kernel"
    """The host came back with another kernel."""

    NO_BOOT = "not booted"
    """The host could not be made to boot this kernel."""

    LATE = "deadline"
    """The run did not end in time."""

    NO_RESULT = "no result"
    """The run ended without evidence."""

    UNFIT = "unfit"
    """It can't be done on this host."""

    NOT_RUN = "not run"
    """Its turn has not come."""


_BY_ENDING = {
    Ending.LOST: Gap.LOST,
    Ending.WRONG_KERNEL: Gap.WRONG_KERNEL,
    Ending.LATE: Gap.LATE,
    Ending.UNFIT: Gap.UNFIT,
}


class WhyNot(NamedTuple):
    """A gap, and the reason in words."""

    gap: Gap
    why: str = ""


def gaps(course: Course) -> Mapping[TaskKey, WhyNot]:
    """Return why the tasks of a lane have no evidence; those that are done have no entry."""
    left = WhyNot(Gap.LOST, course.lost) if course.lost else WhyNot(Gap.NOT_RUN)
    return {
        task.key: _why(given_up) if (given_up := course.failed.get(task.key)) else left
        for task in course.tasks
        if task.key not in course.done
    }


def _why(given_up: GivenUp) -> WhyNot:
    ended = given_up.ended
    failed = Gap.NO_BOOT if isinstance(given_up.step, Boot) else Gap.NO_RESULT
    return WhyNot(_BY_ENDING.get(ended.ending, failed), ended.why)
