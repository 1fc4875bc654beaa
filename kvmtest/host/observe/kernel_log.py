"""The kernel log
==============

Follows /dev/kmsg (Documentation/ABI/testing/dev-kmsg) from a marker on, and recognises the reports
of trouble in it.
"""

import errno
import os
import re
import select
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from kvmtest.errors import KvmtestError
from kvmtest.host.observe.kernel_troubles import kind_of
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = [
    "KernelLog",
    "LogError",
    "LogSlice",
    "Marker",
    "Position",
    "Record",
    "Trouble",
    "parse_record",
    "split_records",
    "troubles",
]

_KMSG = "/dev/kmsg"

# More than a record can have (CONSOLE_EXT_LOG_MAX in kernel/printk): a smaller buffer gives EINVAL.
_RECORD_SIZE = 32768

# A marker is in the log when its write returns; a record that another CPU has begun can delay it.
_MARKER_PATIENCE_S = 1.0

_KERNEL_FACILITY = 0
_INFO = 6

_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_PREFIX = re.compile(
    rb"(\d{1,19}),(\d{1,20}),(\d{1,20}),([^,;]*)(?:,(?:caller=([TC]\d{1,10}))?[^;]*)?", re.ASCII
)
# The priorities of the kernel's and of most daemons' records, by their digits.
_PRIORITIES = {b"%d" % number: number for number in range(192)}

# By kind of line, the kinds of report that it may continue: an oops follows its cause, a WARN's own
# line follows its caller's message or precedes it. Any other line with a kind begins a new report.
_WARN = frozenset({"warning", "cut-here"})
_CONTINUES: Mapping[str, frozenset[str]] = {
    "oops": frozenset({"bug", "kernel-bug", "kasan", "protection-fault", "list", "memory"}),
    "kasan": frozenset({"oops", "protection-fault"}),
    "kernel-bug": frozenset({"list", "memory", "cut-here"}),
    "warning": frozenset({"cut-here"}),
    # With CONFIG_BUG_ON_DATA_CORRUPTION the message comes before the BUG.
    "cut-here": frozenset({"list", "memory"}),
    **dict.fromkeys(("refcount", "list", "odebug", "kvm", "pmu", "memory"), _WARN),
}

# In reports of these kinds several lines in a row each have a kind.
_SERIES = frozenset({"hardware", "nmi"})

# Further lines of a report of these kinds: after one, a line like this begins no new report.
_DETAILS: Mapping[str, re.Pattern[str]] = {
    "rcu-stall": re.compile(
        r"(?:rcu: )?(?:All QSes|\w+ kthread |INFO: (?:Expedited )?[sS]tall ended)"
    ),
    "slab": re.compile(r"FIX "),
    "time": re.compile(r"clocksource: +C|tsc: Marking|TSC found unstable|sched_clock: "),
}

# Flags of a record that continues an earlier record's line ("+" up to Linux 4.9).
_FRAGMENT = frozenset("c+")

# Other CPUs' records come between a line's fragments: so many texts are tried as its beginning,
# each only as far as a report's first line needs.
_BEGINNINGS = 12
# So many of the newest are extended by the fragment, for a further one.
_GROWN = 2
_LONGEST_BEGINNING = 1000

_END = re.compile(r"---\[ end (?:trace|Kernel panic)")

_NO_PAIRS: Mapping[str, str] = MappingProxyType({})

# So many lines of a message are read as one where none has a kind by itself: a task's name may
# hold 15 newlines, and reports print it ("INFO: task a\nb:2719 blocked for more than 120 …").
_JOINED = 16

# A register dump with a long call trace and the list of modules has about a hundred lines.
_LONGEST_REPORT = 200


class LogError(KvmtestError):
    """The kernel log holds something that is no record, or can't be read any further."""


class Record(NamedTuple):
    """One record of the kernel log; ``time_us`` counts from boot by printk's clock.

    ``flags`` is "c" for the fragment of a line, else mostly "-". ``dictionary`` has the
    continuation lines, such as SUBSYSTEM and DEVICE. ``caller`` is the task or CPU that printed the
    record ("T2719", "C1") on kernels with CONFIG_PRINTK_CALLER.
    """

    level: int
    facility: int
    sequence: int
    time_us: int
    flags: str
    message: str
    dictionary: Mapping[str, str] = _NO_PAIRS
    caller: str = ""

    @property
    def is_from_kernel(self) -> bool:
        """Tell whether the kernel wrote it: userspace can't use facility 0."""
        return self.facility == _KERNEL_FACILITY


