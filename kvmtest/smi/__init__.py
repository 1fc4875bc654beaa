"""SMIs
====

Sources of System Management Interrupts on the machine under test, and counts of them. A run uses a
source only after a count has proved it.
"""

from .catalogue import ONLY_AFTER, OPT_IN, SOURCES, all_sources, candidates, choose, split
from .counts import SmiCount, bystander_counts, counts
from .proof import SAFE_SHARE, Proof, prove
from .selection import FAST_HZ, Proved, Turns, best
from .source import Periodic, Prepared, Raising, Ready, Source, Trigger, Triggered, ready

__all__ = [
    "FAST_HZ",
    "ONLY_AFTER",
    "OPT_IN",
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
    "all_sources",
    "best",
    "bystander_counts",
    "candidates",
    "choose",
    "counts",
    "prove",
    "ready",
    "split",
]
