"""Statements
==========

What each witness of a result said, in figures and in a few words: how many of its claims and
controls held, and what the leak experiment counted per SMI.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import NamedTuple

from kvmtest.judge import Absence, Reading, Role
from kvmtest.judge.rules import doubt

from .model import Result

__all__ = [
    "SEPARATOR",
    "PerSmi",
    "Power",
    "SmmCount",
    "Statement",
    "events",
    "power",
    "statements",
    "words",
]

#: What stands between the statements of two witnesses.
SEPARATOR = " · "


class PerSmi(NamedTuple):
    """Events counted per SMI in guest mode.

    ``half`` is half the confidence interval. ``smis`` is how many SMIs the mean is of, None if the
    evidence does not say.
    """

    mean: float
    half: float
    smis: int | None


@dataclass(frozen=True, slots=True)
class SmmCount:
    """What one counter counted of SMM, with the freeze knob off and on.

    ``state`` is what had happened to the vCPU ("after a toggle"), "" if windows were not told apart
    by that. ``reference`` is the count that SMM has with the knob off; it is ``off`` itself without
    a state. ``off`` or ``on`` is None if no such windows were judged. ``holds`` says whether the
    claims about it held, None if it was a figure or undecided.
    """

    counter: str
    state: str
    reference: PerSmi
    off: PerSmi | None
    on: PerSmi | None
    holds: bool | None

    @property
    def wrong(self) -> float:
        """The largest share of SMM's count that is wrong: 0 for a good kernel, 1 for a whole leak.

        With the knob on any count is wrong, with the knob off any difference to the reference is.
        """
        return max(self._wrong_on, self._wrong_off)

    def __str__(self) -> str:
        is_off = self.on is None or self._wrong_off > self._wrong_on
        seen = self.off if is_off else self.on
        if seen is None:
            return ""
        both = f"{events(seen.mean, self.reference.mean)} of {events(self.reference.mean)}"
        return f"off {both}" if is_off else both

    @property
    def _wrong_on(self) -> float:
        return abs(self.on.mean) / self._whole if self.on else 0.0

    @property
    def _wrong_off(self) -> float:
        return abs(self.reference.mean - self.off.mean) / self._whole if self.off else 0.0

    @property
    def _whole(self) -> float:
        return max(abs(self.reference.mean), 1e-9)


@dataclass(frozen=True, slots=True)
class Statement:
    """What one witness said about one property.

    ``doubt`` says why the claims prove nothing, "" if the witness's controls held. ``absences`` are
    the reasons why it could not look, or not to the end.
    """

    witness: str
    claims: Sequence[Reading]
    controls: Sequence[Reading]
    figures: Sequence[Reading]
    absences: Sequence[Absence]
    counts: Sequence[SmmCount]
    doubt: str

    @property
    def held(self) -> int:
        """How many claims held."""
        return _held(self.claims)

    @property
    def controls_held(self) -> int:
        """How many controls held."""
        return _held(self.controls)

    @property
    def worst(self) -> SmmCount | None:
        """The count to be shown: that of the decided ones, if any is, with the largest fault."""
        decided = [each for each in self.counts if each.holds is not None]
        return max(decided or self.counts, key=lambda each: each.wrong, default=None)

    @property
    def words(self) -> str:
        """The statement in a few words: ``vmcs 4/4``, ``leak 0.00 of 11.0``; "" for none."""
        said = self._said
        if not said and not self.doubt:
            return ""
        broken = f"control {self.controls_held}/{len(self.controls)}" if self.controls else ""
        doubtful = (broken or "no control") if self.doubt else ""
        return " ".join(filter(None, (self.witness, said, f"({doubtful})" * bool(doubtful))))

    @property
    def _said(self) -> str:
        held = f"{self.held}/{len(self.claims)}"
        worst = self.worst
        if worst is not None and (self.claims or self.doubt):
            is_whole = self.held == len(self.claims)
            return f"{worst}{'' if is_whole else f' ({held})'}"
        if self.claims:
            return held
        return f"{len(self.figures)} figures" if self.figures else ""


class Power(NamedTuple):
    """The smallest leaks that a PASS excludes, in per cent.

    ``every`` is a leak in every SMI, of SMM's count with the knob off; ``rare`` is the share of
    SMIs that leak whole.
    """

    every: float
    rare: float

    def __str__(self) -> str:
        return (
            f"a {self.every:.2g} % leak in every SMI; "
            f"a whole leak in {self.rare:.2g} % of SMIs or more"
        )


def statements(result: Result) -> list[Statement]:
    """Return what each witness of a result said, in the order of their first readings.

    Witnesses that could not look come last.
    """
    names = [r.witness for r in result.readings] + [a.witness for a in result.absences]
    return [_statement(name, result) for name in dict.fromkeys(names)]


def words(result: Result) -> str:
    """Return what the witnesses said: ``vmcs 4/4 · runflags 3/3 · leak 0.00 of 11.0``.

    A witness that has figures alone is named if none made a claim.
    """
    said = statements(result)
    speakers = [each for each in said if each.claims or each.doubt] or said
    return SEPARATOR.join(filter(None, (each.words for each in speakers)))


def power(results: Iterable[Result]) -> Power | None:
    """Return which leaks would have been seen by every counter of every result; None without any.

    The figures are the judge's, the largest of all counters.
    """
    found = [
        (float(each.observed), float(rare))
        for result in results
        for each in result.readings
        if each.role is Role.MEASURE
        and isinstance(rare := each.raw.get("least_percent_of_smis"), int | float)
        and isinstance(each.observed, int | float)
    ]
    return Power(*map(max, zip(*found, strict=True))) if found else None


def events(count: float, reference: float | None = None) -> str:
    """Return a count of events with three digits, and a decimal more if it is nearly nothing.

    ``reference`` is the count that it is a part of, whose decimals it gets.
    """
    whole = abs(count if reference is None else reference)
    decimals = min(max(2 - floor(log10(whole)), 0), 3) if whole > 0 else 1
    if abs(count) < whole / 10:
        decimals += 1
    return f"{round(count, decimals) + 0.0:.{decimals}f}"


def _statement(witness: str, result: Result) -> Statement:
    mine = [each for each in result.readings if each.witness == witness]
    claims, controls, figures = (
        [each for each in mine if each.role is role]
        for role in (Role.CLAIM, Role.CONTROL, Role.MEASURE)
    )
    absences = [each for each in result.absences if each.witness == witness]
    is_asked = claims or _held(controls) != len(controls)
    why = doubt(witness, mine) if is_asked else ""
    return Statement(witness, claims, controls, figures, absences, _counts(mine), why)


def _held(readings: Iterable[Reading]) -> int:
    return sum(each.agrees for each in readings)


def _counts(readings: Iterable[Reading]) -> list[SmmCount]:
    """Return the counts of SMM that the judge put into its readings' raw part."""
    groups: dict[tuple[str, str], list[Reading]] = {}
    for each in readings:
        if "counter" in each.raw:
            key = str(each.raw["counter"]), str(each.raw.get("state", ""))
            groups.setdefault(key, []).append(each)
    return [_smm_count(*key, readings) for key, readings in groups.items()]


def _smm_count(counter: str, state: str, readings: Sequence[Reading]) -> SmmCount:
    claims = [each for each in readings if each.role is Role.CLAIM]
    holds = _held(claims) == len(claims) if claims else None
    first = readings[0]
    if "reference" not in first.raw:
        off = _count(first, "off")
        return SmmCount(counter, state, off, off, _count(first, "on"), holds)
    by_knob = {each.raw.get("knob"): _count(each, "here") for each in readings}
    reference = _count(first, "reference")
    return SmmCount(counter, state, reference, by_knob.get(0), by_knob.get(1), holds)


def _count(reading: Reading, name: str) -> PerSmi:
    mean, half, smis = (reading.raw.get(f"{name}{part}") for part in ("", "_half", "_smis"))
    return PerSmi(_number(mean), _number(half), None if smis is None else int(_number(smis)))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
