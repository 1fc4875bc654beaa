"""Excess
======

What counters gained above their baseline for each SMI in guest mode, how surely, and whether that
is a leak.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, hypot, inf, sqrt
from typing import NamedTuple, Self

from .arms import Arms, Key, smis_of, window_key
from .baseline import Baseline, Columns, Covariates, dot
from .quantiles import QUANTILES
from .samples import Window

__all__ = [
    "COUNTED",
    "LEAK",
    "SUM_UNSURE",
    "WINDOWS",
    "Excess",
    "View",
    "expected_counts",
    "more_smis",
    "quantile",
    "views",
]

#: The smallest excess, as a share of that with the knob off, that is called a leak.
LEAK = 0.01
#: Windows with the knob off whose excess is a smaller share of the reference's are frozen.
COUNTED = 0.5
#: A window leaks by itself where it is so many times as far off as any quiet one, and so many
#: events where these agree to the last one. One that gives no figure is suspect much sooner.
STANDS_OUT, SUSPECT = (50.0, 10.0), (5.0, 2.0)
#: Counts are whole: an arm's sum and its baseline's may be off by an event each.
SUM_UNSURE = 2.0
#: Windows that an arm needs, and degrees of freedom that more of hardly narrow an interval.
WINDOWS, MANY = 4, 100


@dataclass(frozen=True, slots=True)
class Excess:
    """An arm's excess per SMI in guest mode.

    ``half`` is half its interval; ``of_many`` is what that would be were the noise known as well as
    from many windows. ``floor`` is what noise alone may reach by the quiet windows.
    """

    mean: float
    half: float
    of_many: float
    floor: float
    smis: int

    @property
    def least(self) -> float:
        """The lower bound."""
        return self.mean - self.half

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise."""
        return self.least > self.floor

    def __str__(self) -> str:
        return f"{self.least:.4g} to {self.mean + self.half:.4g}"


@dataclass(frozen=True, slots=True)
class View:
    """What one counter shows.

    ``off`` and ``on`` are the excesses with the knob so. Of the ``windows`` with the knob on,
    ``standing_out`` leak by themselves, and ``obscure`` say nothing for the claim: nobody knows
    what they should have counted. ``counts`` says whether the
    counter counts the guest at all.
    """

    counts: bool
    off: Excess
    on: Excess
    windows: int
    standing_out: int
    obscure: int

    @property
    def leaks(self) -> bool:
        """Whether it counts SMM with the knob off."""
        return self.off.is_clear

    @property
    def limit(self) -> float:
        """The excess per SMI that is a leak."""
        return LEAK * self.off.mean

    @property
    def half(self) -> float:
        """Half the interval of the excess with the knob on against the limit, itself uncertain."""
        return hypot(self.on.half, LEAK * self.off.half)

    @property
    def is_against(self) -> bool:
        """Whether SMM is surely counted with the knob on."""
        is_above = self.on.mean - self.limit > self.half
        return self.standing_out > 0 or (is_above and self.on.is_clear)

    @property
    def is_for(self) -> bool:
        """Whether SMM is surely not counted with the knob on."""
        return not self.obscure and abs(self.on.mean) + self.half < self.limit

    @property
    def is_counted(self) -> bool:
        """Whether SMM is surely counted in windows that are expected to count it, too."""
        return self.on.mean - self._counted_half > COUNTED * self.off.mean

    @property
    def is_frozen(self) -> bool:
        """Whether SMM is surely not counted in windows that are expected to count it."""
        return abs(self.on.mean) + self._counted_half < COUNTED * self.off.mean

    @property
    def _counted_half(self) -> float:
        return hypot(self.on.half, COUNTED * self.off.half)

    @property
    def wanted(self) -> str:
        """What would decide whether SMM is counted with the knob on."""
        mean, limit = self.on.mean, self.limit
        if self.obscure:
            return (
                f"{self.obscure} windows with the knob on are like no quiet one: "
                "take quiet windows with as many VM-exits, and record every gap"
            )
        if mean + self.half < -limit:
            return "quiet windows counted more than those with SMIs: take them in the same way"
        of_many = hypot(self.on.of_many, LEAK * self.off.of_many)
        # A mean beside the limit by chance would ask for ever.
        wanted = max(abs(abs(mean) - limit), limit / 2)
        return more_smis(self.on.smis, of_many, wanted, "on")


def more_smis(smis: int, half: float, wanted: float, knob: str) -> str:
    """Say how many more SMIs narrow an interval as wanted: it goes by their square root.

    Where they are enough, the windows are too few to know the noise: then as many again.
    """
    share = (half / wanted) ** 2 - 1 if wanted > 0 else inf
    more = smis * (share if share > 0 else 1)
    words = f"about {ceil(more)}" if more < 1e6 else "more than a million"
    return f"{words} more SMIs in guest mode with the knob {knob}"


def views(
    names: Iterable[str], arms: Arms, ticks: Mapping[Key, float] | None = None
) -> dict[str, View]:
    """Return what the counters show, of those of which there are windows enough.

    What they should have counted is known, or goes by the ``ticks`` that the guest ran.
    """
    if len(arms.quiet) < WINDOWS:
        return {}
    frame = _Frame.of(arms)
    if min(len(frame.off.windows), len(frame.on.windows)) < WINDOWS:
        return {}
    found = {name: _view(name, frame, ticks) for name in names}
    return {name: view for name, view in found.items() if view}


