"""SMIs
====

Sources of System Management Interrupts on the machine under test, and counts of them. A source is
used only after a count has proved it.
"""

from .counts import SmiCount, counts
from .proof import Proof, prove
from .source import Periodic, Raising, Source, Trigger, Triggered
from .sources import BY_NAME, SOURCES, choose, sources, split

__all__ = [
    "BY_NAME",
    "SOURCES",
    "Periodic",
    "Proof",
    "Raising",
    "SmiCount",
    "Source",
    "Trigger",
    "Triggered",
    "choose",
    "counts",
    "prove",
    "sources",
    "split",
]
