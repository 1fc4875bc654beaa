"""The figure of a property
========================

The windows of one property's leak experiment over time, from the evidence alone; the template draws
it. Heights are in pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from statistics import median
from typing import NamedTuple

from kvmtest.evidence import Result
from kvmtest.judge import Reading, Role
from kvmtest.judge.arms import Arms, Key, smis_of, ticks_run, window_key
from kvmtest.judge.baseline import Baseline, Covariates
from kvmtest.judge.excess import LEAK, expected_counts
from kvmtest.judge.samples import Arm, Samples, Toggle, Window

from .gaps import Gaps, Kind, gaps_of
from .scale import Scale, scale_words

__all__ = ["Panel", "Point", "Stretch", "Tick", "WindowsFigure", "windows_figure"]

#: The height of a counter's panel, from its top the line of the largest excess, and that of zero.
HEIGHT, TOP, ZERO = 156, 26, 138
#: The part of a panel's height up to the excess that is a leak; beyond it the scale is logarithmic.
LINEAR = 0.4
#: Beyond so many places along the width marks are not told apart.
PLACES = 1000


class Point(NamedTuple):
    """A window: its place in time, its excess per SMI, and its arm."""

    x: float
    y: float
    arm: Arm


class Tick(NamedTuple):
    """A line of the scale, and its words."""

    y: float
    words: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A counter's windows; ``limit`` is the height from which on an excess is a leak."""

    counter: str
    what: str
    points: Sequence[Point]
    ticks: Sequence[Tick]
    zero: float
    limit: float | None
    height: int = HEIGHT


class Stretch(NamedTuple):
    """A stretch of time with one value of the knob."""

    x: float
    width: float
    is_on: bool


@dataclass(frozen=True, slots=True)
class WindowsFigure:
    """The windows of one property's experiment over time.

    ``smis`` and ``unsure`` are the places of SMIs, and of gaps that may be VM-exits, from 0 to
    ``places``. ``arms`` says how many windows each arm has.
    """

    panels: Sequence[Panel]
    knob: Sequence[Stretch]
    smis: Sequence[int]
    unsure: Sequence[int]
    duration: str
    arms: Mapping[Arm, int]
    gaps: Gaps
    places: int = PLACES


def windows_figure(result: Result) -> WindowsFigure | None:
    """Return the figure of a result's windows; None if it has none.

    Counters that counted nothing beside what the guest executes are left out. Raises KeyError,
    ValueError or ArithmeticError if a sample is broken.
    """
    samples = Samples.of(result.readings)
    windows = samples.windows
    if not windows:
        return None
    origin, end = min(w.began for w in windows), max(w.ended for w in windows)
    time = Scale(origin, max(end, origin + 1))
    known = [name for name in windows[0].counted if all(name in w.known for w in windows)]
    panels = [_panel(name, samples, time) for name in known or windows[0].counted]
    gaps = gaps_of(samples)
    return WindowsFigure(
        panels=[panel for panel in panels if panel],
        knob=_stretches(samples.toggles, time),
        smis=_places(gaps.begins[Kind.SMI], time),
        unsure=_places(gaps.begins[Kind.EITHER], time),
        duration=_duration(end - origin, result.readings),
        arms={arm: count for arm in Arm if (count := sum(w.arm is arm for w in windows))},
        gaps=gaps,
    )


class _Series(NamedTuple):
    """One counter: what is drawn of it, and each window's excess per SMI."""

    what: str
    excess: Sequence[tuple[Window, float]]


def _series(name: str, samples: Samples) -> _Series:
    """Return a counter's excess over its baseline; without one, over the known count.

    If the expected count is unknown, it is proportional to the time that the guest ran, as in the
    judge; windows where that time is unknown are left out.
    """
    windows, ticks = samples.windows, None
    if not all(name in window.known for window in windows):
        ticks = ticks_run(windows, samples.gaps)
        windows = [window for window in windows if window_key(window) in ticks]
    excess = _over_baseline(name, windows, ticks)
    if excess is not None:
        return _Series("excess", _per_smi(windows, excess))
    what = "counted" if ticks is not None else "counted \N{MINUS SIGN} known"
    over_known = [float(w.counted[name] - w.known.get(name, 0)) for w in windows]
    return _Series(what, _per_smi(windows, over_known))


