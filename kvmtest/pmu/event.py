"""Events
======

How an event is written, and its numbers for perf_event_open(2); pure, reads and opens nothing. The
syntax is perf's own (perf-list(1)): ``cpu/event=0xc0,umask=0/uG``, ``msr/smi/``,
``instructions:u``, ``context-switches``, ``sched:sched_switch``.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from kvmtest._native import lib
from kvmtest.errors import UsageError
from kvmtest.host.facts.perf_pmus import Pmu

__all__ = ["Event", "PmuTerms", "Tracepoint", "listed", "parse"]

# Names without a PMU (include/uapi/linux/perf_event.h; tools/perf/util/parse-events.c).
HARDWARE: Mapping[str, int] = {
    "branch-instructions": lib.PERF_COUNT_HW_BRANCH_INSTRUCTIONS,
    "branch-misses": lib.PERF_COUNT_HW_BRANCH_MISSES,
    "branches": lib.PERF_COUNT_HW_BRANCH_INSTRUCTIONS,
    "bus-cycles": lib.PERF_COUNT_HW_BUS_CYCLES,
    "cache-misses": lib.PERF_COUNT_HW_CACHE_MISSES,
    "cache-references": lib.PERF_COUNT_HW_CACHE_REFERENCES,
    "cpu-cycles": lib.PERF_COUNT_HW_CPU_CYCLES,
    "cycles": lib.PERF_COUNT_HW_CPU_CYCLES,
    "instructions": lib.PERF_COUNT_HW_INSTRUCTIONS,
    "ref-cycles": lib.PERF_COUNT_HW_REF_CPU_CYCLES,
}
SOFTWARE: Mapping[str, int] = {
    "alignment-faults": lib.PERF_COUNT_SW_ALIGNMENT_FAULTS,
    "context-switches": lib.PERF_COUNT_SW_CONTEXT_SWITCHES,
    "cpu-clock": lib.PERF_COUNT_SW_CPU_CLOCK,
    "cpu-migrations": lib.PERF_COUNT_SW_CPU_MIGRATIONS,
    "dummy": lib.PERF_COUNT_SW_DUMMY,
    "emulation-faults": lib.PERF_COUNT_SW_EMULATION_FAULTS,
    "major-faults": lib.PERF_COUNT_SW_PAGE_FAULTS_MAJ,
    "minor-faults": lib.PERF_COUNT_SW_PAGE_FAULTS_MIN,
    "page-faults": lib.PERF_COUNT_SW_PAGE_FAULTS,
    "task-clock": lib.PERF_COUNT_SW_TASK_CLOCK,
}

# What a letter lets be counted, as the bit of perf_event_attr that forbids it. Within a row letters
# add up, and a row without a letter counts everything.
MODIFIERS: tuple[Mapping[str, str], ...] = (
    {"u": "exclude_user", "k": "exclude_kernel", "h": "exclude_hv"},
    {"G": "exclude_guest", "H": "exclude_host"},
)
LETTERS = "".join(letter for row in MODIFIERS for letter in row)

# The members of perf_event_attr that an event's terms go into.
CONFIGS = ("config", "config1", "config2")

_MODIFIERS = r"(?::(?P<modifiers>\w+))?"
_PMU_TERMS = re.compile(r"(?P<pmu>[\w.-]+)/(?P<terms>[^/]*)/(?P<modifiers>\w*)", re.ASCII)
_GENERIC = re.compile(rf"(?P<name>{'|'.join([*HARDWARE, *SOFTWARE])}){_MODIFIERS}", re.ASCII)
_TRACEPOINT = re.compile(rf"(?P<system>[\w-]+):(?P<name>[\w-]+){_MODIFIERS}", re.ASCII)
_RANGE = re.compile(r"(\d\d?)(?:-(\d\d?))?", re.ASCII)

# Of many names an error shows the closest.
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Event:
    """One event as perf_event_attr has it; ``name`` is how it was written.

    ``excluded`` names the bits of perf_event_attr that are set, such as "exclude_host". ``pmu`` is
    the PMU's name in sysfs, or "hardware" for a generic event of the CPU cores.
    """

    name: str
    pmu: str
    type: int
    config: int = 0
    config1: int = 0
    config2: int = 0
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A tracepoint as written, such as "kvm:kvm_exit:u"; its number is in tracefs."""

    text: str
    system: str
    name: str
    excluded: frozenset[str] = frozenset()

    def event(self, number: int) -> Event:
        """Return the tracepoint whose id is ``number``."""
        kind = lib.PERF_TYPE_TRACEPOINT
        return Event(self.text, "tracepoint", kind, number, excluded=self.excluded)


