"""The tracer
==========

ptrace(2) over other processes: seize threads, take their stops as values, read and write registers
and memory, let go. A tracee that is let go goes on as if nothing had been. So does one whose
tracer dies, unless it was to die with the tracer.

The system call is python-ptrace's binding; its debugger is not used: that attaches by
PTRACE_ATTACH, after which a tracer that is killed too early leaves the tracee stopped, and its
quit() kills.
The kernel ties tracees to a thread: the thread that makes a ``Tracer`` makes all its calls.
"""

import contextlib
import ctypes
import errno
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ptrace.binding import func

from kvmtest.errors import KvmtestError
from kvmtest.host.facts import task
from kvmtest.host.tree import Tree

__all__ = [
    "Cloned",
    "Executed",
    "Exited",
    "Exiting",
    "Gone",
    "GroupStop",
    "Interrupted",
    "Killed",
    "SignalDelivery",
    "Stop",
    "SyscallEntry",
    "SyscallExit",
    "Tracer",
    "TracerError",
]

# Of linux/ptrace.h; python-ptrace lacks them.
_SEIZE = 0x4206
_INTERRUPT = 0x4207
_LISTEN = 0x4208
_GET_SYSCALL_INFO = 0x420E
_EVENT_STOP = 128
_EVENT_SECCOMP = 7
_O_TRACESECCOMP = 1 << _EVENT_SECCOMP
_O_EXITKILL = 1 << 20

# struct ptrace_syscall_info: op, padding, arch, instruction pointer, stack pointer; then at an
# entry the number and six arguments, at an exit the result and whether it is an error.
_INFO_ENTRY, _INFO_EXIT, _INFO_SECCOMP = 1, 2, 3
_ENTRY = struct.Struct("=B3xIQQ7Q")
_EXIT = struct.Struct("=B3xIQQqB")

_OPTIONS = func.PTRACE_O_TRACESYSGOOD | func.PTRACE_O_TRACEEXEC

# Of linux/wait.h: all kinds of children, and those of this thread alone.
_WALL = 0x40000000
_WNOTHREAD = 0x20000000

_BIRTHS = {
    func.PTRACE_EVENT_FORK: "fork",
    func.PTRACE_EVENT_VFORK: "vfork",
    func.PTRACE_EVENT_CLONE: "clone",
}
_GROUP_STOPS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}

# What the kernel puts in rax of a system call that it will make again, unless a handler runs
# (linux/errno.h).
_ERESTARTNOHAND = 514

# How long a thread waits for SIGCHLD before it looks itself: another thread may take the signal.
_LOOK_SECONDS = 0.02


class TracerError(KvmtestError):
    """A tracee can't be seized, or a request to the kernel was refused."""


class Gone(TracerError):
    """The thread no longer exists, or is no longer stopped because it was killed."""


@dataclass(frozen=True, slots=True)
class SyscallEntry:
    """A thread is about to make a system call: any, or one that its seccomp filter traces."""

    tid: int
    number: int
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SyscallExit:
    """A system call has returned ``result``, a negative errno for an error.

    ``entry`` is its entry, None if that was not seen.
    """

    tid: int
    result: int
    entry: SyscallEntry | None


@dataclass(frozen=True, slots=True)
class SignalDelivery:
    """A signal is about to be delivered; ``resume`` passes it on."""

    tid: int
    signal: int


@dataclass(frozen=True, slots=True)
class GroupStop:
    """The process is stopped by ``signal``; resumed, it stays so until SIGCONT."""

    tid: int
    signal: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """``interrupt`` has stopped a thread; or it is new; or SIGCONT has ended its group stop."""

    tid: int


@dataclass(frozen=True, slots=True)
class Cloned:
    """A thread has made a thread or a process, which is traced too. ``how``: fork, vfork, clone."""

    tid: int
    child: int
    how: str


@dataclass(frozen=True, slots=True)
class Executed:
    """A thread, ``former`` until now, is its process's only one after execve(2)."""

    tid: int
    former: int


