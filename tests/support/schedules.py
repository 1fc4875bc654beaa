"""Schedules from their texts."""

from kvmtest.interleave.schedule import Does, Schedule, Step


def schedule(text: str) -> Schedule:
    words = text.split()
    return tuple(Step(Does(w[0]), int(w[1:]) if w[1:] else None) for w in words)