@dataclass(frozen=True, slots=True)
class PmuTerms:
    """A PMU's event as written, such as "cpu/event=0xc0/u"; sysfs says what the terms mean."""

    text: str
    pmu: str
    terms: str
    excluded: frozenset[str] = frozenset()

    def event(self, pmu: Pmu) -> Event:
        """Return the event by the format of ``pmu``. Raises UsageError.

        A later term wins over an earlier one, so that "mem-loads,ldlat=30" changes one setting of
        a named event.
        """
        configs = dict.fromkeys(CONFIGS, 0)
        for name, value in self._values(pmu):
            config, bits = self._place(pmu, name)
            if not 0 <= value < 1 << len(bits):
                raise UsageError(f"{self.text}: {name}={value:#x} is too big for {len(bits)} bits")
            for at, bit in enumerate(bits):
                configs[config] = configs[config] & ~(1 << bit) | (value >> at & 1) << bit
        return Event(self.text, pmu.name, pmu.type, **configs, excluded=self.excluded)

    def _values(self, pmu: Pmu) -> Iterator[tuple[str, int]]:
        """Yield terms and their values; a named event yields the terms it stands for."""
        for term in self.terms.split(","):
            for plain in pmu.events.get(term, term).split(","):
                name, has_value, value = plain.partition("=")
                try:
                    yield name, int(value, 0) if has_value else 1
                except ValueError:
                    raise UsageError(
                        f"{self.text}: {plain!r} has no number; write {name}=0x1f, or {name} for 1"
                    ) from None

    def _place(self, pmu: Pmu, name: str) -> tuple[str, list[int]]:
        """Return the config that a term goes into, and its bits there, lowest first."""
        places = {**{config: f"{config}:0-63" for config in CONFIGS}, **pmu.format}
        if name not in places:
            raise UsageError(
                f"{self.text}: PMU {pmu.name} has no event or term {name!r}; its events: "
                f"{listed(name, pmu.events)}; its terms: {listed(name, places)}"
            )
        config, _, ranges = places[name].partition(":")
        bits: list[int] = []
        for span in ranges.split(","):
            if match := _RANGE.fullmatch(span):
                bits.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
            else:
                bits.append(64)
        if config not in CONFIGS or not bits or max(bits) > 63:
            raise UsageError(
                f"{self.text}: {name} belongs in {places[name]!r}, which kvmtest does not know; "
                f"leave {name} out"
            )
        return config, bits


def parse(text: str) -> Event | Tracepoint | PmuTerms:
    """Parse an event's name; a generic event needs no more. Raises UsageError."""
    if match := _PMU_TERMS.fullmatch(text):
        return PmuTerms(text, match["pmu"], match["terms"], _excluded(text, match["modifiers"]))
    if match := _GENERIC.fullmatch(text):
        excluded = _excluded(text, match["modifiers"] or "")
        name = match["name"]
        if name in HARDWARE:
            return Event(text, "hardware", lib.PERF_TYPE_HARDWARE, HARDWARE[name], 0, 0, excluded)
        return Event(text, "software", lib.PERF_TYPE_SOFTWARE, SOFTWARE[name], 0, 0, excluded)
    if match := _TRACEPOINT.fullmatch(text):
        excluded = _excluded(text, match["modifiers"] or "")
        return Tracepoint(text, match["system"], match["name"], excluded)
    raise UsageError(
        f"{text!r} is no event: write pmu/terms/, system:tracepoint, or one of "
        f"{listed(text, [*HARDWARE, *SOFTWARE])}"
    )


def listed(wanted: str, names: Collection[str]) -> str:
    """List names in an error's one line: all, or those closest to ``wanted``."""
    if len(names) <= _SHOWN:
        return ", ".join(sorted(names)) or "nothing"
    shown = sorted(difflib.get_close_matches(wanted, names, _SHOWN, cutoff=0.0))
    return f"{', '.join(shown)} and {len(names) - len(shown)} more"


def _excluded(text: str, modifiers: str) -> frozenset[str]:
    """Return the bits of perf_event_attr that the modifier letters set."""
    for letter in modifiers:
        if letter not in LETTERS:
            raise UsageError(f"{text}: modifier {letter!r} is not known; there are {LETTERS}")
    chosen = [row for row in MODIFIERS if row.keys() & set(modifiers)]
    return frozenset(
        bit for row in chosen for letter, bit in row.items() if letter not in modifiers
    )
