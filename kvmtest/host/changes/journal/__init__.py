"""The journal
===========

The record of every host change, written and synced before the change, that undoes it after any
death of the process: at the end of the run, by its guardian, or by ``kvmtest restore``.
"""

from .journal import Change, Journal
from .kinds import UNDO_KINDS
from .record import RECORD, Entry, Header, JournalError, Record, encode, parse
from .restore import Restored, restore, undo_left

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
