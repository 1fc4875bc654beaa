"""Restoring
=========

Undoes what a record holds: for ``kvmtest restore``, the guardian, the next run, and a run's own
end.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from kvmtest.host.changes.lock import Lock
from kvmtest.host.tree import Tree

from .kinds import GONE, NOT_UNDONE, UNDO_KINDS, Site, one_line
from .record import BOOT_ID, Entry, Record, load, settle

__all__ = ["Restored", "failure", "restore", "undo_left", "undo_record"]


@dataclass(frozen=True, slots=True)
class Restored:
    """The outcome for a record: sentences of the changes undone, and a line per failure.

    ``rebooted``: the machine was restarted, which undid all other changes.
    """

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
    record, errors, rebooted = undo_record(Site(tree, hold))
    backwards = record.entries[::-1]
    undone = [
        entry.sentence
        for entry in backwards
        if entry.sequence not in errors and (not rebooted or _outlasts(entry))
        if entry.kind != NOT_UNDONE
    ]
    return Restored(
        undone=undone,
        failed=[line for entry in backwards if (line := failure(entry, errors))],
        from_pid=record.header.pid if record.header else None,
        rebooted=rebooted,
    )


def failure(entry: Entry, errors: Mapping[int, str]) -> str:
    """Return the line that says why ``entry`` is not undone, or "" where it is."""
    why = errors.get(entry.sequence)
    return f"{entry.sentence}: not undone: {why}" if why else ""


def undo_record(
    site: Site, after: int = 0, kept: Container[int] = ()
) -> tuple[Record, dict[int, str], bool]:
    """Undo the record; return it, the errors by sequence number, and whether a reboot came between.

    Leaves the entries up to the sequence number ``after``, and those ``kept``.
    """
    record = load(site.tree)
    header = record.header
    boot_id = site.tree.read(BOOT_ID)
    rebooted = bool(header and header.boot_id and boot_id and header.boot_id != boot_id)
    left, undone = _split(record.entries, after, kept)
    # Nearly every kind of undo concerns state of the kernel, which a reboot resets.
    errors = _undo_all(site, filter(_outlasts, undone) if rebooted else undone)
    failed = [entry for entry in undone if entry.sequence in errors]
    remaining = sorted(left + failed, key=lambda entry: entry.sequence)
    settle(site.tree, header, remaining)
    return record, errors, rebooted


def _outlasts(entry: Entry) -> bool:
    return UNDO_KINDS[entry.kind].outlasts


def _split(
    entries: Iterable[Entry], after: int, kept: Container[int]
) -> tuple[list[Entry], list[Entry]]:
    """Return the entries up to the sequence number ``after`` or kept, and the others."""
    left: list[Entry] = []
    undone: list[Entry] = []
    for entry in entries:
        is_left = entry.sequence <= after or entry.sequence in kept
        (left if is_left else undone).append(entry)
    return left, undone


def _undo_all(site: Site, entries: Iterable[Entry]) -> dict[int, str]:
    """Undo ``entries`` in reverse; return why some failed, by sequence number."""
    errors = {}
    for entry in reversed(tuple(entries)):
        try:
            UNDO_KINDS[entry.kind].undo(site, **entry.arguments)
        except OSError as error:
            if error.errno not in GONE:
                errors[entry.sequence] = error.strerror or str(error)
        except Exception as error:  # The others must still be undone.
            errors[entry.sequence] = one_line(error)
    return errors
