"""Perf events
===========

Counting with perf_event_open(2): events by perf's names, groups of counters, and errors that say
why a machine can't count.
"""

from .catalogue import find_event
from .counts import Counts
from .event import Event
from .group import CounterGroup
from .refusal import CounterError

__all__ = ["CounterError", "CounterGroup", "Counts", "Event", "find_event"]
