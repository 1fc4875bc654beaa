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

    NO_BOOT = "not booted"
    """The host did not come up with this kernel."""

    NO_RESULT = "no result"
    """The run ended without evidence."""

    UNFIT = "unfit"
    """It can't be done on this host."""

    NOT_RUN = "not run"
    """Its turn has not come."""


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
    match given_up.step, given_up.ended.ending:
        case _, Ending.LOST:
            gap = Gap.LOST
        case _, Ending.UNFIT:
            gap = Gap.UNFIT
        case Boot(), _:
            gap = Gap.NO_BOOT
        case _:
            gap = Gap.NO_RESULT
    return WhyNot(gap, given_up.ended.why)