@dataclass(frozen=True, slots=True)
class Marker:
    """The line that a run wrote to the log.

    ``token`` came back from the log, which proves that new records are seen. It is None, and
    ``unproven`` says why, where no line could be written or read back.
    """

    token: str | None
    unproven: Missing | None


class Position(NamedTuple):
    """A position in the log: the number of records read, and lost, before it."""

    records: int
    lost: int


_BEGIN = Position(0, 0)


@dataclass(frozen=True, slots=True)
class LogSlice:
    """Records of the log; ``lost`` counts those that the kernel overwrote unread."""

    records: tuple[Record, ...]
    lost: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """One report of trouble: its kind (one of FORMS'), the line that shows it, and all lines.

    ``headline`` is the line that shows the kind; ``lines`` end at the report's end marker, or
    without one at the next trouble or a bound.
    """

    kind: str
    headline: str
    sequence: int
    time_us: int
    lines: tuple[str, ...]


class KernelLog:
    """A reader of the kernel log, from its opening or its marker on.

    What was logged before it reads only after :meth:`rewind`. Use it as a context manager, or close
    it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        self._since = _Since()

    @classmethod
    def open(cls, tree: Tree) -> "KernelLog | Missing":
        """Open the log at its end, or say why it can't be read.

        In a stand-in tree /dev/kmsg may be a plain file of records.
        """
        path = tree.path(_KMSG)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return _why_unreadable(tree, error)
        try:
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError:
            os.close(descriptor)
            return Missing(f"{_KMSG} is not the kernel log", "run on the host itself")
        return cls(path, descriptor)

    def close(self) -> None:
        """Close the log; closing it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rewind(self) -> None:
        """Begin again at the oldest record that the kernel keeps."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._since = _Since()

    def write_marker(self) -> Marker:
        """Write "kvmtest: begin TOKEN" to the log, at level info, and read until it comes back.

        :meth:`since_marker` counts from there. Where no marker can be written or read back it
        counts from the end of the log as it is now, and the answer says why. Raises LogError.
        """
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._since = _Since()
        token = os.urandom(16).hex()
        unproven = self._write(f"kvmtest: begin {token}") or self._read_up_to(token)
        return Marker(None if unproven else token, unproven)

    def since_marker(self) -> LogSlice:
        """Return all records since the marker, or since the opening. Raises LogError.

        Never waits; each call returns all of them again.
        """
        return self.since(_BEGIN)

    def here(self) -> Position:
        """Return the end of the log as it is now, for :meth:`since`. Raises LogError."""
        self.drain()
        return self._since.end()

    def since(self, position: Position) -> LogSlice:
        """Return all records since ``position``, which is later than the marker.

        Like :meth:`since_marker`, which it does not disturb. Raises LogError.
        """
        self.drain()
        return self._since.slice(position)

    def forget(self, position: Position) -> None:
        """Drop the records since ``position`` from all later slices, unless they show trouble.

        For those who make the kernel log much, as memory is limited. Positions taken since are no
        longer valid.
        """
        if not troubles(self._since.slice(position).records):
            self._since.cut(position)

    def drain(self) -> None:
        """Read and keep what is there, before the kernel overwrites it. Raises LogError.

        Call it now and then while much is logged.
        """
        while data := self._next():
            for part in (data,) if self._is_device else split_records(data):
                self._since.take(part)

    def await_more(self, seconds: float) -> bool:
        """Wait until there is something to read, at most ``seconds``; tell whether there is."""
        if not self._is_device:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _next(self) -> bytes:
        """Return the next record (of a plain file all that is left), empty at the end."""
        while True:
            try:
                # A plain file has no record that could be too long for the buffer.
                return os.read(self._descriptor, _RECORD_SIZE if self._is_device else 1 << 24)
            except BlockingIOError:
                return b""
            except BrokenPipeError:
                self._since.overrun()
            except OSError as error:
                raise LogError(f"{self._path} can't be read on: {error.strerror}") from error

    def _write(self, line: str) -> Missing | None:
        """Write ``line`` to the log, or return why that fails.

        A descriptor of its own is used, as printk_devkmsg limits the rate by descriptor.
        """
        if not self._is_device:
            return Missing(f"{self._path} is a plain file, so that no marker was written")
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"<{_INFO}>{line}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            return Missing(
                f"no marker can be written to {self._path}: {error.strerror}",
                "run as root, with kernel.printk_devkmsg not off",
            )
        return None

    def _read_up_to(self, token: str) -> Missing | None:
        """Read until the marker with ``token`` comes back, and drop everything up to it."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        deadline = time.monotonic() + _MARKER_PATIENCE_S
        while (left := deadline - time.monotonic()) > 0:
            data = self._next()
            if not data:
                poll.poll(left * 1000)
                continue
            record = self._since.take(data)
            if token in record.message:
                self._since = _Since(record.sequence)
                return None
        return Missing(
            f"a marker written to {self._path} did not come back within {_MARKER_PATIENCE_S:g} s",
            "set kernel.printk_devkmsg to ratelimit and look for a flood of messages",
        )


