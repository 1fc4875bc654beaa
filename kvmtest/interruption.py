"""Interruption
============

SIGINT, SIGTERM and SIGHUP during ``kvmtest run``: recorded from the first moment on, raised only
where an exception breaks nothing. The module imports little, so that it can be loaded first.
"""

import signal
from types import FrameType

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Raises KeyboardInterrupt at a signal while armed; otherwise records the signal.

    During an import a KeyboardInterrupt may get lost or become another error. ``signal`` is the
    number of the first signal, or 0. Only the first signal raises, or with ``repeats`` each one.
    """

    def __init__(self, *, repeats: bool = False) -> None:
        self.signal = 0
        self._armed = False
        self._repeats = repeats

    def __enter__(self) -> "Interruption":
        self._old = [signal.signal(number, self._handle) for number in _SIGNALS]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in zip(_SIGNALS, self._old, strict=True):
            signal.signal(number, handler)

    def arm(self) -> None:
        """Raise KeyboardInterrupt at signals from now on; at once for an earlier one."""
        self._armed = self._repeats or not self.signal
        if self.signal:
            raise KeyboardInterrupt

    def defer(self) -> None:
        """Only record signals from now on."""
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._armed:
            self._armed = self._repeats
            raise KeyboardInterrupt
