"""A job on its host
=================

The program that a host runs for a fleet: it starts a job that outlives the connection, waits for
its end, and ends it. A lock (flock(2)) is held as long as the job is at work, so the kernel tells
its end to whoever waits, however it ended. Nothing but the standard library is imported.

    python3 -m kvmtest.fleet.unit start FOLDER <JOB           prints nothing
    python3 -m kvmtest.fleet.unit wait FOLDER                 prints its state at its end
    python3 -m kvmtest.fleet.unit end SECONDS FOLDER ...      ends those that are at work
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BEGAN", "ENDED", "OUTPUT", "main"]

#: States of a job. One that began, and is at work no more, died.
BEGAN, ENDED = "began", "ended"

#: The folder that kvmtest writes, in a job's.
OUTPUT = "output"

_TOLD = "it was told to end"

_LOCK, _STATE = "lock", "state.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SYSTEMD = Path("/run/systemd/system")
# How much is kept of what a job prints: its end.
_TAIL = 16 << 10
# A state has this size from the start on: a disk that is full by the end still takes it.
_STATE_SIZE = 128 << 10
# Seconds that a job gets to restore its host once it is told to end.
_GRACE_S = 60.0
# Seconds in which a signal to a group of processes reaches the last of them.
_HEARING_S = 1.0
# Seconds for the unit to say that it has the lock.
_READY_S = 60.0


def main(words: Sequence[str]) -> int:
    """Do what the words say; return the exit status."""
    command, *rest = words
    if command == "end":
        return max((_end(Path(folder), float(rest[0])) for folder in rest[1:]), default=0)
    folder = Path(rest[0])
    if command == "start":
        try:
            return _start(folder, json.load(sys.stdin))
        except OSError as error:
            sys.exit(error.strerror)
    if command == "work":
        return _work(folder, folder / rest[1])
    if command == "wait":
        sys.stdout.write(json.dumps(_wait(folder)))
        return 0
    raise ValueError(command)


def _start(folder: Path, job: Mapping[str, Any]) -> int:
    """Start a job, unless the folder has one; return when it is at work, or has ended."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / _STATE).exists():
        return 0
    draft = folder / f"{secrets.token_hex(8)}.draft"
    try:
        _write(draft, {"job": job})
        module = "kvmtest.fleet.unit"
        work = [sys.executable, "-m", module, "work", str(folder.absolute()), draft.name]
        return _by_systemd(work) if _SYSTEMD.is_dir() else _by_session(work)
    finally:
        # It has become the state, or another one has.
        draft.unlink(missing_ok=True)


def _by_systemd(work: Sequence[str]) -> int:
    """Start a service of systemd, which no session's end touches; return when it is ready.

    Should the unit be killed, kvmtest and its guardian are left to restore the host.
    """
    settings = [f"--setenv={name}={os.environ[name]}" for name in _passed_on()]
    options = ["--quiet", "--collect", "--service-type=notify", "--property=KillMode=process"]
    unit = f"--unit=kvmtest-{secrets.token_hex(8)}"
    return subprocess.run(["systemd-run", *options, unit, *settings, *work]).returncode


def _passed_on() -> list[str]:
    return [name for name in os.environ if name.startswith("PYTHON") or name == "PATH"]


def _by_session(work: Sequence[str]) -> int:
    """Start a process in a session of its own; return when it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        name = f"kvmtest-{secrets.token_hex(16)}"
        ready.bind(f"\0{name}")
        process = subprocess.Popen(
            work,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", start_new_session=True, env={**os.environ, "NOTIFY_SOCKET": f"@{name}"},
        )  # fmt: skip
        ended = os.pidfd_open(process.pid)
        try:
            readable = select.select([ready.fileno(), ended], [], [], _READY_S)[0]
            if ready.fileno() in readable:
                return 0
        finally:
            os.close(ended)
    return process.wait() if readable else 1


def _work(folder: Path, draft: Path) -> int:
    """Do the job, as its unit: hold the lock, do the job once, say how it ended."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _is_first(lock) or (folder / _STATE).exists():
        _say_ready()
        return 0
    worker = _Worker(json.loads(draft.read_bytes())["job"], lock)
    state = {"state": BEGAN, "pid": os.getpid(), "boot_id": _boot_id()}
    _write(draft, state)
    draft.rename(folder / _STATE)
    _say_ready()
    _write(folder / _STATE, {**state, "state": ENDED, **worker.do()})
    return 0


