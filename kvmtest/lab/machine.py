"""A running machine
=================

One process of the emulator, from its start to its end: what its kernel says on the serial port,
what its agent says on the parallel port, and no trace of it afterwards, however this process ends.
"""

import contextlib
import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.emulator import (
    PARALLEL,
    PAYLOAD,
    SERIAL,
    Dialogue,
    Emulator,
    Launch,
    Start,
)

from .channel import Channel, Received, Said, Told
from .image import disk

__all__ = ["Machine", "MachineFailed", "Outcome"]

# What ends a machine that will not speak again, as its console shows it.
_FATAL = re.compile(r"Kernel panic - not syncing: .*|^lab: .*", re.M)
# How long a machine may go on after that, so that the console is whole.
_LAST_WORDS = 2.0
_TAIL_LINES = 15
# More than a FIFO holds.
_CHUNK = 1 << 20


class MachineFailed(EnvironmentUnfit):
    """A machine did not do its job; ``console`` is all that it said."""

    def __init__(self, what: str, console: str) -> None:
        self.console = console
        super().__init__(what)

    @property
    def tail(self) -> str:
        """The last lines of its console that say something."""
        return "\n".join(self.console.strip().splitlines()[-_TAIL_LINES:])


@dataclass(slots=True)
class Outcome:
    """What came out of a machine: kvmtest's exit status, files, and when which stage was reached.

    ``stages`` are seconds from the emulator's start, ``console`` all that the
    kernel said, and ``said`` all that kvmtest printed.
    """

    status: int = 3
    files: dict[str, bytes] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    console: str = ""
    said: str = ""


@dataclass
class Machine:
    """Runs one machine; ``hear`` gets each line that it says."""

    emulator: Emulator
    start: Start
    payload: bytes
    hear: Callable[[str], None]

    def run(self, deadline: float, goal: str) -> Outcome:
        """Run it to its end, ``deadline`` seconds at most, in which it must reach the stage goal.

        Raises MachineFailed where it panics, hangs, or ends before.
        """
        with _folder() as folder, _Listener(folder, goal, self.hear, self.emulator) as listener:
            try:
                disk.payload(folder / PAYLOAD, self.payload)
                launch = self.emulator.launch(self.start, folder)
            except OSError as error:
                raise EnvironmentUnfit(
                    f"can't make a machine in {folder}: {error}; free some space, or set TMPDIR "
                    "to another folder"
                ) from None
            with _process(launch, folder) as process:
                listener.listen(process, launch.dialogue, deadline)
            save = self.start.save
            # One that does not know the command goes on past the breakpoint as if it were saved.
            if save and not self.emulator.is_saved(save):
                raise MachineFailed(
                    f"the emulator did not save its machine to {save}; use --cold",
                    listener.outcome.console,
                )
            return listener.outcome


