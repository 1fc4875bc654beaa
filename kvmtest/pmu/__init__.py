"""Perf events
===========

Counting with perf_event_open(2): events by the names that perf gives them, groups of counters, and
errors that say what keeps a machine from counting.
"""

from .catalogue import find_event
from .counts import Counts
from .event import Event
from .group import CounterGroup
from .refusal import CounterError

__all__ = ["CounterError", "CounterGroup", "Counts", "Event", "find_event"]
