"""Evidence
========

The record of a run: its model and schema, saving and loading.
"""

from .file import EvidenceUnreadable, load, save
from .model import SCHEMA, Evidence, Result

__all__ = ["SCHEMA", "Evidence", "EvidenceUnreadable", "Result", "load", "save"]
