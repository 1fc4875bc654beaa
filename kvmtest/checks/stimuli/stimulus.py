"""What a stimulus of a guest is
=============================

Something that a guest is put through in the thread that runs its vCPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kvmtest.guests import Guest

__all__ = ["Stimulus"]


@dataclass(frozen=True, slots=True)
class Stimulus:
    """``apply`` puts one guest through it, and tells whether that was done; ``does`` says what."""

    does: str
    apply: Callable[[Guest], bool]
