"""An emulated machine
===================

One process of the emulator, from its start to its end: what its kernel prints on the serial port,
what its agent sends on the parallel port, and no trace of it afterwards, however this process ends.
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

from kvmtest.child import mortal
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
from kvmtest.target import TargetFailed, TimeUp

from .channel import Channel, Line, Message, ReceivedFile
from .image import disk

__all__ = ["EmulatedMachine", "MachineOutput"]

# Lines on the console of a machine that will do nothing more.
_FATAL = re.compile(r"Kernel panic - not syncing: .*|^lab: .*", re.M)
# Seconds that a machine may go on after that, so that the console is whole.
_LAST_LINES_S = 2.0
# More than a FIFO holds.
_CHUNK = 1 << 20


@dataclass(slots=True)
class MachineOutput:
    """What came out of one machine: kvmtest's exit status and files.

    ``stages`` are the seconds from the emulator's start to each stage of the agent, ``console`` is
    all that the kernel printed, ``printed`` all that kvmtest did.
    """

    status: int = 3
    files: dict[str, bytes] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    console: str = ""
    printed: str = ""


@dataclass
class EmulatedMachine:
    """One machine to run; ``payload`` goes to its drive, ``on_line`` gets each line it prints."""

    emulator: Emulator
    start: Start
    payload: bytes
    on_line: Callable[[str], None]

    def run(self, deadline: float, goal: str) -> MachineOutput:
        """Run it to its end within ``deadline`` seconds; it must reach the stage ``goal``.

        Raises TargetFailed where it panics, hangs, or ends before, EnvironmentUnfit where it can't
        be started.
        """
        with _folder() as folder, _Listener(folder, goal, self.on_line, self.emulator) as listener:
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
            # An emulator that lacks the command goes on past the breakpoint as if it had saved.
            if save and not self.emulator.is_saved(save):
                raise TargetFailed(
                    f"the emulator did not save its machine to {save}; use --cold",
                    listener.output.console,
                )
            return listener.output


class _Listener:
    """Reads both ports while the emulator runs, and talks to it."""

    def __init__(
        self, folder: Path, goal: str, on_line: Callable[[str], None], emulator: Emulator
    ) -> None:
        self.output = MachineOutput()
        self._folder = folder
        self._goal = goal
        self._on_line = on_line
        self._emulator = emulator
        self._channel = Channel()
        self._console = bytearray()
        self._searched = 0
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._fatal = ""

    def __enter__(self) -> "_Listener":
        for name, read in ((SERIAL, self._read_serial), (PARALLEL, self._read_parallel)):
            os.mkfifo(self._folder / name)
            # Opened for writing too: without a writer the FIFO would end.
            fd = os.open(self._folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._selector.register(fd, selectors.EVENT_READ, read)
        return self

    def __exit__(self, *exception: object) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fd)
        self._selector.close()

    def listen(
        self, process: "subprocess.Popen[bytes]", dialogue: Dialogue | None, allowed: float
    ) -> None:
        """Listen until the emulator ends, ``allowed`` seconds at most; raises TargetFailed."""
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
                until = min(until, time.monotonic() + _LAST_LINES_S)
        self._drain()
        self.output.console = self._console.decode(errors="replace").replace("\r\n", "\n")
        done = self._goal in self.output.stages and ended and not self._fatal
        if done and self._emulator.ended_well(process.wait()):
            return
        failed = TargetFailed if ended or self._fatal else TimeUp
        raise failed(self._why(ended, process, allowed), self.output.console)

    def _drain(self) -> None:
        """Take what is left, once: an emulator that does not end may write for ever."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                with contextlib.suppress(BlockingIOError):
                    key.data(key.fd)

    def _read_serial(self, fd: int) -> None:
        # A restored machine's port sends NULs, which make other programs call the log binary.
        self._console += os.read(fd, _CHUNK).replace(b"\0", b"")
        complete = self._console.rfind(b"\n") + 1
        if complete <= self._searched:
            return
        lines = self._console[self._searched : complete].decode(errors="replace")
        self._searched = complete
        if found := _FATAL.search(lines):
            self._fatal = self._fatal or found[0].strip()

    def _read_parallel(self, fd: int) -> None:
        for event in self._channel.feed(os.read(fd, _CHUNK)):
            if isinstance(event, Line):
                self.output.printed += event.text + "\n"
                self._on_line(event.text)
            elif isinstance(event, ReceivedFile):
                self.output.files[event.name] = event.data
            elif isinstance(event, Message):
                self._take_message(event.fields)

    def _talk(self, process: "subprocess.Popen[bytes]", dialogue: Dialogue, fd: int) -> None:
        assert process.stdin
        data = os.read(fd, _CHUNK)
        if not data:
            self._selector.unregister(fd)
            return
        try:
            answer = dialogue.answer(data)
        except EnvironmentUnfit as trouble:
            self._fatal = self._fatal or str(trouble)
            return
        # The emulator may have ended meanwhile.
        with contextlib.suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), answer)

    def _take_message(self, message: dict[str, object]) -> None:
        now = time.monotonic() - self._began
        if stage := message.get("stage"):
            self.output.stages[str(stage)] = now
        if failed := message.get("failed"):
            self._fatal = str(failed)
        if "end" in message:
            self.output.status = _status(message["end"])
            self.output.stages["end"] = now

    def _why(self, ended: bool, process: "subprocess.Popen[bytes]", allowed: float) -> str:
        if self._fatal:
            return f"the lab's machine failed: {self._fatal}"
        if not ended:
            reached = ", ".join(self.output.stages) or "nothing"
            return (
                f"the lab's machine did not end within {allowed:.0f} s (it reached: {reached}); "
                "allow more with --deadline, or look at its console"
            )
        reason = self._emulator.complaint(self._folder)
        detail = f": {reason}" if reason else ""
        status = process.wait()
        how = f"was killed by {_signal(-status)}" if status < 0 else f"ended with status {status}"
        return f"the emulator {how} before its machine was done{detail}"


def _status(sent: object) -> int:
    return sent if isinstance(sent, int) and 0 <= sent <= 255 else 3


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder that is removed at the end, and also when this process is killed."""
    path = Path(tempfile.gettempdir(), f"kvmtest-lab-{secrets.token_hex(8)}")
    # It waits for the end of its input, which comes with our end, whatever ends us. It starts
    # before the folder is made.
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
    """Start the emulator, which dies with us; kill it at the end."""
    command = mortal(launch.command)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command,
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
