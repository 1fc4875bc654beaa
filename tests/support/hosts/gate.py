"""A gate before the runs of a host: a run waits at it, so that a test meets it amid its work."""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from support.hosts import NamespacedHost

__all__ = ["Gate", "gate"]

_FOLDER = "/var/gate"
#: Seconds within which a run comes to the gate, on a busy machine.
PATIENCE_S = 120.0

# The host's Python waits before it runs `kvmtest run`. Python finds itself by its first word.
_WRAPPER = """#!/bin/bash
case " $* " in
*" kvmtest run "*)
	if [ -p /var/gate/came ]; then
		echo >/var/gate/came
		read -r _ </var/gate/go
	fi
	;;
esac
exec -a "$0" /usr/lib/python-itself "$@"
"""
_CLOSE = """
set -e
python=$(readlink -f /usr/bin/python3)
if [ ! -e /usr/lib/python-itself ]; then
	cp "$python" /usr/lib/python-itself
	cat >"$python.new"
	chmod 755 "$python.new"
	mv "$python.new" "$python"
fi
mkdir -p /var/gate
mkfifo /var/gate/came /var/gate/go
"""


class Gate:
    """The closed gate of a host."""

    def __init__(self, host: NamespacedHost) -> None:
        self._host = host
        # The host's files, seen from here: a pulled cable is none between us and the gate.
        self._folder = host.root / _FOLDER[1:]
        # To be written, too: a FIFO whose last writer has gone looks as if there were more to read.
        self._came = os.open(self._folder / "came", os.O_RDWR | os.O_NONBLOCK)

    def await_run(self) -> None:
        """Return when a run has come to the gate."""
        assert select.select([self._came], [], [], PATIENCE_S)[0], "no run came"
        assert os.read(self._came, 1) == b"\n"

    @property
    def has_come(self) -> bool:
        """Whether a run has come since await_run()."""
        return bool(select.select([self._came], [], [], 0)[0])

    def let_pass(self) -> None:
        """Let the run that came go on, and those after it pass."""
        go = os.open(self._folder / "go", os.O_WRONLY)
        self.open()
        os.write(go, b"\n")
        os.close(go)

    def open(self) -> None:
        for name in ("came", "go"):
            (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._came)


@contextmanager
def gate(host: NamespacedHost) -> Iterator[Gate]:
    """Have the host's next run of kvmtest wait."""
    host.run("sh", "-c", _CLOSE, given=_WRAPPER)
    gate = Gate(host)
    try:
        yield gate
    finally:
        gate.close()
        if host.is_on:
            host.run("rm", "-rf", _FOLDER)
