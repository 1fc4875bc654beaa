"""Evidence
========

The record of a run: its model and schema, saving and loading.
"""

from .file import EvidenceUnreadable, load, save
from .model import SCHEMA, Evidence, Required, Result
from .records import (
    ChangeRecord,
    CpuRecord,
    HostRecord,
    JournalRecord,
    KernelLogRecord,
    KernelRecord,
    LabDetails,
    LabRecord,
    MachineRecord,
    RunRecord,
    WarningsRecord,
)

__all__ = [
    "SCHEMA",
    "ChangeRecord",
    "CpuRecord",
    "Evidence",
    "EvidenceUnreadable",
    "HostRecord",
    "JournalRecord",
    "KernelLogRecord",
    "KernelRecord",
    "LabDetails",
    "LabRecord",
    "MachineRecord",
    "Required",
    "Result",
    "RunRecord",
    "WarningsRecord",
    "load",
    "save",
]