class _Since:
    """The records after a marker; their sequence numbers tell what was missed."""

    def __init__(self, sequence: int | None = None) -> None:
        self._last = sequence
        self._records: list[Record] = []
        self._lost = 0
        self._overruns = 0

    def overrun(self) -> None:
        """Note that the kernel overwrote the next records."""
        self._overruns = 1

    def take(self, data: bytes) -> Record:
        record = parse_record(data)
        sequence = record.sequence
        if sequence - 1 != self._last or self._overruns:
            gap = 0 if self._last is None else sequence - self._last - 1
            self._lost += max(gap, self._overruns)
            self._overruns = 0
        self._last = sequence
        self._records.append(record)
        return record

    def end(self) -> Position:
        return Position(len(self._records), self._lost + self._overruns)

    def cut(self, begin: Position) -> None:
        del self._records[begin.records :]

    def slice(self, begin: Position = _BEGIN) -> LogSlice:
        lost = self._lost + self._overruns - begin.lost
        return LogSlice(tuple(self._records[begin.records :]), lost)


def parse_record(data: bytes) -> Record:
    """Parse one record as /dev/kmsg gives it. Raises LogError."""
    return _plain(data) or _full(data)


def _plain(data: bytes) -> Record | None:
    """Parse a record that is one line with nothing to decode, as nearly all are; else None."""
    fields = data.split(b",", 3)
    if len(fields) != 4:
        return None
    priority, sequence, time_us, rest = fields
    number = _PRIORITIES.get(priority)
    if number is None or not (sequence.isdigit() and time_us.isdigit()):
        return None
    if len(sequence) > 20 or len(time_us) > 20 or rest[:2] != b"-;" or b"\\" in rest:
        return None
    if rest.find(b"\n") != len(rest) - 1:
        return None
    # Not by Record(), a Python function: there are thousands.
    return tuple.__new__(
        Record,
        (
            number & 7,
            number >> 3,
            int(sequence),
            int(time_us),
            "-",
            rest[2:-1].decode(errors="replace"),
            _NO_PAIRS,
            "",
        ),
    )


def _full(data: bytes) -> Record:
    """Parse any record. Raises LogError."""
    head, semicolon, body = data.partition(b";")
    prefix = _PREFIX.fullmatch(head)
    if not (semicolon and prefix):
        raise LogError(f"{data[:80]!r} is no record of the kernel log; read {_KMSG} itself")
    message, newline, continuation = body.rstrip(b"\n").partition(b"\n")
    lines = continuation.split(b"\n") if newline else ()
    pairs = [_pair(line) for line in lines if line.startswith(b" ")]
    priority, sequence, time_us, flags, caller = prefix.groups()
    facility, level = divmod(int(priority), 8)
    return Record(
        level,
        facility,
        int(sequence),
        int(time_us),
        flags.decode(errors="replace"),
        _unescape(message),
        MappingProxyType(dict(pairs)) if pairs else _NO_PAIRS,
        (caller or b"").decode("ascii"),
    )


def split_records(data: bytes) -> list[bytes]:
    """Split a file of records; lines that begin with a space continue the record before."""
    return [part for part in re.split(rb"\n(?! )", data) if part.strip()]


def troubles(records: Iterable[Record]) -> list[Trouble]:
    """Return the reports of trouble that the kernel wrote; ignores what userspace wrote."""
    reports: list[_Report] = []
    report: _Report | None = None
    beginnings = _Beginnings()
    for record in records:
        if record.facility != _KERNEL_FACILITY:
            continue
        message = record.message
        begun: list[str] = []
        if not _FRAGMENT.isdisjoint(record.flags):
            begun = beginnings.of(record)
        elif report is None and "\n" not in message and kind_of(message) is None:
            beginnings.add((record.caller, message))
            continue  # As nearly all are.
        for kind, headline, line in _told(message, begun):
            if report is not None and not report.takes(kind, line):
                report = None
            if report is not None:
                report.add(kind, headline, line)
            elif kind is not None:
                report = _Report(record, kind, headline, line)
                reports.append(report)
            if _END.match(line):
                report = None
        beginnings.add((record.caller, message))
        for beginning in begun[-_GROWN:]:
            beginnings.add((record.caller, beginning + message))
    return [report.trouble() for report in reports]


