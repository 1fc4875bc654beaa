"""Guardian
========

The process that outlives a killed run and undoes its host changes from the journal's record. It is
a fresh interpreter and not a fork: the run goes on after 0.3 ms whatever its memory (a fork of
300 MiB takes 6 ms) while 60 ms of start pass on another CPU, threads don't matter (a fork among
threads may deadlock, and Python 3.12 warns of it), and `pkill -f "kvmtest run"` does not hit it.
"""

import contextlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.lock import Lock
from kvmtest.host.tree import Tree

if TYPE_CHECKING:
    import subprocess

__all__ = ["Guardian", "main"]

# Without site-packages, whose start-up files take time and may start threads.
_COMMAND = (sys.executable, "-S", "-P", "-m", "kvmtest.host.guardian")

_READY = b"r"
_END = b"e"

# Milliseconds to wait, once the run is dead, for the commands that it left running.
_COMMANDS_END_MS = 60_000


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
                f"can't start the guardian: {error}; see that this user may run it, and has "
                "processes left"
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
        if os.read(self._ready, 1) != _READY:
            raise EnvironmentUnfit(
                "the guardian, which would undo host changes, did not start; "
                f"look at `{sys.executable} -m kvmtest.host.guardian`"
            )
        os.close(self._ready)
        self._ready = -1

    def end(self) -> None:
        """Send the guardian home, as everything is undone, and reap it; safe to repeat."""
        if self.lifeline >= 0:
            # Broken where somebody killed it: nothing is left for it to do anyway.
            with contextlib.suppress(BrokenPipeError):
                os.write(self.lifeline, _END)
            os.close(self.lifeline)
            self.lifeline = -1
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1
        self._process.wait()


def _spawn(tree: Tree, fds: tuple[int, int, int, int]) -> "subprocess.Popen[bytes]":
    """Start the guardian's interpreter in a session of its own, with ``fds`` and no other."""
    import subprocess

    if min(fds) <= 2:
        # The child's own standard streams would take their place.
        raise OSError("standard input, output or error is closed; open it (</dev/null)")
    package = str(Path(__file__).resolve().parents[2])
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


def main(argv: list[str]) -> int:
    """Guard one run: wait for its end, and undo what it left where it died."""
    from kvmtest.host.journal import undo_left

    if len(argv) != 5:
        print("kvmtest's guardian: started by `kvmtest run` alone", file=sys.stderr)  # noqa: T201
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop("PYTHONPATH", None)  # Not for the commands of an undo.
    _outlive_memory_shortage()
    watched, told, run, lock = map(int, argv[1:])
    _tell_ready(told)
    if _ended_cleanly(watched, run):
        return 0
    return 1 if undo_left(Tree(Path(argv[0])), hold=(lock,)).failed else 0


def _outlive_memory_shortage() -> None:
    """Have the kernel kill the run and not its guardian when memory runs out (proc(5))."""
    with contextlib.suppress(OSError):  # Root alone may.
        Path("/proc/self/oom_score_adj").write_text("-1000")


def _tell_ready(told: int) -> None:
    # Broken where the run is dead already, which its pidfd says too.
    with contextlib.suppress(BrokenPipeError):
        os.write(told, _READY)
    os.close(told)


def _ended_cleanly(watched: int, run: int) -> bool:
    """Wait for the run's end; tell whether it said goodbye, so that nothing is left to undo.

    The lifeline alone would wake too early: an exiting process closes its descriptors one by one,
    and a tracing instance can't be removed while one of them is open. The pidfd ``run`` becomes
    readable when all of them are closed (pidfd_open(2)); then commands that the run started may
    still hold the lifeline, and what they change would come after the undo.
    """
    poller = select.poll()
    poller.register(watched, select.POLLIN)
    poller.register(run, select.POLLIN)
    remaining = {watched, run}
    limit: int | None = None
    while remaining:
        ready = poller.poll(limit)
        if not ready:
            return False
        for fd, _ in ready:
            if fd == watched and os.read(watched, 1) == _END:
                return True
            poller.unregister(fd)
            remaining.discard(fd)
            limit = _COMMANDS_END_MS if fd == run else limit
    return False


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # Without the interpreter's tidying: a run waits for this end.
