"""SMIs
====

Sources of System Management Interrupts on the machine under test, and counts of them. A source is
used only after a count has proved it.
"""

from .counts import SmiCount, counts
from .proof import SAFE_SHARE, Proof, prove
from .source import Periodic, Prepared, Raising, Ready, Source, Trigger, Triggered, ready
from .sources import AFTER, BY_NAME, SOURCES, candidates, choose, sources, split
from .together import FAST_HZ, Proved, Turns, best

__all__ = [
    "AFTER",
    "BY_NAME",
    "FAST_HZ",
    "SAFE_SHARE",
    "SOURCES",
    "Periodic",
    "Prepared",
    "Proof",
    "Proved",
    "Raising",
    "Ready",
    "SmiCount",
    "Source",
    "Trigger",
    "Triggered",
    "Turns",
    "best",
    "candidates",
    "choose",
    "counts",
    "prove",
    "ready",
    "sources",
    "split",
]
