"""Changing the host
=================

Every change of the host goes through a :class:`Journal`, which records its undo first.
"""

import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvmtest.host.changes.guardian import Guardian
from kvmtest.host.changes.lock import Lock
from kvmtest.host.tree import Tree

from .kinds import (
    NOT_UNDONE,
    CommandError,
    Site,
    program,
    put,
    reload,
    remove,
    text_of,
)
from .record import RECORD, JournalError, RecordFile
from .restore import Restored, failure, undo_left, undo_record

__all__ = ["Change", "Journal"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the host, for evidence; texts are stripped.

    ``new`` is the text last written and ``writes`` counts the writes; a kept UEFI variable has no
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
    """Changes the host so that everything is undone, even if this process is killed.

    Made by :meth:`open`; any thread may call any method. A change raises JournalError where it
    can't be recorded, and is not made then, or where the host refuses it.
    """

    def __init__(self, tree: Tree, *, dry_run: bool = False) -> None:
        self.changes: list[Change] = []
        self.recovered: list[str] = []
        self._tree = tree
        self._dry_run = dry_run
        self._lock: Lock | None = None
        self._guardian: Guardian | None = None
        self._record = RecordFile(tree)
        self._mutex = threading.RLock()
        self._pid = os.getpid()
        self._places: dict[tuple[object, ...], int] = {}
        self._kept: set[int] = set()
        self._kept_places: dict[tuple[object, ...], int] = {}
        self._lasting: set[int] = set()
        self._keeps = False
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

        The undo writes ``undo`` if given, else the text before the first change. A file that
        already says ``value`` is left alone, or with ``force`` written but not recorded.
        """
        value = value.strip()
        undo = None if undo is None else undo.strip()
        with self._mutex:
            place = ("write", name, undo)
            if place in self._places:
                # Its undo is recorded already, whatever the file says now.
                index = self._note(Change(0, "", name, new=value), "write", {}, place)
                self._make(index, lambda: self._put(name, value, os.O_TRUNC))
                return
            old = self._old_text(name, undo)
            if old == value and (undo is None or not force):
                if force and not self._dry_run:
                    self._make(None, lambda: self._put(name, value, os.O_TRUNC))
                return
            was = "" if old is None else f" (was {_brief(old)})"
            change = Change(0, f"write {_brief(value)} to {name}{was}", name, old, value)
            text = old if undo is None else undo
            index = self._note(change, "write", {"path": name, "text": text}, place)
            self._make(index, lambda: self._put(name, value, os.O_TRUNC))

    def fire(self, name: str, value: str, path: Path | None = None) -> None:
        """Write ``value`` to the host's file ``name`` for a lasting effect.

        It is recorded and listed like other changes, but never undone. ``path`` is where to open
        the file if not at its place in the tree.
        """
        with self._mutex:
            self._check_writable(name, path)
            change = Change(0, f"write {_brief(value)} to {name} (for good)", name, new=value)
            index = self._note(change, NOT_UNDONE, {})
            self._lasting.add(self.changes[index].sequence)
            target = path or self._tree.path(name)
            self._make(index, lambda: put(target, value, os.O_TRUNC))

    def append(self, name: str, text: str, *, undo: str) -> None:
        """Append ``text`` to the host's file ``name``; its undo appends ``undo``."""
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

    @contextmanager
    def made(self, name: str) -> Iterator[int]:
        """Make the host's file ``name``, yield a descriptor to write it, and remove it at the end.

        A dry run yields /dev/null's descriptor.
        """
        path = self._tree.path(name)
        with self._mutex:
            if not self._dry_run and path.exists():
                raise JournalError(f"{path} is there already; remove it if nobody uses it")
            change = Change(0, f"make the file {name}", name)
            index = self._note(change, "unlink", {"path": name})
            opened: list[int] = []
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._make(index, lambda: opened.append(os.open(path, flags, 0o600)))
        fd = opened[0] if opened else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
            if opened:
                # What can't be removed stays in the record: close() tries again and tells.
                with suppress(OSError):
                    remove(path)

    def keep_variable(self, name: str) -> bytes:
        """Record the UEFI variable in efivarfs's file ``name``, and return its bytes.

        The undo writes them back if the variable differs, even after a restart of the machine.
        """
        with self._mutex:
            self._check_writable(name)
            data = self._tree.read_bytes(name)
            if not data:
                raise JournalError(f"can't read {self._tree.path(name)}, so it can't be undone")
            sentence = f"write the UEFI variable {Path(name).name} (was {len(data)} bytes)"
            change = Change(0, sentence, name, data.hex(), writes=0)
            arguments = {"path": name, "data": data.hex()}
            self._note(change, "variable", arguments, ("variable", name))
            return data

    def keep_affinities(
        self, tasks: Iterable[tuple[int, int, str]], files: Iterable[tuple[str, str]]
    ) -> None:
        """Record which CPUs threads may run on, and what files of CPU lists say.

        A thread is its id, its start in clock ticks, and its CPU list. The undo restores those that
        differ: whoever takes a CPU offline changes them.
        """
        with self._mutex:
            rows: dict[str, list[Any]] = {"tasks": list(map(list, tasks))}
            rows["files"] = list(map(list, files))
            counts = ", ".join(f"{name}: {len(value)}" for name, value in rows.items() if value)
            sentence = f"widen affinities, as the kernel does where a CPU goes ({counts})"
            self._note(Change(0, sentence, writes=0), "affinities", rows)

    def reload_module(
        self, name: str, parameters: Mapping[str, str], changed: Mapping[str, str]
    ) -> None:
        """Reload the kernel module ``name``, with ``changed`` over its present ``parameters``.

        The undo reloads it with ``parameters``, even if the change failed half-way.
        """
        with self._mutex:
            self._check_programs("rmmod", "modprobe")
            new = _settings({**parameters, **changed})
            was = _settings({key: parameters.get(key, "?") for key in changed})
            sentence = f"reload module {name} with {' '.join(_settings(changed))}"
            sentence += f" (was {' '.join(was)})"
            arguments = {"module": name, "parameters": _settings(parameters)}
            index = self._note(Change(0, sentence), "reload", arguments)
            self._make(index, lambda: reload(Site(self._tree, self._hold()), name, new))

    @property
    def dry_run(self) -> bool:
        """Whether changes are only listed."""
        return self._dry_run

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Undo the block's changes at its end, in reverse.

        What can't be undone stays in the record: :meth:`close` tries again, and reports it. A dry
        run undoes nothing, and lists the block's changes with all others.
        """
        if self._dry_run:
            yield
            return
        with self._mutex:
            # What was changed before the block gets an undo of its own at its first change in it.
            outer, self._places = self._places, {}
            begin = self._record.sequence
        try:
            yield
        finally:
            with self._mutex:
                self._places = outer
                if not self._closed and self._record.sequence > begin:
                    self._undo(begin, self._kept)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the block's changes beyond a scope's end, until :meth:`close`.

        For what many checks use and takes time to make. Other threads must change nothing
        meanwhile.
        """
        with self._mutex:
            before, self._keeps = self._keeps, True
            outer, self._places = self._places, self._kept_places
            try:
                yield
            finally:
                self._keeps, self._places = before, outer

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
        for line in failures:
            assert error is not None
            error.add_note(line)

    def _undo(self, after: int = 0, kept: Container[int] = ()) -> None:
        """Undo, by the record, the entries ``after`` a sequence number that are not ``kept``."""
        self._record.close()
        try:
            record, errors, _ = undo_record(Site(self._tree, self._hold()), after, kept)
        except JournalError as error:
            self._failures = [str(error)]
            return
        self._failures = [line for entry in record.entries if (line := failure(entry, errors))]
        for at, change in enumerate(self.changes):
            if change.sequence in errors:
                self.changes[at] = replace(change, error=errors[change.sequence])
            elif change.sequence in self._lasting:
                continue
            elif change.sequence > after and change.sequence not in kept and not change.undone:
                self.changes[at] = replace(change, undone=True)

    def _hold(self) -> tuple[int, ...]:
        """Return what commands inherit, so that the lock and the guardian await their end."""
        if self._lock is None or self._guardian is None:
            return ()
        return (self._lock.fd, self._guardian.lifeline)

    def _old_text(self, name: str, undo: str | None) -> str | None:
        self._check_writable(name)
        old = text_of(self._tree.path(name))
        if old is None and undo is None and not self._dry_run:
            raise JournalError(f"can't read {self._tree.path(name)}, so a change can't be undone")
        return old

    def _check_writable(self, name: str, path: Path | None = None) -> None:
        """Refuse a file that can't be opened before it is recorded: its undo would fail too."""
        self._check_open()
        if self._dry_run:
            return
        path = path or self._tree.path(name)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            shown = name if path != self._tree.path(name) else path
            raise JournalError(f"can't write {shown}: {error.strerror}") from error

    def _check_programs(self, *names: str) -> None:
        """Refuse a change whose programs are not there before it is recorded."""
        self._check_open()
        try:
            for name in names:
                program(self._tree, name)
        except CommandError as error:
            if not self._dry_run:
                raise JournalError(f"can't run {name}: {error}") from error

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
            if self._keeps:
                # Before the record has it, as an interruption may follow at once.
                self._kept.add(self._record.sequence + 1)
            sequence = self._record.add(change.sentence, kind, arguments)
        self.changes.append(replace(change, sequence=sequence))
        if place is not None:
            self._places[place] = len(self.changes) - 1
        return len(self.changes) - 1

    def _put(self, name: str, text: str, flags: int) -> None:
        put(self._tree.path(name), text, flags)

    def _make(self, index: int | None, change: Callable[[], None]) -> None:
        """Make a recorded change, unless this is a dry run."""
        if self._dry_run:
            return
        try:
            change()
        except (OSError, CommandError) as error:
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
            "themselves",
            *restored.undone,
        ]
    return restored.undone


def _settings(parameters: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in parameters.items()]


def _brief(text: str | None) -> str:
    """Return ``text`` as one short line, for a sentence."""
    line = " ".join((text or "").encode(errors="replace").decode().split())
    return (line if len(line) <= 60 else f"{line[:59]}…") or "empty"
