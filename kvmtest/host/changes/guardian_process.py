"""The guardian's process
======================

Waits for the end of its run, and undoes what a dead run left. The run's first change waits until
this process is up, so it imports next to nothing: the undoing code is imported when it is needed.
"""

# Module signal makes enums of this, which takes half as long as the interpreter's own start.
import _signal as signal  # type: ignore[import-not-found]
import os
import select
import sys

__all__ = ["END", "READY", "main"]

#: Sent by the guardian when it is up, and by the run when nothing is left to undo.
READY, END = b"r", b"e"

# Milliseconds to wait, after the run's death, for commands that it left running.
_COMMANDS_END_MS = 60_000


def main() -> None:
    """Guard one run, and end the process: 0, 1 where not all could be undone, or 2.

    Arguments: the tree's root; descriptors of the lifeline, of the pipe to tell READY by, of the
    run's pidfd, and of the lock.
    """
    arguments = sys.argv[1:]
    if len(arguments) != 5:
        print("kvmtest's guardian: started by `kvmtest run` alone", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop("PYTHONPATH", None)  # Not for the commands of an undo.
    watched, told, run, lock = map(int, arguments[1:])
    _outlive_memory_shortage()
    _tell_ready(told)
    status = 0 if _ended_cleanly(watched, run) else _undo(arguments[0], lock)
    os._exit(status)  # Without the interpreter's cleanup: a run waits for this exit.


def _undo(root: str, lock: int) -> int:
    from pathlib import Path

    from kvmtest.host.changes.journal import undo_left
    from kvmtest.host.tree import Tree

    return 1 if undo_left(Tree(Path(root)), hold=(lock,)).failed else 0


def _outlive_memory_shortage() -> None:
    """Have the kernel kill the run and not its guardian when memory runs out (proc(5))."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(descriptor, b"-1000")
        finally:
            os.close(descriptor)
    except OSError:  # Root alone may.
        return


def _tell_ready(told: int) -> None:
    try:
        os.write(told, READY)
    except BrokenPipeError:
        return  # The run is dead already, which its pidfd says too.
    finally:
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
            if fd == watched and os.read(watched, 1) == END:
                return True
            poller.unregister(fd)
            remaining.discard(fd)
            limit = _COMMANDS_END_MS if fd == run else limit
    return False


if __name__ == "__main__":
    main()
