"""A traced system call, held: it is answered, performed with others before it, or let go on.

A thread that stops at a system call's entry can make any other in its place, and after that more,
as it is set back to its ``syscall`` instruction. So the stand-in does in the tracee what only the
tracee may do, such as an ioctl on its VM.
"""

import ctypes
import errno
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptrace.binding import func

from kvmtest.interleave.tracer import (
    Exited,
    Gone,
    Killed,
    SignalDelivery,
    Stop,
    SyscallEntry,
    SyscallExit,
    Tracer,
    TracerError,
)

from .abi import PAGE
from .td import Refused

MMAP = 9
_CLOSE, _DUP2, _DUP3 = 3, 33, 292
_ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_SYSCALL_SIZE = 2
# linux/ptrace.h
_GETSIGMASK, _SETSIGMASK = 0x420A, 0x420B
_ALL_SIGNALS = (1 << 64) - 1
_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS = 3, 0x22

#: Scratch memory in each traced process: a page a thread, for paths and structures.
SCRATCH_PAGES = 64

Then = Callable[["Call"], None]


class Tracees:
    """The traced processes; stops that came while one thread was busy wait here."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.waiting: deque[Stop] = deque()
        self._scratch: dict[int, int] = {}
        self._thread_group: dict[int, int] = {}
        self._seats: dict[int, int] = {}
        #: By thread: what happens at the end of its system call.
        self._then: dict[int, Then] = {}
        #: By thread: the call that it was set back to, and what happens at its end.
        self._again: dict[int, tuple[int, int, Then]] = {}

    def next(self) -> Stop:
        """Return the next stop of any thread."""
        return self.waiting.popleft() if self.waiting else self.tracer.wait() or self.next()

    def next_of(self, tid: int) -> Stop:
        """Return the next stop of a thread that was resumed just now. Raises Gone at its end."""
        while True:
            stop = self.tracer.wait()
            assert stop
            if stop.tid != tid:
                self.waiting.append(stop)
                continue
            if isinstance(stop, Exited | Killed):
                self.waiting.append(stop)
                raise Gone(f"thread {tid} is gone")
            return stop

    def process(self, tid: int) -> int:
        """Return the process of a thread."""
        if tid not in self._thread_group:
            status = Path(f"/proc/{tid}/status").read_text()
            self._thread_group[tid] = int(status.partition("Tgid:")[2].split()[0])
        return self._thread_group[tid]

    def executed(self, tid: int) -> None:
        """Forget what the process had before execve(2)."""
        self._scratch.pop(tid, None)
        self._thread_group[tid] = tid

    def ended(self, tid: int) -> None:
        """Forget a thread: its number may be another's soon."""
        self._thread_group.pop(tid, None)
        self._scratch.pop(tid, None)
        self._then.pop(tid, None)
        self._again.pop(tid, None)

    # Calls that go on while others' stops are taken

    def entered(self, stop: SyscallEntry) -> bool:
        """Take an entry that the stand-in made itself; False for one of the tracee's own."""
        again = self._again.get(stop.tid)
        if again is None:
            return False
        number, rip, then = again
        # A signal's handler may run before the thread comes back to its call.
        if stop.number != number or self.tracer.registers(stop.tid)["rip"] != rip:
            return False
        del self._again[stop.tid]
        self._then[stop.tid] = then
        self.tracer.resume(stop)
        return True

    def left(self, stop: SyscallExit) -> None:
        """Take an exit: do what was said at the entry."""
        then = self._then.pop(stop.tid, None)
        if then is None:
            self.tracer.resume(stop)
        else:
            then(Call(self, stop))

    def at_end(self, tid: int, then: Then) -> None:
        self._then[tid] = then

    def set_back(self, tid: int, number: int, rip: int, then: Then) -> None:
        self._again[tid] = (number, rip, then)

    def scratch(self, call: "Call") -> int:
        """Return the address of a page of the thread's own, which its process is given."""
        process = self.process(call.tid)
        if process not in self._scratch:
            size = SCRATCH_PAGES * PAGE
            # fd -1
            at = call.perform(MMAP, 0, size, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
            assert at > 0, f"mmap in the tracee: {at}"
            self._scratch[process] = at
        seat = self._seats.setdefault(call.tid, len(self._seats) % SCRATCH_PAGES)
        return self._scratch[process] + seat * PAGE


class Call:
    """One system call of a thread, at its entry or at its exit."""

    def __init__(self, tracees: Tracees, stop: SyscallEntry | SyscallExit) -> None:
        self._tracees = tracees
        self._tracer = tracees.tracer
        self._stop: Stop = stop
        self._at_entry = isinstance(stop, SyscallEntry)
        self._saved: dict[str, int] | None = None
        self._mask = b""
        self.tid = stop.tid
        entry = stop if isinstance(stop, SyscallEntry) else stop.entry
        assert entry
        self.number = entry.number
        self._made_with = entry.arguments
        self.arguments = list(entry.arguments)
        #: What the call returned, at its exit.
        self.result = stop.result if isinstance(stop, SyscallExit) else 0

    @property
    def process(self) -> int:
        return self._tracees.process(self.tid)

    @property
    def closes(self) -> tuple[int, int] | None:
        """The process and the descriptor that the call closes, or makes another file's."""
        at = {_CLOSE: 0, _DUP2: 1, _DUP3: 1}.get(self.number)
        return None if at is None else (self.process, self.arguments[at] & 0xFFFFFFFF)

    @property
    def scratch(self) -> int:
        """A page of the tracee's for the stand-in's structures."""
        return self._tracees.scratch(self)

    def read(self, address: int, length: int) -> bytes:
        return self._tracer.read(self.tid, address, length)

    def write(self, address: int, data: bytes) -> None:
        self._tracer.write(self.tid, address, data)

    def read_text(self, address: int) -> str:
        """Return the text at an address, up to its zero byte."""
        text = b""
        while b"\0" not in text:
            # Never across a page: the next may not be there.
            text += self.read(address + len(text), PAGE - (address + len(text)) % PAGE)
        return text[: text.index(b"\0")].decode(errors="surrogateescape")

    def perform(self, number: int, *arguments: int) -> int:
        """Have the thread make this system call now, and return its result."""
        self._save()
        wanted = dict(zip(_ARGUMENTS, arguments, strict=False))
        if self._at_entry:
            self._tracer.set_registers(self.tid, orig_rax=number, **wanted)
        else:
            self._rewind(number, wanted)
            self._expect(SyscallEntry)
        stop = self._expect(SyscallExit)
        assert isinstance(stop, SyscallExit)
        self._at_entry = False
        return stop.result

    def answer(self, result: int) -> None:
        """End the call with this result; it is not performed."""
        if self._at_entry:
            self._tracer.set_registers(self.tid, orig_rax=-1)
            self._tracees.at_end(self.tid, lambda call: call.answer(result))
        else:
            saved = self._restored() or {}
            saved |= {"rax": result, "orig_rax": -1}
            self._tracer.set_registers(self.tid, **saved)
        self._tracer.resume(self._stop)

    def go_on(self, then: Then | None = None) -> None:
        """Let the call be made, with ``arguments`` as they are now; ``then`` has its end."""
        then = then or _let_go
        wanted = dict(zip(_ARGUMENTS, self.arguments, strict=False))
        if tuple(self.arguments) != self._made_with:
            then = self._put_back(then)
        if self._at_entry:
            self._tracer.set_registers(self.tid, orig_rax=self.number, **wanted)
            self._tracees.at_end(self.tid, then)
        else:
            saved = self._restored() or self._tracer.registers(self.tid)
            rip = saved["rip"]
            back = saved | wanted | {"rax": self.number, "orig_rax": -1, "rip": rip - _SYSCALL_SIZE}
            self._tracer.set_registers(self.tid, **back)
            self._tracees.set_back(self.tid, self.number, rip, then)
        self._tracer.resume(self._stop)

    def let_go(self) -> None:
        """Resume the thread with what the call returned."""
        if self._saved is None:
            self._tracer.resume(self._stop)
        else:
            self.answer(self.result)

    def _put_back(self, then: Then) -> Then:
        """Return ``then``, before which the arguments' registers are the tracee's own again."""
        own = dict(zip(_ARGUMENTS, self._made_with, strict=False))

        def put_back(call: Call) -> None:
            self._tracer.set_registers(call.tid, **own)
            call.arguments = list(self._made_with)
            then(call)

        return put_back

    def _expect(self, kind: type[Stop]) -> Stop:
        self._tracer.resume(self._stop)
        stop = self._tracees.next_of(self.tid)
        while isinstance(stop, SignalDelivery):
            # Those that can't be blocked.
            self._tracer.resume(stop)
            stop = self._tracees.next_of(self.tid)
        assert isinstance(stop, kind), f"{stop} where a {kind.__name__} was to come"
        self._stop = stop
        return stop

    def _save(self) -> None:
        """Keep the registers, and let no handler run before they are back."""
        if self._saved is None:
            self._saved = self._tracer.registers(self.tid)
            self._mask = _signal_mask(self.tid)
            _set_signal_mask(self.tid, struct.pack("<Q", _ALL_SIGNALS))

    def _restored(self) -> dict[str, int] | None:
        if self._saved is not None:
            _set_signal_mask(self.tid, self._mask)
        return self._saved

    def _rewind(self, number: int, wanted: dict[str, int]) -> None:
        assert self._saved
        rip = self._saved["rip"] - _SYSCALL_SIZE
        self._tracer.set_registers(self.tid, rax=number, orig_rax=-1, rip=rip, **wanted)


def _let_go(call: Call) -> None:
    call.let_go()


def _signal_mask(tid: int) -> bytes:
    buffer = ctypes.create_string_buffer(8)
    func.ptrace(_GETSIGMASK, tid, len(buffer), ctypes.addressof(buffer), check_errno=True)
    return buffer.raw


def _set_signal_mask(tid: int, mask: bytes) -> None:
    buffer = ctypes.create_string_buffer(mask, len(mask))
    func.ptrace(_SETSIGMASK, tid, len(buffer), ctypes.addressof(buffer), check_errno=True)


@contextmanager
def answering(call: Call) -> Iterator[None]:
    """Answer a call with the error of a refusal, or of memory that the tracee has not."""
    try:
        yield
    except Refused as refused:
        call.answer(-refused.number)
    except Gone:
        raise
    except TracerError:
        call.answer(-errno.EFAULT)
