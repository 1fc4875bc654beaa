"""Guardian
========

The process that outlives a killed run and undoes its host changes from the journal's record, as the
run sees it; :mod:`.guardian_process` is what that process does. It is a fresh interpreter and not a
fork: the run goes on after 0.3 ms whatever its memory (a fork of 300 MiB takes 6 ms), threads don't
matter (a fork among threads may deadlock, and Python 3.12 warns of it), and a ``pkill`` of
``kvmtest run`` does not hit it.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.changes.guardian_process import END, READY
from kvmtest.host.changes.lock import Lock
from kvmtest.host.tree import Tree

if TYPE_CHECKING:
    import subprocess

__all__ = ["Guardian"]

# Without site-packages, whose start-up files take time and may start threads; and not with -m,
# which imports more than the guardian itself.
_COMMAND = (
    sys.executable,
    "-S",
    "-P",
    "-c",
    "from kvmtest.host.changes.guardian_process import main; main()",
)


class Guardian:
    """The guardian as the run sees it.

    ``lifeline`` is a pipe's end that the guardian watches: whoever inherits it (a command that
    changes the host) makes the guardian wait for its end too.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", lifeline: int, ready: int) -> None:
        self._process = process
        self._ready = ready
        self._pid = process.pid
        self.lifeline = lifeline

    @classmethod
    def start(cls, tree: Tree, lock: Lock) -> "Guardian":
        """Start the guardian of this process for ``tree``; it holds ``lock`` too until its end.

        Returns before it is up; ``await_ready`` before the first change. Raises EnvironmentUnfit.
        """
        watched, lifeline = os.pipe()
        ready, told = os.pipe()
        try:
            myself = os.pidfd_open(os.getpid())
            try:
                process = _spawn(tree, (watched, told, myself, lock.fd))
            finally:
                os.close(myself)
        except OSError as error:
            os.close(lifeline)
            os.close(ready)
            raise EnvironmentUnfit(
                f"can't start the guardian: {error}; check that this user may run it, and may "
                "start more processes (ulimit -u)"
            ) from error
        finally:
            os.close(watched)
            os.close(told)
        lock.name_guardian(process.pid)
        return cls(process, lifeline, ready)

    @property
    def pid(self) -> int:
        """The guardian's process."""
        return self._pid

    def await_ready(self) -> None:
        """Wait until the guardian is up. Raises EnvironmentUnfit where it died on the way."""
        if self._ready < 0:
            return
        if os.read(self._ready, 1) != READY:
            raise EnvironmentUnfit(
                "the guardian, which would undo host changes, did not start; "
                f"look at `{sys.executable} -m kvmtest.host.changes.guardian_process`"
            )
        os.close(self._ready)
        self._ready = -1

    def end(self) -> None:
        """Tell the guardian that everything is undone, and reap it; safe to repeat."""
        if self.lifeline >= 0:
            # Broken where somebody killed it: nothing is left for it to do anyway.
            with contextlib.suppress(BrokenPipeError):
                os.write(self.lifeline, END)
            os.close(self.lifeline)
            self.lifeline = -1
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1
        self._process.wait()


def _spawn(tree: Tree, fds: tuple[int, int, int, int]) -> "subprocess.Popen[bytes]":
    """Start the guardian's interpreter in a session of its own, with only ``fds`` inherited."""
    import subprocess

    if min(fds) <= 2:
        # The child's own standard streams would take their place.
        raise OSError("standard input, output or error is closed; open it (</dev/null)")
    package = str(Path(__file__).resolve().parents[3])
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.Popen(
        [*_COMMAND, str(tree.root.resolve()), *map(str, fds)],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=settings | {"PYTHONPATH": package},
        start_new_session=True,
    )