def _over_baseline(
    name: str, windows: Sequence[Window], ticks: Mapping[Key, float] | None
) -> Sequence[float] | None:
    quiet = Arms.of(windows).quiet
    if not quiet:
        return None
    covariates, expected = Covariates(quiet), expected_counts(name, quiet, ticks)
    gains = {window_key(window): window.counted[name] - expected(window) for window in windows}
    baseline = Baseline.fit(covariates, [gains[window_key(window)] for window in quiet])
    if baseline is None:
        return None
    return baseline.residuals(list(gains.values()), covariates.of(windows))


def _per_smi(windows: Sequence[Window], excess: Sequence[float]) -> Sequence[tuple[Window, float]]:
    """Return each window's excess per SMI in guest mode.

    A quiet window counts as one with the others' median of SMIs. Other windows without an SMI are
    left out.
    """
    counts = [
        0 if w.arm is Arm.QUIET else n for w, n in zip(windows, smis_of(windows), strict=True)
    ]
    usual = median([count for count in counts if count] or [1])
    rows = zip(windows, excess, counts, strict=True)
    return [
        (window, value / (count or usual))
        for window, value, count in rows
        if count or window.arm is Arm.QUIET
    ]


def _panel(name: str, samples: Samples, time: Scale) -> Panel | None:
    """Return a counter's panel; None if it shows nothing but zero."""
    series = _series(name, samples)
    values = [value for _, value in series.excess]
    if max((abs(value) for value in values), default=0.0) < 1:
        return None
    off = [value for window, value in series.excess if window.arm is Arm.KNOB_OFF]
    whole = sum(off) / len(off) if off else 0.0
    height = _Height(min(values), max(values), LEAK * whole if whole >= 1 else 0.0)
    points = [
        Point(time.percent((window.began + window.ended) / 2), height.of(value), window.arm)
        for window, value in series.excess
    ]
    marked = [0.0, height.limit, height.most]
    words = {value: Tick(height.of(value), scale_words(value)) for value in marked}
    limit = height.of(height.limit) if height.limit else None
    return Panel(name, series.what, points, list(words.values()), height.of(0.0), limit)


class _Height(NamedTuple):
    """The scale of a panel: linear up to ``limit``, logarithmic beyond; linear without a limit."""

    least: float
    most: float
    limit: float

    def of(self, value: float) -> float:
        """Return the height of a value, in pixels from the top."""
        low, high = self._share(min(self.least, 0.0)), self._share(max(self.most, 1.0))
        share = (self._share(value) - low) / (high - low)
        return round(ZERO - share * (ZERO - TOP), 1)

    def _share(self, value: float) -> float:
        if not self.limit:
            return value
        size = abs(value) / self.limit
        share = LINEAR * size if size <= 1 else LINEAR + (1 - LINEAR) * log10(size) / 2
        return share if value >= 0 else -share


def _stretches(toggles: Sequence[Toggle], time: Scale) -> Sequence[Stretch]:
    """Return the knob's values from toggle to toggle, as far as windows were taken."""
    ordered = sorted(toggles, key=lambda toggle: toggle.began)
    ends = [*(float(following.began) for following in ordered[1:]), time.high]
    stretches = []
    for toggle, end in zip(ordered, ends, strict=True):
        x, right = time.percent(toggle.ended), time.percent(end)
        if right > x:
            stretches.append(Stretch(x, round(right - x, 2), bool(toggle.value)))
    return stretches


def _places(times: Iterable[int], time: Scale) -> list[int]:
    return sorted({round(time.percent(each) * PLACES / 100) for each in times})


def _duration(ticks: int, readings: Iterable[Reading]) -> str:
    """Return a time in milliseconds, or in TSC ticks if the evidence has no clock."""
    for each in readings:
        if each.role is Role.SAMPLE and each.what.startswith("clock ") and _is_rate(each.observed):
            return f"{ticks / float(str(each.observed)) * 1000:.3g} ms"
    return f"{ticks:,} TSC ticks"


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
