"""A vCPU's process
================

A child that runs a vCPU to order, and that a tracer stops at the entry and at the exit of each
KVM_RUN. Between orders it waits at the exit of its last KVM_RUN, or at the entry of its next one.
"""

import ctypes
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Self

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.vmm import IOCTL, KVM_RUN

from .tracer import SignalDelivery, Stop, SyscallEntry, SyscallExit, Tracer

__all__ = ["Serve", "VcpuProcess", "VcpuProcessError"]

#: The child's side: answers each order that comes by the socket with one message.
Serve = Callable[[socket.socket], None]

#: Upper bound on a stop or an answer, in an emulated machine too.
PATIENCE_S = 60.0
_LOOK_S = 0.001
KICK = signal.SIGUSR1
_LARGEST_MESSAGE = 4096

# Of linux/prctl.h and linux/seccomp.h.
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
# struct sock_filter: code, jump if true, jump if false, k. Loads are from struct seccomp_data: the
# number at 0, the second argument's lower half at 24.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FILTER = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 3, IOCTL),
        (_LOAD, 0, 0, 24),
        (_JUMP_IF_EQUAL, 0, 1, KVM_RUN),
        (_RETURN, 0, 0, 0x7FF00000),  # SECCOMP_RET_TRACE
        (_RETURN, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
)


class VcpuProcessError(KvmtestError):
    """A vCPU's process ended, or did not stop where it must."""


class VcpuProcess:
    """A context manager that forks a child, which calls ``serve``; its end kills the child.

    The child inherits no descriptor but its socket. It dies with this process.
    """

    def __init__(self, tracer: Tracer, name: str, serve: Serve) -> None:
        self._tracer = tracer
        self._name = name
        self._serve = serve
        self._at: Stop | None = None
        self._is_kicked = False
        self._owes_answer = False

    def __enter__(self) -> Self:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            parent = os.getpid()
            self.pid = os.fork()
            if not self.pid:
                _child(its, parent, self._serve)
        self._socket = ours
        try:
            self._tracer.seize_child(self.pid)
        except BaseException:
            ours.close()
            os.kill(self.pid, signal.SIGKILL)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        if self.pid in self._tracer.tracees:
            os.kill(self.pid, signal.SIGKILL)
        while self.pid in self._tracer.tracees:
            self._tracer.wait(PATIENCE_S, self.pid)

    def order(self, order: bytes) -> None:
        """Give an order; the child is let go from the exit of its last KVM_RUN, if it is there."""
        self.finish()
        self._socket.send(order)
        self._owes_answer = True

    def reach_entry(self) -> None:
        """Wait until the child is stopped at the entry of the KVM_RUN that was ordered."""
        self._at = self._awaited(SyscallEntry)

    def enter(self) -> None:
        """Let the child go on from the entry of KVM_RUN."""
        assert self._at is not None
        self._tracer.resume(self._at)
        self._at = None

    def kick(self) -> None:
        """Send the child a signal, which ends its KVM_RUN, or the one that it is about to make."""
        os.kill(self.pid, KICK)
        self._is_kicked = True

    def reach_exit(self) -> int:
        """Wait until the child is stopped at the exit of KVM_RUN; return what KVM_RUN returned."""
        stop = self._awaited(SyscallExit)
        assert isinstance(stop, SyscallExit)
        self._at = stop
        return stop.result

    def finish(self) -> None:
        """Let the child go on from the exit of its KVM_RUN until it has answered."""
        if self._at is not None:
            self._tracer.resume(self._at, syscalls=False)
            self._at = None
        if self._is_kicked:
            self._tracer.resume(self._awaited(SignalDelivery), syscalls=False, signum=0)
            self._is_kicked = False
        if self._owes_answer:
            self.answer = self._received()
            self._owes_answer = False

    def ask(self, order: bytes) -> bytes:
        """Give an order, and return the answer; a KVM_RUN meanwhile does not stop."""
        self.order(order)
        deadline = time.monotonic() + PATIENCE_S
        while not select.select([self._socket], [], [], _LOOK_S)[0]:
            if stop := self._tracer.wait(0, self.pid):
                self._tracer.resume(stop, syscalls=False)
            if time.monotonic() > deadline:
                break
        self.finish()
        return self.answer

    def move(self, cpu: int) -> None:
        """Move the child to a CPU; it goes there when it next runs."""
        os.sched_setaffinity(self.pid, {cpu})

    def _received(self) -> bytes:
        if select.select([self._socket], [], [], PATIENCE_S)[0]:
            if answer := self._socket.recv(_LARGEST_MESSAGE):
                if answer.startswith(_FAILED):
                    raise VcpuProcessError(f"{self._name}: {answer[len(_FAILED) :].decode()}")
                return answer
            raise VcpuProcessError(f"{self._name} ended; look at the kernel log")
        raise VcpuProcessError(f"{self._name} did not answer in {PATIENCE_S:g} s; try again")

    def _awaited(self, kind: type[Stop]) -> Stop:
        stop = self._tracer.wait(PATIENCE_S, self.pid)
        if stop is not None and isinstance(stop, kind):
            return stop
        if self._owes_answer and select.select([self._socket], [], [], 0)[0]:
            self._received()
        raise VcpuProcessError(
            f"{self._name} came to {stop}, not to a {kind.__name__}; look at the kernel log"
        )


#: Begins the answer of a child that fails, before the reason.
_FAILED = b"\0failed: "


def _child(its: socket.socket, parent: int, serve: Serve) -> None:
    """Serve orders, and exit."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # What the parent has open must end with the parent: its guardian waits for that.
        os.closerange(0, its.fileno())
        os.closerange(its.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            _trace_kvm_run()
            serve(its)
    except BaseException as error:
        # The parent hears of it, and reports it.
        its.send(_FAILED + f"{type(error).__name__}: {error}".encode()[: _LARGEST_MESSAGE // 2])
    finally:
        os._exit(0)


def _trace_kvm_run() -> None:
    """Have this process stop at each KVM_RUN, and at no other system call."""
    code = ctypes.create_string_buffer(_FILTER, len(_FILTER))
    # struct sock_fprog: the number of instructions, and where they are.
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(_FILTER) // 8, ctypes.addressof(code))
    )
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _prctl(option: int, value: int, more: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_ulong(each) for each in (value, more, 0, 0))
    if libc.prctl(option, *arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
