"""Journal
=======

The record of every host change, written and synced before the change, that undoes it after any
death of the process: at the end of the run, by its guardian, or by `kvmtest restore`.

The record is /var/lib/kvmtest/journal: a header line and a line per change, each a CRC-32 of the
JSON object that follows it. A line that was not wholly synced was not followed by its change.
"""

import errno
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeGuard

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.guardian import Guardian
from kvmtest.host.lock import Lock, own_command, process_start
from kvmtest.host.tree import Tree

__all__ = [
    "RECORD",
    "UNDO_KINDS",
    "Change",
    "Entry",
    "Header",
    "Journal",
    "JournalError",
    "Record",
    "Restored",
    "encode",
    "parse",
    "restore",
    "undo_left",
]

RECORD = "/var/lib/kvmtest/journal"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_FORMAT = 1

# An undo whose target has one of these is undone: the file, probe, module or task is gone.
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})

# Where commands are found besides $PATH, which lacks the sbin directories under plain `su`.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
_COMMAND_SECONDS = 60.0


class JournalError(EnvironmentUnfit):
    """A host change could not be made or recorded, or the record can't be read."""


# The record


@dataclass(frozen=True, slots=True)
class Header:
    """Which run wrote the record: ``start`` in ticks since boot, ``time`` in UTC (ISO 8601)."""

    pid: int
    start: int | None
    boot_id: str | None
    time: str
    command: str
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: a sentence for people, and its undo as ``kind`` and ``arguments``."""

    sequence: int
    sentence: str
    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What a record file holds; without a header it holds nothing."""

    header: Header | None = None
    entries: tuple[Entry, ...] = ()


def encode(line: Header | Entry) -> bytes:
    """Return ``line`` as it stands in the record file."""
    body = json.dumps(asdict(line)).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse(data: bytes) -> Record:
    """Read a record file's bytes; a torn end is ignored.

    Raises JournalError where a sound line follows a damaged one, or where a sound line is none of
    ours. A line counts only with its newline.
    """
    lines = [_decode(line) for line in data.split(b"\n")[:-1]]
    sound = [line for line in lines if line is not None]
    if lines[: len(sound)] != sound:
        raise JournalError(f"line {lines.index(None) + 1} is damaged")
    if not sound:
        return Record()
    try:
        header = _header(sound[0])
        entries = tuple(_entry(line) for line in sound[1:])
    except (TypeError, KeyError, ValueError) as error:
        why = _one_line(error)
        raise JournalError(f"a line is not as kvmtest writes it ({why})") from error
    if any(a.sequence >= b.sequence for a, b in pairwise(entries)):
        raise JournalError("its lines are out of order")
    return Record(header, entries)


def _decode(line: bytes) -> Any:
    """Return the JSON value of ``line``, or None where its checksum does not hold."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"a line is not JSON ({error})") from error
    return {} if value is None else value


def _header(value: Any) -> Header:
    header = Header(**value)
    if header.format != _FORMAT:
        raise JournalError(f"it has format {header.format}; restore it with the kvmtest it is of")
    texts = (header.boot_id or "", header.time, header.command)
    if not isinstance(header.pid, int) or not all(isinstance(text, str) for text in texts):
        raise TypeError("header")
    return header


def _entry(value: Any) -> Entry:
    entry = Entry(**value)
    kind = UNDO_KINDS[entry.kind]
    arguments = dict(entry.arguments)
    if arguments.keys() != kind.arguments.keys():
        raise TypeError(f"arguments of {entry.kind}")
    if not all(is_sound(arguments[name]) for name, is_sound in kind.arguments.items()):
        raise TypeError(f"arguments of {entry.kind}")
    if not isinstance(entry.sequence, int) or not isinstance(entry.sentence, str):
        raise TypeError("entry")
    return entry


# The ways to undo


class _Site(NamedTuple):
    """Where to undo; commands inherit ``hold``, so that what waits for us waits for them."""

    tree: Tree
    hold: tuple[int, ...] = ()


class _Kind(NamedTuple):
    """A way to undo, and what it takes: each argument's name and its check."""

    undo: Callable[..., None]
    arguments: Mapping[str, Callable[[Any], bool]]


def _undo_write(site: _Site, path: str, text: str) -> None:
    """Write ``text`` to the file, unless it can't be written and says ``text`` already."""
    target = site.tree.path(path)
    try:
        _put(target, text, os.O_TRUNC)
    except OSError as error:
        if error.errno in _GONE or _text_of(target) != text:
            raise


def _undo_append(site: _Site, path: str, text: str) -> None:
    """Append ``text``, e.g. "-:kvmtest/probe" to kprobe_events, where truncation clears all."""
    _put(site.tree.path(path), text, os.O_APPEND)


