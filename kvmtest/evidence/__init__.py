"""Evidence
========

The record of a run: its model and schema, saving and loading.
"""

from .file import EvidenceUnreadable, load, save
from .model import SCHEMA, Evidence, Required, Result

__all__ = ["SCHEMA", "Evidence", "EvidenceUnreadable", "Required", "Result", "load", "save"]