def _is_first(lock: int) -> bool:
    """Take the lock; tell whether nobody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Worker:
    """Runs a job's commands one after the other, and keeps the end of what they print."""

    def __init__(self, job: Mapping[str, Any], lock: int) -> None:
        self._job = job
        self._lock = lock
        self._until = time.monotonic() + float(job["deadline"])
        self._tail = b""
        self._stopped = ""
        self._is_late = False
        # Readable once the unit was told to end; the job itself hears the same signal.
        self._told, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)

    def do(self) -> dict[str, Any]:
        """Run all commands; return how the job ended."""
        for words in self._job["before"]:
            status = self._run(words)
            if status or self._stopped:
                failed = f"the command `{shlex.join(words)}` ended with status {status}"
                return self._ended(None, self._stopped or failed)
        status = self._run(self._job["command"])
        if status < 0:
            # Its guardian may have done it, and this waits for the guardian.
            self._run(self._job["restore"], restores=True)
            return self._ended(None, self._stopped or f"kvmtest was killed by signal {-status}")
        return self._ended(status, self._stopped)

    def _ended(self, status: int | None, why: str) -> dict[str, Any]:
        printed = self._tail.decode(errors="replace")
        return {"status": status, "why": why, "late": self._is_late, "printed": printed}

    def _run(self, words: Sequence[str], *, restores: bool = False) -> int:
        """Run a command; return its status, -N where signal N ended it.

        The command holds the lock, too: where this unit is killed, the job is at work still. One
        that ``restores`` the host has its own time, and is not ended when the unit is told to end.
        """
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                cwd="/", pass_fds=[self._lock], start_new_session=restores,
            )  # fmt: skip
        except OSError as error:
            self._tail += f"{words[0]}: {error.strerror}\n".encode()
            return 127
        assert process.stdout
        ended = os.pidfd_open(process.pid)
        try:
            os.set_blocking(process.stdout.fileno(), False)
            self._listen(process, process.stdout.fileno(), ended, restores=restores)
        finally:
            os.close(ended)
            process.stdout.close()
        status = process.wait()
        # The signal that tells this unit to end, too, may have ended the command before.
        was_signalled = status not in range(128) and not restores
        if was_signalled and select.select([self._told], [], [], _HEARING_S)[0]:
            self._stopped = self._stopped or _TOLD
        return status

    def _listen(
        self, process: "subprocess.Popen[bytes]", output: int, ended: int, *, restores: bool
    ) -> None:
        """Take what a command prints until it ends; end it when its time is up, or when told."""
        waited = {output, ended} if restores else {output, ended, self._told}
        until: float | None = time.monotonic() + _GRACE_S if restores else self._until
        stopped = False
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            readable = select.select(waited, [], [], left)[0]
            if output in readable and not self._take(output):
                waited.discard(output)
            if ended in readable:
                while self._take(output):
                    pass
                return
            if not readable and stopped:
                process.kill()
                until = None
            elif not readable or self._told in readable:
                late = f"it did not end within {self._job['deadline']:.0f} s"
                self._is_late = not readable
                self._stopped = self._stopped or (late if not readable else _TOLD)
                stopped = True
                waited.discard(self._told)
                process.terminate()
                until = time.monotonic() + _GRACE_S

    def _take(self, output: int) -> bool:
        """Keep what was printed; tell whether there may be more."""
        try:
            data = os.read(output, 1 << 16)
        except BlockingIOError:
            return False
        self._tail = (self._tail + data)[-_TAIL:]
        return bool(data)


def _wait(folder: Path) -> dict[str, Any]:
    """Wait for the end of a job; return its state."""
    with contextlib.suppress(FileNotFoundError), _lock(folder, fcntl.LOCK_SH):
        pass
    state = _state(folder)
    return {**state, "restarted": state.get("boot_id", _boot_id()) != _boot_id()}


def _end(folder: Path, seconds: float) -> int:
    """End a job, if it is at work; return 0 where it has ended.

    It has ``seconds`` to restore its host; killed, it leaves that to its guardian.
    """
    signal.signal(signal.SIGALRM, _raise_timeout)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _is_at_work(folder):
            return 0
        # The leader of a group that holds the lock: this number is nobody else's.
        pid = int(_state(folder).get("pid", 0))
        if pid > 1:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with contextlib.suppress(TimeoutError):
            _wait(folder)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return int(_is_at_work(folder))


def _raise_timeout(number: int, frame: object) -> None:
    raise TimeoutError


def _is_at_work(folder: Path) -> bool:
    try:
        with _lock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


@contextlib.contextmanager
def _lock(folder: Path, how: int) -> Iterator[None]:
    """Hold a job's lock; raises FileNotFoundError where there is no job."""
    lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _state(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / _STATE).read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state in one piece, over an older one if there is one, to the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        data = json.dumps(state).encode().ljust(_STATE_SIZE)
        if os.pwrite(fd, data, 0) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _say_ready() -> None:
    """Tell whoever started the unit that it is at work (sd_notify(3))."""
    name = os.environ.pop("NOTIFY_SOCKET", "")
    if name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as starter:
            starter.connect("\0" + name[1:] if name[0] == "@" else name)
            starter.send(b"READY=1")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
