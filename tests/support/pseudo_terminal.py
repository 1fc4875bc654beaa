"""A terminal of a given width, to see what is printed on one."""

import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


class Terminal:
    """A pseudo-terminal of a given width; ``stream`` is the program's side.

    It is read all the time: it holds 4 KiB, and then whoever writes waits.
    """

    END = b"\x04"

    def __init__(self, stream: TextIO, master: int) -> None:
        self.stream = stream
        self._master = master
        self._came = bytearray()
        self._more = threading.Condition()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def text(self) -> str:
        """Return what was written since the last time."""
        self.stream.write(self.END.decode())
        self.stream.flush()
        with self._more:
            assert self._more.wait_for(lambda: self.END in self._came, timeout=10)
            text, _, rest = self._came.partition(self.END)
            self._came = rest
        return text.decode()

    def _read(self) -> None:
        with suppress(OSError):  # EIO, once the program's side is closed
            while part := os.read(self._master, 65536):
                with self._more:
                    self._came += part
                    self._more.notify()


@contextmanager
def terminal(width: int = 100) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, width, 0, 0))
    try:
        with os.fdopen(slave, "w") as stream:
            term = Terminal(stream, master)
            yield term
        term.reader.join()
    finally:
        os.close(master)