class _Side(NamedTuple):
    """Windows of an arm, their SMIs, and their covariates."""

    windows: list[Window]
    smis: list[int]
    columns: Columns


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is the same for all counters.

    ``off`` and ``on`` are the windows of both arms that a figure can be made of, ``loose`` other
    windows with the knob on.
    """

    covariates: Covariates
    quiet: list[Window]
    off: _Side
    on: _Side
    loose: _Side
    left_out: int

    @classmethod
    def of(cls, arms: Arms) -> Self:
        covariates = Covariates(arms.quiet)
        off = [window for window in arms.off if covariates.explain(window)]
        on = [window for window in arms.on if covariates.explain(window)]
        loose = arms.bounds + [w for w in arms.on if not covariates.explain(w)]
        off_side, on_side, loose_side = (
            _Side(each, smis_of(each), covariates.of(each)) for each in (off, on, loose)
        )
        return cls(covariates, arms.quiet, off_side, on_side, loose_side, arms.left_out)


def _view(name: str, frame: _Frame, ticks: Mapping[Key, float] | None) -> View | None:
    expected = expected_counts(name, frame.quiet, ticks)

    def gains(windows: Iterable[Window]) -> list[float]:
        return [window.counted[name] - expected(window) for window in windows]

    baseline = Baseline.fit(frame.covariates, gains(frame.quiet))
    if not baseline:
        return None
    off, on, loose = (
        baseline.rests(gains(side.windows), side.columns)
        for side in (frame.off, frame.on, frame.loose)
    )
    with_knob_off = _excess(baseline, off, frame.off, pooled=False)
    limit = LEAK * with_knob_off.mean
    odd = _beyond(STANDS_OUT, baseline, loose, frame.loose, limit)
    leaking = sum(frame.covariates.explain(window) for window in odd)
    suspects = len(_beyond(SUSPECT, baseline, loose, frame.loose, limit))
    return View(
        _counts(name, frame.quiet),
        with_knob_off,
        _excess(baseline, on, frame.on, pooled=True),
        len(on) + len(loose),
        len(_beyond(STANDS_OUT, baseline, on, frame.on, limit)) + leaking,
        suspects - leaking + frame.left_out,
    )


def expected_counts(
    name: str, quiet: Sequence[Window], ticks: Mapping[Key, float] | None
) -> Callable[[Window], float]:
    """Return what a counter should gain in a window, but for its baseline."""
    if ticks is None:
        return lambda window: window.known[name]
    rate = sum(window.counted[name] for window in quiet) / sum(ticks[window_key(w)] for w in quiet)
    return lambda window: rate * ticks[window_key(window)]


def _counts(name: str, quiet: Sequence[Window]) -> bool:
    """Whether a counter counts at all; one that the guest gives nothing to count may be still."""
    counted = [window.counted[name] for window in quiet]
    known = [window.known[name] for window in quiet if name in window.known]
    if not known:
        return min(counted) > 0
    return sum(known) / 2 <= sum(counted) and (min(counted) > 0 or not any(known))


def _excess(baseline: Baseline, rests: Sequence[float], side: _Side, *, pooled: bool) -> Excess:
    """Return an arm's excess per SMI.

    SMM is not always as long, so that windows that leak differ by more than noise, and the interval
    is from their own scatter. Where they need not leak (``pooled``), they and the quiet ones tell
    of the noise together.
    """
    count, total = len(rests), sum(side.smis)
    mean = sum(rests) / total
    distances = [rest - mean * smis for rest, smis in zip(rests, side.smis, strict=True)]
    squares = dot(distances, distances)
    variance, freedom = squares * count / (count - 1), count - 1
    noise = baseline.squares / baseline.freedom
    leverage = baseline.leverage(side.columns, count)
    floor = quantile(baseline.freedom) * sqrt(noise * (count + leverage))
    if pooled:
        freedom += baseline.freedom
        noise = (baseline.squares + squares) / freedom
        variance = max(variance, noise * count)
    deviation = sqrt(variance + noise * leverage)
    half, of_many = quantile(freedom) * deviation, quantile(MANY) * deviation
    half, of_many, floor = (max(each, SUM_UNSURE) / total for each in (half, of_many, floor))
    return Excess(mean, half, of_many, floor, total)


def _beyond(
    far: tuple[float, float],
    baseline: Baseline,
    rests: Sequence[float],
    side: _Side,
    limit: float,
) -> list[Window]:
    """Return the windows that are so far above the limit."""
    times, events = far
    noise = max(times * baseline.farthest, events)
    found = []
    for at, (rest, smis) in enumerate(zip(rests, side.smis, strict=True)):
        above = rest - limit * smis
        if above > noise:
            leverage = baseline.leverage([[column[at]] for column in side.columns], 1)
            if above > noise * sqrt(1 + leverage):
                found.append(side.windows[at])
    return found


def quantile(freedom: int) -> float:
    """Return what Student's t exceeds with the probability ERROR, or a little more."""
    return QUANTILES[min(freedom, len(QUANTILES)) - 1]
