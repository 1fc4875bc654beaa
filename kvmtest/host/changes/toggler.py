"""The toggler
===========

Writes two texts in turn to one host file, such as freeze_on_smi, at a given rate while vCPUs run in
other threads. The loop is native (c_helpers/toggler.c) and runs with the GIL released. It undoes
nothing: its caller must have written the file through the journal first.
"""

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvmtest._native import ffi, lib
from kvmtest.errors import KvmtestError
from kvmtest.workers import PATIENCE_S

__all__ = ["StampedWrite", "Toggler"]

# A longer interval is a mistake in units.
LONGEST_INTERVAL = 86400

HINTS = {
    errno.ENOENT: "check that this machine has it (kvmtest doctor)",
    errno.EACCES: "run as root",
    errno.EPERM: "run as root, with lockdown off",
    errno.EROFS: "run on the host, where it can be written",
    errno.EINVAL: "give it texts that it takes",
    errno.ENOSPC: "make room on the device",
    errno.EBADF: "make a new toggler: this one is closed",
    errno.EIO: "give it texts that it takes whole",
    errno.ESPIPE: "give it a file that takes writes at an offset",
}


class StampedWrite(NamedTuple):
    """One write: which of the two texts, and the TSC before and after the write."""

    value: int
    tsc_before: int
    tsc_after: int


class Toggler:
    """Writes ``texts[1]``, ``texts[0]``, ``texts[1]``, ... to ``path``.

    One write every ``interval`` seconds (0: as fast as it goes), or up to ``spread`` more at
    random, the same for a ``seed``; at most ``limit`` of them (0: until :meth:`stop`). The last
    ``stamps`` writes are kept with their TSC. A worker for a :class:`kvmtest.workers.Supervisor`;
    as a context manager it is closed at the end of the block. Raises KvmtestError where the file
    can't be opened.
    """

    def __init__(
        self,
        path: Path,
        texts: Sequence[str] = ("0", "1"),
        *,
        interval: float = 0.0,
        spread: float = 0.0,
        seed: int = 1,
        limit: int = 0,
        stamps: int = 0,
    ) -> None:
        if len(texts) != 2:
            raise ValueError(f"a toggler has two texts, not {len(texts)}")
        for what, seconds in (("interval", interval), ("spread", spread)):
            if not 0 <= seconds <= LONGEST_INTERVAL:
                raise ValueError(f"a toggler's {what} is 0 to {LONGEST_INTERVAL} s, not {seconds}")
        self.path = path
        self._running = threading.Lock()
        # The native side keeps only pointers to these.
        self._texts = [ffi.new("char[]", os.fsencode(text)) for text in texts]
        self._stamps = ffi.new("struct toggle_stamp[]", stamps)
        self._native = ffi.new(
            "struct toggler *",
            {
                "fd": -1,
                "wake_fd": -1,
                "text": self._texts,
                "interval": int(interval * 1e9),
                "spread": int(spread * 1e9),
                "seed": seed,
                "limit": limit,
                "capacity": stamps,
                "stamps": self._stamps,
            },
        )
        try:
            self._native.fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._error("open", error.errno or 0) from None
        try:
            self._native.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            os.close(self._native.fd)
            raise

    @property
    def name(self) -> str:
        """What the worker is, in words."""
        return f"toggler of {self.path}"

    def run(self) -> None:
        """Write until stopped, the limit, or an error.

        Raises KvmtestError, which names the file and the errno, where a write fails.
        """
        with self._running:
            if self._native.fd < 0:
                raise self._error("write", errno.EBADF)
            lib.toggler_run(self._native)
            if self._native.error:
                raise self._error("write", self._native.error)

    def stop(self) -> None:
        """Stop writing at once and for good; from any thread."""
        self._native.stop = 1
        if self._native.wake_fd >= 0:
            os.eventfd_write(self._native.wake_fd, 1)

    @property
    def writes(self) -> int:
        """The number of writes that the last :meth:`run` made."""
        return int(self._native.writes)

    @property
    def stamps(self) -> list[StampedWrite]:
        """The newest writes, oldest first; complete once :meth:`run` is over."""
        capacity, writes = self._native.capacity, self.writes
        kept = (self._stamps[at % capacity] for at in range(max(0, writes - capacity), writes))
        return [StampedWrite(stamp.value, stamp.before, stamp.after) for stamp in kept]

    def close(self) -> None:
        """Stop, wait for the writing to end, and close the descriptors.

        A write that does not come back keeps them.
        """
        self.stop()
        if not self._running.acquire(timeout=PATIENCE_S):
            return
        try:
            for name in ("fd", "wake_fd"):
                if getattr(self._native, name) >= 0:
                    os.close(getattr(self._native, name))
                    setattr(self._native, name, -1)
        finally:
            self._running.release()

    def _error(self, what: str, number: int) -> KvmtestError:
        name = errno.errorcode.get(number, str(number))
        advice = HINTS.get(number, "see what the kernel log says")
        return KvmtestError(f"{self.path}: {what}: {os.strerror(number)} ({name}); {advice}")

    def __enter__(self) -> "Toggler":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