class _Listener:
    """Reads both ports while the emulator runs, and talks to it."""

    def __init__(
        self, folder: Path, goal: str, hear: Callable[[str], None], emulator: Emulator
    ) -> None:
        self.outcome = Outcome()
        self._folder = folder
        self._goal = goal
        self._hear = hear
        self._emulator = emulator
        self._channel = Channel()
        self._console = bytearray()
        self._searched = 0
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._fatal = ""

    def __enter__(self) -> "_Listener":
        for name, take in ((SERIAL, self._take_serial), (PARALLEL, self._take_parallel)):
            os.mkfifo(self._folder / name)
            # Opened for writing too, so that it never ends while nobody writes.
            fd = os.open(self._folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._selector.register(fd, selectors.EVENT_READ, take)
        return self

    def __exit__(self, *exception: object) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fd)
        self._selector.close()

    def listen(
        self, process: "subprocess.Popen[bytes]", dialogue: Dialogue | None, allowed: float
    ) -> None:
        """Listen until the emulator's end, ``allowed`` seconds at most; raises MachineFailed."""
        until = time.monotonic() + allowed
        pidfd = os.pidfd_open(process.pid)
        self._selector.register(pidfd, selectors.EVENT_READ, None)
        if dialogue:
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            talk = partial(self._talk, process, dialogue)
            self._selector.register(process.stdout, selectors.EVENT_READ, talk)
        ended = False
        while not ended:
            left = until - time.monotonic()
            if left <= 0:
                break
            for key, _ in self._selector.select(left):
                if key.data is None:
                    ended = True
                else:
                    key.data(key.fd)
            if self._fatal:
                until = min(until, time.monotonic() + _LAST_WORDS)
        self._drain()
        self.outcome.console = self._console.decode(errors="replace").replace("\r\n", "\n")
        done = self._goal in self.outcome.stages and ended and not self._fatal
        if done and self._emulator.ended_well(process.wait()):
            return
        raise MachineFailed(self._why(ended, process, allowed), self.outcome.console)

    def _drain(self) -> None:
        """Take what is left: once, as one that does not end may write for ever."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                with contextlib.suppress(BlockingIOError):
                    key.data(key.fd)

    def _take_serial(self, fd: int) -> None:
        # A restored machine's port says NULs, which make a log that other programs call binary.
        self._console += os.read(fd, _CHUNK).replace(b"\0", b"")
        complete = self._console.rfind(b"\n") + 1
        if complete <= self._searched:
            return
        lines = self._console[self._searched : complete].decode(errors="replace")
        self._searched = complete
        if found := _FATAL.search(lines):
            self._fatal = self._fatal or found[0].strip()

    def _take_parallel(self, fd: int) -> None:
        for event in self._channel.feed(os.read(fd, _CHUNK)):
            if isinstance(event, Said):
                self.outcome.said += event.line + "\n"
                self._hear(event.line)
            elif isinstance(event, Received):
                self.outcome.files[event.name] = event.data
            elif isinstance(event, Told):
                self._take_message(event.message)

    def _talk(self, process: "subprocess.Popen[bytes]", dialogue: Dialogue, fd: int) -> None:
        assert process.stdin
        said = os.read(fd, _CHUNK)
        if not said:
            self._selector.unregister(fd)
            return
        try:
            answer = dialogue.answer(said)
        except EnvironmentUnfit as trouble:
            self._fatal = self._fatal or str(trouble)
            return
        # It may have ended meanwhile.
        with contextlib.suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), answer)

    def _take_message(self, message: dict[str, object]) -> None:
        now = time.monotonic() - self._began
        if stage := message.get("stage"):
            self.outcome.stages[str(stage)] = now
        if failed := message.get("failed"):
            self._fatal = str(failed)
        if "end" in message:
            self.outcome.status = _status(message["end"])
            self.outcome.stages["end"] = now

    def _why(self, ended: bool, process: "subprocess.Popen[bytes]", allowed: float) -> str:
        if self._fatal:
            return f"the lab's machine failed: {self._fatal}"
        if not ended:
            reached = ", ".join(self.outcome.stages) or "nothing"
            return (
                f"the lab's machine did not end within {allowed:.0f} s (it reached: {reached}); "
                "allow more with --deadline, or look at its console"
            )
        reason = self._emulator.complaint(self._folder)
        detail = f": {reason}" if reason else ""
        status = process.wait()
        how = f"was killed by {_signal(-status)}" if status < 0 else f"ended with status {status}"
        return f"the emulator {how} before its machine was done{detail}"


def _status(told: object) -> int:
    return told if isinstance(told, int) and 0 <= told <= 255 else 3


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder that is removed at the end, and also when this process is killed."""
    path = Path(tempfile.gettempdir(), f"kvmtest-lab-{secrets.token_hex(8)}")
    # Waits for the end of its input, which comes with our end, whatever ends us. It is there before
    # the folder is.
    janitor = subprocess.Popen(
        ["sh", "-c", 'read -r _; rm -rf -- "$1"', "janitor", str(path)],
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        _make_folder(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        assert janitor.stdin
        janitor.stdin.close()
        janitor.wait()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise EnvironmentUnfit(
            f"can't make {path}: {error.strerror}; set TMPDIR to another folder"
        ) from None


@contextlib.contextmanager
def _process(launch: Launch, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the emulator, which dies with us, and have it ended at the end."""
    if shutil.which("setpriv") is None:
        raise EnvironmentUnfit("setpriv is missing; apt-get install util-linux")
    # The shell looks whether we were gone before setpriv asked for the signal of our death.
    unless_orphaned = ["sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *unless_orphaned, *launch.command],
            stdin=subprocess.PIPE if launch.dialogue else subprocess.DEVNULL,
            stdout=subprocess.PIPE if launch.dialogue else out,
            stderr=err, env=launch.environment, cwd=folder, start_new_session=True, bufsize=0,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