def _undo_rmdir(site: _Site, path: str) -> None:
    """Remove a directory of ours, e.g. a tracing instance."""
    site.tree.path(path).rmdir()


def _undo_affinity(_: _Site, pid: int, start: int | None, cpus: list[int]) -> None:
    """Set the CPUs of the task ``pid`` back, unless its pid is another task's by now."""
    if process_start(pid) == start:
        os.sched_setaffinity(pid, cpus)


def _undo_run(site: _Site, argv: list[str]) -> None:
    """Run the command that takes a command back, e.g. modprobe."""
    _run(site, argv)


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and "\0" not in value


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int)


def _is_start(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_cpus(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(cpu) for cpu in value)


def _is_argv(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(word) for word in value)


UNDO_KINDS: Mapping[str, _Kind] = {
    "write": _Kind(_undo_write, {"path": _is_text, "text": _is_text}),
    "append": _Kind(_undo_append, {"path": _is_text, "text": _is_text}),
    "rmdir": _Kind(_undo_rmdir, {"path": _is_text}),
    "affinity": _Kind(_undo_affinity, {"pid": _is_number, "start": _is_start, "cpus": _is_cpus}),
    "run": _Kind(_undo_run, {"argv": _is_argv}),
}


class _CommandError(Exception):
    """A command could not be run, or failed."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _text_of(path: Path) -> str | None:
    """Return the stripped text of ``path``, every byte kept, or None where it can't be read."""
    try:
        return path.read_bytes().decode(errors="surrogateescape").strip()
    except OSError:
        return None


def _put(path: Path, text: str, flags: int) -> None:
    """Write ``text`` and a newline to a file that is there. Raises OSError."""
    data = f"{text}\n".encode(errors="surrogateescape")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _run(site: _Site, argv: Sequence[str]) -> None:
    """Run ``argv``, its program and working directory in the tree. Raises _CommandError."""
    import subprocess

    try:
        done = subprocess.run(
            argv,
            executable=_program(site.tree, argv[0]),
            cwd=site.tree.root,
            pass_fds=site.hold,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise _CommandError(f"it did not end in {error.timeout:g} s") from error
    except OSError as error:
        raise _CommandError(str(error)) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _CommandError(f"exit status {done.returncode}: {said[-1] if said else 'no word'}")


def _program(tree: Tree, name: str) -> Path:
    """Return where the program ``name`` is in the tree. Raises _CommandError where nowhere."""
    places = [""] if "/" in name else [*_SBIN, *os.get_exec_path()]
    for place in places:
        path = tree.path(f"{place}/{name}").absolute()
        if os.access(path, os.X_OK) and not path.is_dir():
            return path
    raise _CommandError(f"there is no program {name} in {tree.root}")


# Undoing what a record says


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of a record: sentences of the changes undone, and a line per failure."""

    undone: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    from_pid: int | None = None
    rebooted: bool = False


def restore(tree: Tree) -> Restored:
    """Undo what a dead run left on ``tree``'s machine.

    Raises LockHeld where a run still lives, JournalError where the record can't be read.
    """
    lock = Lock.take(tree)
    try:
        return undo_left(tree, hold=(lock.fd,))
    finally:
        lock.release()


def undo_left(tree: Tree, *, hold: tuple[int, ...] = ()) -> Restored:
    """Undo the record's changes in reverse and remove it; the caller holds the lock.

    Changes whose undo fails stay in the record. Commands inherit the descriptors ``hold``. Raises
    JournalError where the record can't be read or removed.
    """
    record, errors, rebooted = _undo_record(_Site(tree, hold))
    backwards = record.entries[::-1]
    undone = [entry.sentence for entry in backwards if entry.sequence not in errors]
    return Restored(
        undone=[] if rebooted else undone,
        failed=[line for entry in backwards if (line := _failure(entry, errors))],
        from_pid=record.header.pid if record.header else None,
        rebooted=rebooted,
    )


def _failure(entry: Entry, errors: Mapping[int, str]) -> str:
    """Return the line that says why ``entry`` is not undone, or nothing where it is."""
    why = errors.get(entry.sequence)
    return f"{entry.sentence}: not undone: {why}" if why else ""


def _undo_record(site: _Site) -> tuple[Record, dict[int, str], bool]:
    """Undo the record; return it, why some undos failed, and whether a reboot left none to do."""
    record = _load(site.tree)
    header = record.header
    boot_id = site.tree.read(_BOOT_ID)
    rebooted = bool(header and header.boot_id and boot_id and header.boot_id != boot_id)
    # Every kind of undo is about state of the kernel, which a reboot made anew.
    errors = {} if rebooted else _undo_all(site, record.entries)
    remaining = [entry for entry in record.entries if entry.sequence in errors]
    _settle(site.tree, header, remaining)
    return record, errors, rebooted


def _load(tree: Tree) -> Record:
    path = tree.path(RECORD)
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise JournalError(f"can't read {path}: {error.strerror}; run kvmtest as root") from error
    except JournalError as error:
        raise JournalError(
            f"{path}: {error}; undo by hand what its sentences say, then remove it"
        ) from error


def _undo_all(site: _Site, entries: Iterable[Entry]) -> dict[int, str]:
    """Undo ``entries`` in reverse; return why some failed, by sequence number."""
    errors = {}
    for entry in reversed(tuple(entries)):
        try:
            UNDO_KINDS[entry.kind].undo(site, **entry.arguments)
        except OSError as error:
            if error.errno not in _GONE:
                errors[entry.sequence] = error.strerror or str(error)
        except Exception as error:  # The others must still be undone.
            errors[entry.sequence] = _one_line(error)
    return errors


def _settle(tree: Tree, header: Header | None, remaining: Sequence[Entry]) -> None:
    """Leave in the record what could not be undone, or remove it."""
    path = tree.path(RECORD)
    try:
        if header and remaining:
            new = path.with_name(f"{path.name}.new")
            new.write_bytes(encode(header) + b"".join(map(encode, remaining)))
            _sync(new)
            new.replace(path)
        else:
            path.unlink()
        _sync(path.parent)
    except FileNotFoundError:
        pass  # There was no record.
    except OSError as error:
        raise JournalError(
            f"can't change {path}: {error.strerror}; run `kvmtest restore` as root"
        ) from error


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _RecordFile:
    """The record while it is written: made at the first entry, each entry synced."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._fd = -1
        self._size = 0
        self._sequence = 0

    def add(self, sentence: str, kind: str, arguments: Mapping[str, Any]) -> int:
        """Write and sync an entry; return its sequence number. Raises JournalError."""
        self._sequence += 1
        data = encode(Entry(self._sequence, sentence, kind, arguments))
        path = self._tree.path(RECORD)
        try:
            if not self._size:
                self._create(path, data)
            else:
                self._append(data)
        except OSError as error:
            raise JournalError(
                f"can't record a host change in {path}: {error.strerror}; run kvmtest as root, "
                "with room on that disk"
            ) from error
        return self._sequence

    def close(self) -> None:
        """Close the file; what it says stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _create(self, path: Path, data: bytes) -> None:
        """Make the record of a header and a first entry, and sync it and its directories."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pid = os.getpid()
        boot_id = self._tree.read(_BOOT_ID)
        header = Header(pid, process_start(pid), boot_id, stamp, own_command())
        for parent in reversed([p for p in path.parents if not p.exists()]):
            parent.mkdir()
            _sync(parent.parent)
        # Truncated: an interrupted attempt may be there, whose change was never made.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self.close()
        self._fd = os.open(path, flags, 0o644)
        _sync(path.parent)
        self._append(encode(header) + data)

    def _append(self, data: bytes) -> None:
        # Cut off what an earlier, failed or interrupted attempt left: its change was never made.
        os.ftruncate(self._fd, self._size)
        written = os.write(self._fd, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._fd)
        self._size += written


# Changing the host


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the host, for evidence; texts are stripped.

    ``new`` is the text last written and ``writes`` counts the writes; a claimed file has no
    ``new``, as others write it. ``error`` says why the change, or its undo, failed.
    """

    sequence: int
    sentence: str
    path: str | None = None
    old: str | None = None
    new: str | None = None
    writes: int = 1
    undone: bool = False
    error: str | None = None


class Journal:
    """Changes the host so that everything is undone, whatever becomes of this process.

    Made by :meth:`open`; all methods may be called by any thread. Every change raises JournalError
    where it can't be recorded (then it is not made) or where the host refuses it.
    """

    def __init__(self, tree: Tree, *, dry_run: bool = False) -> None:
        self.changes: list[Change] = []
        self.recovered: list[str] = []
        self._tree = tree
        self._dry_run = dry_run
        self._lock: Lock | None = None
        self._guardian: Guardian | None = None
        self._record = _RecordFile(tree)
        self._mutex = threading.RLock()
        self._pid = os.getpid()
        self._places: dict[tuple[object, ...], int] = {}
        self._failures: list[str] = []
        self._closed = False

    @classmethod
    def open(cls, tree: Tree, *, dry_run: bool = False) -> Self:
        """Take the machine's lock, undo what a dead run left, and start the guardian.

        What was undone is in ``recovered``. With ``dry_run`` none of this happens, and every
        change is only added to ``changes``. Raises LockHeld, JournalError, EnvironmentUnfit.
        """
        journal = cls(tree, dry_run=dry_run)
        if dry_run:
            return journal
        lock = Lock.take(tree)
        try:
            restored = undo_left(tree, hold=(lock.fd,))
            if restored.failed:
                raise JournalError(
                    f"a dead run (pid {restored.from_pid}) left changes that can't be undone: "
                    f"{'; '.join(restored.failed)}; undo them by hand, then remove "
                    f"{tree.path(RECORD)}"
                )
            journal.recovered = _recovered(restored)
            journal._guardian = Guardian.start(tree, lock)
        except BaseException:
            lock.release()
            raise
        journal._lock = lock
        return journal

    def write(self, name: str, value: str, *, undo: str | None = None, force: bool = False) -> None:
        """Write ``value`` to the host's file ``name``, e.g. /sys/devices/cpu/freeze_on_smi.

        Its text before the first change is what the undo writes, or ``undo`` where given. A file
        that says ``value`` already is left alone, or with ``force`` written but not recorded.
        """
        value = value.strip()
        undo = None if undo is None else undo.strip()
        with self._mutex:
            old = self._old_text(name, undo)
            place = ("write", name, undo)
            if place not in self._places and old == value and (undo is None or not force):
                if force and not self._dry_run:
                    self._make(None, lambda: self._put(name, value, os.O_TRUNC))
                return
            was = "" if old is None else f" (was {_brief(old)})"
            change = Change(0, f"write {_brief(value)} to {name}{was}", name, old, value)
            text = old if undo is None else undo
            index = self._note(change, "write", {"path": name, "text": text}, place)
            self._make(index, lambda: self._put(name, value, os.O_TRUNC))

    def claim(self, name: str) -> Path:
        """Record the host's file ``name`` and return its path, to be written freely until close.

        Whoever writes it must stop before close. In a dry run the path is /dev/null.
        """
        with self._mutex:
            old = self._old_text(name, None)
            sentence = f"write {name} many times (was {_brief(old)})"
            change = Change(0, sentence, name, old, writes=0)
            self._note(change, "write", {"path": name, "text": old}, ("write", name, None))
            return Path(os.devnull) if self._dry_run else self._tree.path(name)

    def append(self, name: str, text: str, *, undo: str) -> None:
        """Append ``text`` to the host's file ``name``, e.g. kprobe_events; ``undo`` likewise."""
        text = text.strip()
        with self._mutex:
            self._check_writable(name)
            change = Change(0, f"append {_brief(text)} to {name}", name, new=text)
            index = self._note(change, "append", {"path": name, "text": undo.strip()})
            self._make(index, lambda: self._put(name, text, os.O_APPEND))

    def make_directory(self, name: str) -> None:
        """Make the host's directory ``name``, e.g. a tracing instance."""
        with self._mutex:
            path = self._tree.path(name)
            if path.exists():
                raise JournalError(f"{path} is there already; remove it if nobody uses it")
            change = Change(0, f"make the directory {name}", name)
            index = self._note(change, "rmdir", {"path": name})
            self._make(index, path.mkdir)

    def set_affinity(self, pid: int, cpus: set[int]) -> None:
        """Let the task ``pid`` (0: this thread) run on ``cpus`` alone.

        Tasks can't be stood in for: always a task of the live machine.
        """
        with self._mutex:
            pid = pid or threading.get_native_id()
            start = process_start(pid)
            try:
                old = sorted(os.sched_getaffinity(pid))
            except OSError as error:
                raise JournalError(f"can't read the CPUs of task {pid}: {error.strerror}") from None
            new = _cpu_list(cpus)
            sentence = f"set the CPUs of task {pid} to {new} (was {_cpu_list(old)})"
            change = Change(0, sentence, old=_cpu_list(old), new=new)
            arguments = {"pid": pid, "start": start, "cpus": old}
            index = self._note(change, "affinity", arguments, ("affinity", pid, start))
            self._make(index, lambda: os.sched_setaffinity(pid, cpus))

    def run(self, argv: Sequence[str], *, undo: Sequence[str]) -> None:
        """Run the command ``argv``, e.g. modprobe, that the command ``undo`` takes back.

        Its program is looked up in the tree, and the tree's root is its working directory. It may
        take 60 s. A command that failed is undone all the same.
        """
        with self._mutex:
            self._check_programs(argv, undo)
            sentence = f"run {' '.join(argv)} (undo: {' '.join(undo)})"
            index = self._note(Change(0, sentence), "run", {"argv": list(undo)})
            self._make(index, lambda: _run(_Site(self._tree, self._hold()), argv))

    def close(self) -> list[str]:
        """Undo all in reverse, end the guardian, release the lock; return a line per failure.

        Safe to repeat, also after an interruption. In a forked child it does nothing.
        """
        if self._pid != os.getpid():
            return []
        with self._mutex:
            if not self._closed and not self._dry_run:
                self._undo()
                if self._guardian:
                    self._guardian.end()
                if self._lock:
                    self._lock.release()
            self._closed = True
            return list(self._failures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failures = self.close()
        if failures and error is None:
            raise JournalError("; ".join(failures))
        for failure in failures:
            assert error is not None
            error.add_note(failure)

    def _undo(self) -> None:
        """Undo by the record, the one truth, and mark the changes."""
        self._record.close()
        try:
            record, errors, _ = _undo_record(_Site(self._tree, self._hold()))
        except JournalError as error:
            self._failures = [str(error)]
            return
        self._failures = [line for entry in record.entries if (line := _failure(entry, errors))]
        self.changes[:] = [
            replace(change, error=errors[change.sequence])
            if change.sequence in errors
            else replace(change, undone=True)
            for change in self.changes
        ]

    def _hold(self) -> tuple[int, ...]:
        """Return what our commands inherit, so that lock and guardian wait for their end."""
        if self._lock is None or self._guardian is None:
            return ()
        return (self._lock.fd, self._guardian.lifeline)

    def _old_text(self, name: str, undo: str | None) -> str | None:
        self._check_writable(name)
        old = _text_of(self._tree.path(name))
        if old is None and undo is None and not self._dry_run:
            raise JournalError(f"can't read {self._tree.path(name)}, so a change can't be undone")
        return old

    def _check_writable(self, name: str) -> None:
        """Refuse what can't even be opened before it is recorded, as its undo would fail too."""
        self._check_open()
        if self._dry_run:
            return
        path = self._tree.path(name)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            raise JournalError(f"can't write {path}: {error.strerror}") from error

    def _check_programs(self, *commands: Sequence[str]) -> None:
        """Refuse a command, or an undo, whose program is not there before it is recorded."""
        self._check_open()
        try:
            for argv in commands:
                _program(self._tree, argv[0])
        except _CommandError as error:
            if not self._dry_run:
                raise JournalError(f"can't run {' '.join(argv)}: {error}") from error

    def _check_open(self) -> None:
        if self._closed or self._pid != os.getpid():
            raise JournalError("this journal is closed, or another process's; open one")

    def _note(
        self,
        change: Change,
        kind: str,
        arguments: Mapping[str, Any],
        place: tuple[object, ...] | None = None,
    ) -> int:
        """Record ``change`` unless its ``place`` has been; return its index in ``changes``."""
        self._check_open()
        if place in self._places:
            index = self._places[place]
            known = self.changes[index]
            writes = known.writes + change.writes
            self.changes[index] = replace(known, new=change.new or known.new, writes=writes)
            return index
        sequence = len(self.changes) + 1
        if not self._dry_run:
            if self._guardian:
                self._guardian.await_ready()
            sequence = self._record.add(change.sentence, kind, arguments)
        self.changes.append(replace(change, sequence=sequence))
        if place is not None:
            self._places[place] = len(self.changes) - 1
        return len(self.changes) - 1

    def _put(self, name: str, text: str, flags: int) -> None:
        _put(self._tree.path(name), text, flags)

    def _make(self, index: int | None, change: Callable[[], None]) -> None:
        """Make a change that is recorded, unless this is a dry run."""
        if self._dry_run:
            return
        try:
            change()
        except (OSError, _CommandError) as error:
            why = getattr(error, "strerror", None) or str(error)
            if index is None:
                raise JournalError(f"refused: {why}") from error
            known = self.changes[index]
            self.changes[index] = replace(known, error=why)
            raise JournalError(f"{known.sentence}: refused: {why}") from error


def _recovered(restored: Restored) -> list[str]:
    if restored.rebooted:
        return [
            f"the machine was restarted since run {restored.from_pid}: its changes are gone by "
            "themselves"
        ]
    return restored.undone


def _cpu_list(cpus: Iterable[int]) -> str:
    return ",".join(map(str, sorted(cpus)))


def _brief(text: str | None) -> str:
    """Return ``text`` on one short line, for a sentence."""
    line = " ".join((text or "").encode(errors="replace").decode().split())
    return (line if len(line) <= 60 else f"{line[:59]}…") or "empty"