@dataclass(frozen=True, slots=True)
class Exiting:
    """A thread is about to exit with ``status`` of wait(2); its memory still exists."""

    tid: int
    status: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A thread has exited and is no longer traced."""

    tid: int
    status: int


@dataclass(frozen=True, slots=True)
class Killed:
    """A signal has killed a thread, which is no longer traced."""

    tid: int
    signal: int


Stop = (
    SyscallEntry
    | SyscallExit
    | SignalDelivery
    | GroupStop
    | Interrupted
    | Cloned
    | Executed
    | Exiting
    | Exited
    | Killed
)


class Tracer:
    """The tracees of this thread; its end lets all of them go.

    The thread must have no other children: their ends would be taken for those of tracees.
    """

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._tracees: set[int] = set()
        self._stopped: dict[int, Stop] = {}
        self._entries: dict[int, SyscallEntry] = {}
        self._memory: dict[int, int] = {}
        # Those whose next sleep in the kernel, if they were to make one, ends at once.
        self._interrupted: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach_all()

    @property
    def tracees(self) -> frozenset[int]:
        """Thread IDs of all tracees."""
        return frozenset(self._tracees)

    def seize(
        self,
        tid: int,
        *,
        follow_threads: bool = False,
        follow_processes: bool = False,
        dies_with_tracer: bool = False,
    ) -> None:
        """Begin to trace a thread, which goes on running. Raises TracerError and Gone.

        ``follow_threads``: threads that it makes are traced from their first instruction, as
        ``follow_processes`` has it for processes. ``dies_with_tracer``: the kernel kills it if the
        tracer dies. All are inherited.
        """
        options = _OPTIONS | func.PTRACE_O_TRACEEXIT
        if follow_threads:
            options |= func.PTRACE_O_TRACECLONE
        if follow_processes:
            options |= func.PTRACE_O_TRACEFORK | func.PTRACE_O_TRACEVFORK
        if dies_with_tracer:
            options |= _O_EXITKILL
        self._seize(tid, options)

    def seize_child(self, pid: int) -> None:
        """Begin to trace a child of this process, which dies with this thread.

        It stops at the entry of what its seccomp filter traces (SECCOMP_RET_TRACE), and at the exit
        if it is resumed with ``syscalls``; it does not stop as it exits. Raises as ``seize`` does.
        """
        self._seize(pid, _OPTIONS | _O_TRACESECCOMP | _O_EXITKILL)

    def _seize(self, tid: int, options: int) -> None:
        try:
            self._ptrace(_SEIZE, tid, 0, options)
        except Gone:
            raise
        except TracerError as error:
            owner = _tracer_of(tid)
            if owner != self._thread:
                remedy = (
                    f"task {owner} traces it already; end that one"
                    if owner
                    else "run as root, or set sysctl kernel.yama.ptrace_scope=0"
                )
                raise TracerError(f"thread {tid} can't be traced: {error}; {remedy}") from error
            # It was born traced, and its first stop has not been taken yet.
        self._tracees.add(tid)

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a command that is traced from before its execve(2), with all that it starts.

        ``options`` are those of subprocess.Popen. Its exit status comes by ``wait``, not by Popen.
        Should the tracer die, the kernel kills all that was started.
        """
        script = 'kill -STOP $$; exec "$@"'
        started = subprocess.Popen(["/bin/sh", "-c", script, "sh", *command], **options)
        pid = started.pid
        try:
            _waited(pid, os.WUNTRACED)
            self.seize(pid, follow_threads=True, follow_processes=True, dies_with_tracer=True)
            # It is seen stopped, and with SIGCONT pending it stops again as it goes on.
            self._take(*_waited(pid, 0))
            os.kill(pid, signal.SIGCONT)
            self._stopped.pop(pid)
            self._ptrace(func.PTRACE_CONT, pid)
        except TracerError:
            started.kill()
            raise
        return started

    def interrupt(self, tid: int) -> None:
        """Have a running tracee stop soon.

        The stop is ``Interrupted``, or any other that comes first: the exit of a system call where
        these stop it. A call that sleeps may return EINTR: see ``restart_interrupted``.
        """
        self._ptrace(_INTERRUPT, tid)
        self._interrupted.add(tid)

    def wait(self, seconds: float | None = None, tid: int = -1) -> Stop | None:
        """Return the next stop of any tracee, or of ``tid``; None if there is none in ``seconds``.

        Raises Gone if nothing is traced.
        """
        self._check_thread()
        if seconds is None:
            return self._take(*_waited(tid, 0))
        deadline = time.monotonic() + seconds
        # A blocked SIGCHLD stays pending even where it is ignored by default.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            while True:
                found, status = _waited(tid, os.WNOHANG)
                if found:
                    return self._take(found, status)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                signal.sigtimedwait({signal.SIGCHLD}, min(left, _LOOK_SECONDS))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def resume(self, stop: Stop, *, syscalls: bool = True, signum: int | None = None) -> None:
        """Let a stopped tracee go on; with ``syscalls``, it stops at its next system call.

        A signal that is being delivered is passed on unless ``signum`` names another, 0 for none.
        A tracee that is no more is left alone.
        """
        tid = stop.tid
        if self._stopped.pop(tid, None) is None:
            return
        with contextlib.suppress(Gone):
            if isinstance(stop, GroupStop):
                self._ptrace(_LISTEN, tid)
                return
            passed = _signal_of(stop) if signum is None else signum
            self._ptrace(func.PTRACE_SYSCALL if syscalls else func.PTRACE_CONT, tid, 0, passed)

    def registers(self, tid: int) -> dict[str, int]:
        """Return a stopped tracee's registers by their names in struct user_regs_struct."""
        registers = self._registers(tid)
        return {name: getattr(registers, name) for name in func.REGISTER_NAMES}

    def set_registers(self, tid: int, **values: int) -> None:
        """Write some registers of a stopped tracee. A negative value is that of 64 bits.

        At a system call's entry ``orig_rax`` is its number, and -1 makes none; at its exit ``rax``
        is the result.
        """
        registers = self._registers(tid)
        for name, value in values.items():
            if name not in func.REGISTER_NAMES:
                raise KeyError(name)
            setattr(registers, name, value & (1 << 64) - 1)
        self._ptrace(func.PTRACE_SETREGS, tid, 0, ctypes.addressof(registers))

    def restart_interrupted(self, stop: Interrupted | SyscallExit) -> None:
        """Hide from a tracee that ``interrupt`` made its system call return EINTR.

        It makes the call again when it resumes, unless a signal waits to be delivered: then the
        call returns EINTR, as without a tracer. The kernel does not restart KVM_RUN by itself.
        """
        registers = self._registers(stop.tid)
        in_call = ctypes.c_int64(registers.orig_rax).value >= 0
        if not in_call or ctypes.c_int64(registers.rax).value != -errno.EINTR:
            return
        if isinstance(stop, Interrupted):
            # The kernel will look at rax when it knows whether a handler runs.
            self.set_registers(stop.tid, rax=-_ERESTARTNOHAND)
        elif not _has_signal(stop.tid):
            # Here it will not: as if it were just before the call, an instruction of two bytes.
            self.set_registers(stop.tid, rax=registers.orig_rax, rip=registers.rip - 2)

    def read(self, tid: int, address: int, length: int) -> bytes:
        """Return memory of a tracee. Raises TracerError where it has none."""
        try:
            data = os.pread(self._opened(tid), length, address)
        except OSError as error:
            raise _no_memory(tid, address, length, error) from error
        if len(data) != length:
            raise _no_memory(tid, address, length)
        return data

    def write(self, tid: int, address: int, data: bytes) -> None:
        """Write memory of a tracee, read-only memory too. Raises TracerError where it has none."""
        try:
            written = os.pwrite(self._opened(tid), data, address)
        except OSError as error:
            raise _no_memory(tid, address, len(data), error) from error
        if written != len(data):
            raise _no_memory(tid, address, len(data))

    def detach(self, tid: int) -> None:
        """Let a tracee go, which is stopped for an instant if it runs.

        It stays stopped only if its process is by a signal; a signal on its way reaches it.
        """
        if tid not in self._tracees:
            return
        with contextlib.suppress(Gone):
            stop = self._stopped.get(tid) or self._stop_now(tid)
            while isinstance(stop, SyscallEntry) and tid in self._interrupted:
                # Let go here, the call would sleep no more and return EINTR.
                self.resume(stop)
                stop = self._next_of(tid)
            if stop is not None and tid in self._tracees:
                self._ptrace(func.PTRACE_DETACH, tid, 0, _signal_of(stop))
        self._forget(tid)

    def detach_all(self) -> None:
        """Let all tracees go, those too that are born meanwhile."""
        while self._tracees:
            for tid in sorted(self._tracees):
                self.detach(tid)

    def _stop_now(self, tid: int) -> Stop | None:
        """Stop a running tracee; None if it is dead and waits for its process's other threads."""
        self.interrupt(tid)
        found, status = _waited(tid, os.WNOHANG)
        if found:
            return self._hidden(self._take(found, status))
        return None if _is_zombie(tid) else self._next_of(tid)

    def _next_of(self, tid: int) -> Stop:
        return self._hidden(self._take(*_waited(tid, 0)))

    def _hidden(self, stop: Stop) -> Stop:
        if isinstance(stop, Interrupted | SyscallExit):
            self.restart_interrupted(stop)
        return stop

    def _take(self, tid: int, status: int) -> Stop:
        """Return what wait(2) tells, and remember who is stopped and who is no more."""
        self._tracees.add(tid)
        stop = self._decode(tid, status)
        if isinstance(stop, Exited | Killed):
            self._forget(tid)
            return stop
        self._stopped[tid] = stop
        if isinstance(stop, Interrupted | SyscallExit):
            self._interrupted.discard(tid)
        if isinstance(stop, SyscallEntry):
            self._entries[tid] = stop
        elif isinstance(stop, Cloned) and stop.child:
            self._tracees.add(stop.child)
        elif isinstance(stop, Executed):
            if stop.former != tid:
                self._forget(stop.former)
            self._close_memory(tid)
        return stop

    def _decode(self, tid: int, status: int) -> Stop:
        if os.WIFEXITED(status):
            return Exited(tid, os.WEXITSTATUS(status))
        if os.WIFSIGNALED(status):
            return Killed(tid, os.WTERMSIG(status))
        event, signum = status >> 16, os.WSTOPSIG(status)
        if signum == signal.SIGTRAP | 0x80 or event == _EVENT_SECCOMP:
            return self._syscall_stop(tid)
        if event == _EVENT_STOP:
            return GroupStop(tid, signum) if signum in _GROUP_STOPS else Interrupted(tid)
        if event in _BIRTHS:
            return Cloned(tid, self._message(tid), _BIRTHS[event])
        if event == func.PTRACE_EVENT_EXEC:
            return Executed(tid, self._message(tid))
        if event == func.PTRACE_EVENT_EXIT:
            return Exiting(tid, self._message(tid))
        return SignalDelivery(tid, signum)

    def _syscall_stop(self, tid: int) -> Stop:
        buffer = ctypes.create_string_buffer(_ENTRY.size)
        try:
            self._ptrace(_GET_SYSCALL_INFO, tid, len(buffer), ctypes.addressof(buffer))
        except Gone:
            # Killed in this stop: its exit comes next.
            return Interrupted(tid)
        kind = buffer.raw[0]
        if kind in (_INFO_ENTRY, _INFO_SECCOMP):
            _, _, _, _, number, *arguments = _ENTRY.unpack(buffer.raw)
            return SyscallEntry(tid, number, tuple(arguments))
        _, _, _, _, result, _ = _EXIT.unpack_from(buffer.raw)
        return SyscallExit(tid, result, self._entries.pop(tid, None))

    def _message(self, tid: int) -> int:
        """Return the event's value, 0 if the tracee was killed meanwhile."""
        # Not python-ptrace's ptrace_geteventmsg: the kernel writes 8 bytes, which gives it 4.
        message = ctypes.c_ulong()
        with contextlib.suppress(Gone):
            self._ptrace(func.PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
        return message.value

    def _registers(self, tid: int) -> Any:
        registers = func.ptrace_registers_t()
        self._ptrace(func.PTRACE_GETREGS, tid, 0, ctypes.addressof(registers))
        return registers

    def _ptrace(self, request: int, tid: int, address: int = 0, data: int = 0) -> None:
        self._check_thread()
        try:
            func.ptrace(request, tid, address, data, check_errno=True)
        except func.PtraceError as error:
            if error.errno == errno.ESRCH:
                raise Gone(f"thread {tid} is gone, or not stopped") from error
            raise TracerError(
                f"ptrace request {request:#x} of thread {tid}: {os.strerror(error.errno)}"
            ) from error

    def _check_thread(self) -> None:
        if threading.get_native_id() != self._thread:
            raise RuntimeError("a Tracer belongs to the thread that made it")

    def _opened(self, tid: int) -> int:
        if tid not in self._memory:
            try:
                self._memory[tid] = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Gone(f"thread {tid} is gone") from error
        return self._memory[tid]

    def _close_memory(self, tid: int) -> None:
        if (fd := self._memory.pop(tid, None)) is not None:
            os.close(fd)

    def _forget(self, tid: int) -> None:
        self._tracees.discard(tid)
        self._stopped.pop(tid, None)
        self._entries.pop(tid, None)
        self._interrupted.discard(tid)
        self._close_memory(tid)


def _waited(tid: int, options: int) -> tuple[int, int]:
    try:
        return os.waitpid(tid, options | _WALL | _WNOTHREAD)
    except ChildProcessError as error:
        raise Gone("nothing is traced" if tid == -1 else f"thread {tid} is gone") from error


def _signal_of(stop: Stop) -> int:
    return stop.signal if isinstance(stop, SignalDelivery) else 0


def _no_memory(tid: int, address: int, length: int, error: OSError | None = None) -> TracerError:
    why = f": {error.strerror}" if error else ""
    return TracerError(f"no {length} bytes at {address:#x} of thread {tid}{why}")


def _is_zombie(tid: int) -> bool:
    return task.stat(Tree(), f"/proc/{tid}")[:1] == ["Z"]


def _tracer_of(tid: int) -> int:
    return int(task.status(Tree(), f"/proc/{tid}").get("TracerPid", "0"))


def _has_signal(tid: int) -> bool:
    fields = task.status(Tree(), f"/proc/{tid}")
    pending = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    return bool(pending & ~int(fields.get("SigBlk", "0"), 16))
