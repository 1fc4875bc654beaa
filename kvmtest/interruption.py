"""Interruption
============

SIGINT, SIGTERM and SIGHUP during ``kvmtest run``: heard from its first moment on, and let through
only where an exception out of nowhere breaks nothing. Imports little, so that it can come first.
"""

import signal
from types import FrameType

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Turns the signals into KeyboardInterrupt while it is armed, and remembers them otherwise.

    Amid an import a KeyboardInterrupt may get lost or end up as another error. ``signal`` is the
    first that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._armed = False

    def __enter__(self) -> "Interruption":
        self._old = [signal.signal(number, self._handle) for number in _SIGNALS]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in zip(_SIGNALS, self._old, strict=True):
            signal.signal(number, handler)

    def arm(self) -> None:
        """Let signals through, one that came before at once."""
        self._armed = not self.signal
        if self.signal:
            raise KeyboardInterrupt

    def defer(self) -> None:
        """Have signals wait."""
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt
