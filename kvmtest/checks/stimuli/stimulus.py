"""A stimulus of a guest
=====================

An action on a guest, performed in the thread that runs its vCPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kvmtest.guests import Guest

__all__ = ["Stimulus"]


@dataclass(frozen=True, slots=True)
class Stimulus:
    """``apply`` acts on one guest and tells whether that worked; ``does`` says what happened."""

    does: str
    apply: Callable[[Guest], bool]
