"""Samples
=======

The leak experiment's records: windows of guest execution with their counts, gaps in the guest's
time, and toggles of the freeze knob. Each becomes a reading in the evidence and is read back from
it, so the record alone suffices to check a verdict.

Times are TSC values of the host; a guest's TSC offset converts its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self

from .readings import Reading, Role, Scalar

__all__ = ["Arm", "Clock", "Gap", "Samples", "Toggle", "Window"]

WITNESS = "leak"
_COUNTED, _KNOWN = "counted ", "known "


class Arm(StrEnum):
    """The condition that a window was taken under."""

    QUIET = "quiet"  # no SMIs are raised
    KNOB_OFF = "control"  # SMIs, and the knob off: they must be counted
    KNOB_ON = "treatment"  # SMIs, and the knob on: they must not be counted
    MIXED = "mixed"  # SMIs, and a toggle among them or just before: of no arm


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of guest execution on one vCPU.

    ``counted`` is each counter's gain by its name ("instructions:k", say); ``known`` is the
    expected gain, where the guest's code gives it. ``exits`` are the VM-exits in the window,
    ``smis`` the SMIs that the vCPU's CPU counted, ``gaps`` the gaps that the guest saw in its time.
    ``state`` describes the vCPU's history in words, for windows that are judged apart.
    """

    arm: Arm
    began: int
    ended: int
    counted: Mapping[str, int]
    known: Mapping[str, int]
    exits: int
    smis: int
    gaps: int
    vcpu: int = 0
    state: str = ""

    @property
    def guest_smis(self) -> int | None:
        """How many of the SMIs came in guest mode; None if that is unknown.

        Every VM-exit is a gap, and so is every SMI in guest mode, while one in host mode hides in
        a VM-exit's gap.
        """
        in_guest = self.gaps - self.exits
        return in_guest if 0 <= in_guest <= self.smis else None

    def of_arm(self, arm: Arm, smis: int) -> "Window":
        """Return the same window with its arm and its SMIs, which are known afterwards.

        Every window gets them: dataclasses.replace() takes twice the instructions.
        """
        return Window(
            arm, self.began, self.ended, self.counted, self.known, self.exits, smis, self.gaps,
            self.vcpu, self.state,
        )  # fmt: skip

    def reading(self, number: int) -> Reading:
        """Return the reading of the experiment's ``number``-th sample of its kind."""
        raw: dict[str, Scalar] = {
            "arm": self.arm.value, "began": self.began, "ended": self.ended, "exits": self.exits,
            "smis": self.smis, "gaps": self.gaps, "vcpu": self.vcpu,
            **{_COUNTED + name: count for name, count in self.counted.items()},
            **{_KNOWN + name: count for name, count in self.known.items()},
            **({"state": self.state} if self.state else {}),
        }  # fmt: skip
        return Reading(WITNESS, Role.SAMPLE, f"window {number}", self.arm.value, None, raw=raw)

    @classmethod
    def of(cls, raw: Mapping[str, Scalar]) -> Self:
        """Return the window that :meth:`reading` wrote; raises KeyError or ValueError."""
        words = ("arm", "state")
        numbers = {name: _integer(value) for name, value in raw.items() if name not in words}
        return cls(
            Arm(str(raw["arm"])),
            state=str(raw.get("state", "")),
            counted=_named(numbers, _COUNTED),
            known=_named(numbers, _KNOWN),
            **{name: numbers[name] for name in ("began", "ended", "exits", "smis", "gaps", "vcpu")},
        )


class Gap(NamedTuple):
    """A gap in the time that the guest on ``vcpu`` saw: an SMI or a VM-exit."""

    began: int
    ended: int
    vcpu: int = 0

    def reading(self, number: int) -> Reading:
        """Return the reading of the experiment's ``number``-th sample of its kind."""
        raw = {"began": self.began, "ended": self.ended, "vcpu": self.vcpu}
        return Reading(
            WITNESS, Role.SAMPLE, f"gap {number}", self.ended - self.began, None, raw=raw
        )

    @classmethod
    def of(cls, raw: Mapping[str, Scalar]) -> Self:
        """Return the gap that :meth:`reading` wrote; raises KeyError or ValueError."""
        return cls(*(_integer(raw[name]) for name in ("began", "ended", "vcpu")))


@dataclass(frozen=True, slots=True)
class Toggle:
    """A write of the freeze knob: it had the old value at ``began``, the new one at ``ended``."""

    value: int
    began: int
    ended: int

    def reading(self, number: int) -> Reading:
        """Return the reading of the experiment's ``number``-th sample of its kind."""
        raw = {"value": self.value, "began": self.began, "ended": self.ended}
        return Reading(WITNESS, Role.SAMPLE, f"toggle {number}", self.value, None, raw=raw)

    @classmethod
    def of(cls, raw: Mapping[str, Scalar]) -> Self:
        """Return the toggle that :meth:`reading` wrote; raises KeyError or ValueError."""
        return cls(*(_integer(raw[name]) for name in ("value", "began", "ended")))


@dataclass(frozen=True, slots=True)
class Clock:
    """The unit of the times: TSC ticks a second, and each vCPU's TSC offset in ticks."""

    hz: int
    offsets: Mapping[int, int]

    def reading(self) -> Reading:
        """Return the clock's reading, for readers of the evidence: no verdict needs it."""
        raw = {f"offset {vcpu}": ticks for vcpu, ticks in self.offsets.items()}
        return Reading(WITNESS, Role.SAMPLE, "clock in Hz", self.hz, None, raw=raw)


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of one experiment, in the order in which they were recorded."""

    windows: list[Window] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    toggles: list[Toggle] = field(default_factory=list)

    @classmethod
    def of(cls, readings: Iterable[Reading]) -> Self:
        """Return the samples among an experiment's readings; raises KeyError or ValueError."""
        samples = cls()
        for reading in readings:
            if reading.role is not Role.SAMPLE:
                continue
            match reading.what.partition(" ")[0]:
                case "window":
                    samples.windows.append(Window.of(reading.raw))
                case "gap":
                    samples.gaps.append(Gap.of(reading.raw))
                case "toggle":
                    samples.toggles.append(Toggle.of(reading.raw))
                case "clock":
                    pass
                case other:
                    raise ValueError(f"no sample is called {other}")
        return samples


def _integer(value: Scalar) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _named(numbers: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {n.removeprefix(prefix): v for n, v in numbers.items() if n.startswith(prefix)}