def _told(message: str, begun: Sequence[str]) -> Iterator[tuple[str | None, str, str]]:
    """Yield the kind of each line of ``message``, the text that shows it, and the line.

    A line without a kind may have one together with the message's next lines, and the first line
    together with one of the texts that it may continue.
    """
    lines = message.split("\n")
    kinds = [kind_of(line) for line in lines]
    told = max((number for number, kind in enumerate(kinds) if kind), default=-1)
    for number, (kind, line) in enumerate(zip(kinds, lines, strict=True)):
        whole = line
        if kind is None and number == 0:
            # Texts that have a kind by themselves are left out: this line is part of their report.
            wholes = (text + gap + line for text in reversed(begun) for gap in ("", " "))
            whole, kind = _first_telling(wholes, line)
        if kind is None and told < number < len(lines) - 1:
            joined = " ".join(part.strip() for part in lines[number : number + _JOINED])
            whole, kind = _first_telling([joined], line)
        yield kind, whole, line


def _first_telling(texts: Iterable[str], otherwise: str) -> tuple[str, str | None]:
    """Return the first of ``texts`` that shows trouble, and its kind; else ``otherwise``."""
    for text in texts:
        if kind := kind_of(text):
            return text, kind
    return otherwise, None


class _Beginnings:
    """The last texts that a fragment may continue, but for those that show trouble."""

    def __init__(self) -> None:
        self._texts: deque[tuple[str, str]] = deque(maxlen=_BEGINNINGS)
        #: Adds a caller and a text that it began.
        self.add = self._texts.append

    def of(self, record: Record) -> list[str]:
        """Return the last lines of texts that ``record`` may continue, the newest last."""
        ends = [
            text.rpartition("\n")[2][:_LONGEST_BEGINNING]
            for caller, text in self._texts
            if caller == record.caller
        ]
        return [end for end in ends if kind_of(end) is None]


class _Report:
    """A report whose end was not read yet."""

    def __init__(self, record: Record, kind: str, headline: str, line: str) -> None:
        self._record = record
        self._kind = kind
        self._headline = headline
        self._lines = [line]
        self._kinds = {kind}
        self._last: str | None = kind

    def takes(self, kind: str | None, line: str) -> bool:
        """Tell whether the next ``line``, of ``kind``, still belongs to this report."""
        if len(self._lines) >= _LONGEST_REPORT:
            return False
        if kind is None:
            return True
        if self._kinds == {"cut-here"}:
            return kind != "cut-here"
        if kind in self._kinds:
            if kind == self._last and kind in _SERIES:
                return True
            return kind in _DETAILS and bool(_DETAILS[kind].match(line))
        return not self._kinds.isdisjoint(_CONTINUES.get(kind, ()))

    def add(self, kind: str | None, headline: str, line: str) -> None:
        """Append ``line``; after "cut here" the first line with a kind gives the report's."""
        self._lines.append(line)
        self._last = kind
        if kind is not None:
            self._kinds.add(kind)
            if self._kind == "cut-here":
                self._kind, self._headline = kind, headline

    def trouble(self) -> Trouble:
        return Trouble(
            self._kind,
            self._headline,
            self._record.sequence,
            self._record.time_us,
            tuple(self._lines),
        )


def _pair(line: bytes) -> tuple[str, str]:
    """Return name and value of a continuation line such as `` SUBSYSTEM=pci``."""
    name, _, value = line[1:].partition(b"=")
    return _unescape(name), _unescape(value)


def _unescape(text: bytes) -> str:
    r"""Decode ``text``, whose bytes outside printable ASCII the kernel writes as ``\xNN``."""
    if b"\\" in text:
        text = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), text)
    return text.decode(errors="replace")


def _why_unreadable(tree: Tree, error: OSError) -> Missing:
    """Return why the log could not be opened."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Missing(f"{_KMSG} is absent", "run on the host, outside any container")
    if error.errno == errno.EPERM and tree.read("/proc/sys/kernel/dmesg_restrict") == "1":
        return Missing(
            "the kernel log may not be read: kernel.dmesg_restrict is 1 and CAP_SYSLOG is missing",
            "run as root",
        )
    return Missing(f"{_KMSG} can't be opened: {error.strerror}", "run as root")
