"""The catalogue of events
=======================

Turns an event's name into numbers, with what sysfs says of PMUs and tracefs of tracepoints.
"""

import os
from collections.abc import Sequence

from kvmtest.errors import UsageError
from kvmtest.host.facts.perf_pmus import CORE_NAMES, Pmu, hardware_pmu, pmu_names
from kvmtest.host.facts.tracefs import TRACING, why_no_tracepoints
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

from .event import Event, PmuTerms, Tracepoint, listed, parse
from .refusal import CounterError

__all__ = ["find_event"]

EVENTS = f"{TRACING}/events"


def find_event(tree: Tree, text: str, known: Sequence[Pmu] = ()) -> Event:
    """Return the event that ``text`` names on this machine; opens nothing.

    ``known`` PMUs are not read again. Raises UsageError where ``text`` names no event, and
    :class:`CounterError` where the machine has no such PMU, or does not show its tracepoints.
    """
    match parse(text):
        case PmuTerms() as terms:
            return terms.event(_pmu(tree, terms, known))
        case Tracepoint() as tracepoint:
            return tracepoint.event(_number(tree, tracepoint))
        case Event() as event:
            return _of_one_kind_of_core(tree, event)


def _pmu(tree: Tree, terms: PmuTerms, known: Sequence[Pmu]) -> Pmu:
    found = (pmu for pmu in known if pmu.name == terms.pmu)
    pmu = next(found, None) or Pmu.of(tree, terms.pmu)
    if isinstance(pmu, Pmu):
        return pmu
    cores = hardware_pmu(tree)
    if terms.pmu in CORE_NAMES and isinstance(cores, Missing):
        raise CounterError(terms.text, cores)
    there = listed(terms.pmu, pmu_names(tree))
    raise UsageError(f"{terms.text}: {pmu.what}; there are: {there}")


def _number(tree: Tree, tracepoint: Tracepoint) -> int:
    """Return a tracepoint's id (Documentation/trace/events.rst)."""
    file = f"{EVENTS}/{tracepoint.system}/{tracepoint.name}/id"
    number = tree.read(file)
    if number is not None:
        return int(number)
    if tree.exists(file) or not tree.exists(EVENTS):
        raise CounterError(tracepoint.text, why_no_tracepoints(tree))
    if not tree.exists(f"{EVENTS}/{tracepoint.system}"):
        systems = listed(tracepoint.system, _folders(tree, EVENTS))
        raise UsageError(
            f"{tracepoint.text}: no tracepoints {tracepoint.system}; there are: {systems}"
        )
    names = listed(tracepoint.name, _folders(tree, f"{EVENTS}/{tracepoint.system}"))
    raise UsageError(f"{tracepoint.text}: no such tracepoint; {tracepoint.system} has: {names}")


def _folders(tree: Tree, name: str) -> list[str]:
    return [entry.name for entry in os.scandir(tree.path(name)) if entry.is_dir()]


def _of_one_kind_of_core(tree: Tree, event: Event) -> Event:
    """Refuse a generic hardware event where the cores differ: it would count on one kind alone."""
    cores = hardware_pmu(tree) if event.pmu == "hardware" else ()
    if not isinstance(cores, Missing) and len(cores) > 1:
        choices = " or ".join(f"{pmu.name}/.../" for pmu in cores)
        raise UsageError(f"{event.name}: the cores here are not all of one kind; write {choices}")
    return event
