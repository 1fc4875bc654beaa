"""Excess
======

A counter's gain above its baseline per SMI in guest mode, its confidence interval, and whether it
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
    "CounterExcess",
    "Excess",
    "excess_by_counter",
    "expected_counts",
    "more_smis",
    "quantile",
]

#: The smallest excess, as a share of the excess with the knob off, that is called a leak.
LEAK = 0.01
#: Windows whose excess is a smaller share of the reference's are frozen.
COUNTED = 0.5
#: A window is an outlier if its residual exceeds this multiple of any quiet window's, and this many
#: events. A window that gives no figure is suspect much sooner.
OUTLIER, SUSPECT = (50.0, 10.0), (5.0, 2.0)
#: Counts are whole numbers: an arm's sum and its baseline's may each be off by one event.
SUM_UNSURE = 2.0
#: Windows that an arm needs; degrees of freedom beyond which an interval hardly narrows.
WINDOWS, MANY = 4, 100


@dataclass(frozen=True, slots=True)
class Excess:
    """An arm's excess per SMI in guest mode.

    ``half`` is half its confidence interval, ``of_many`` the same if many windows had shown the
    noise. ``floor`` is the largest excess that noise alone gives, by the quiet windows.
    """

    mean: float
    half: float
    of_many: float
    floor: float
    smis: int

    @property
    def least(self) -> float:
        """The interval's lower bound."""
        return self.mean - self.half

    @property
    def is_clear(self) -> bool:
        """Whether the excess is more than noise."""
        return self.least > self.floor

    def __str__(self) -> str:
        return f"{self.least:.4g} to {self.mean + self.half:.4g}"


@dataclass(frozen=True, slots=True)
class CounterExcess:
    """One counter's excess with the knob off and on.

    Of the ``windows`` with the knob on, ``standing_out`` are outliers, each a leak by itself;
    ``obscure`` can't support the claim, as their expected count is unknown. ``counts`` says whether
    the counter counts the guest at all.
    """

    counts: bool
    off: Excess
    on: Excess
    windows: int
    standing_out: int
    obscure: int

    @property
    def leaks(self) -> bool:
        """Whether the counter counts SMM with the knob off."""
        return self.off.is_clear

    @property
    def limit(self) -> float:
        """The smallest excess per SMI that is a leak."""
        return LEAK * self.off.mean

    @property
    def half(self) -> float:
        """Half the interval of the excess with the knob on less the limit; both are uncertain."""
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
        """Whether SMM is surely counted in windows that should count it."""
        return self.on.mean - self._counted_half > COUNTED * self.off.mean

    @property
    def is_frozen(self) -> bool:
        """Whether SMM is surely not counted in windows that should count it."""
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
    """Say how many more SMIs narrow an interval to ``wanted``.

    An interval shrinks with the square root of the SMIs. If the SMIs suffice, the windows are too
    few to know the noise: then take as many again.
    """
    share = (half / wanted) ** 2 - 1 if wanted > 0 else inf
    more = smis * (share if share > 0 else 1)
    words = f"about {ceil(more)}" if more < 1e6 else "more than a million"
    return f"{words} more SMIs in guest mode with the knob {knob}"


def excess_by_counter(
    names: Iterable[str], arms: Arms, ticks: Mapping[Key, float] | None = None
) -> dict[str, CounterExcess]:
    """Return the excess of each counter that has enough windows.

    The expected count is known, or without that proportional to the ``ticks`` that the guest ran.
    """
    if len(arms.quiet) < WINDOWS:
        return {}
    design = _Design.of(arms)
    if min(len(design.off.windows), len(design.on.windows)) < WINDOWS:
        return {}
    found = {name: _counter_excess(name, design, ticks) for name in names}
    return {name: excess for name, excess in found.items() if excess}


class _Side(NamedTuple):
    """Windows of an arm, their SMIs, and their covariates."""

    windows: list[Window]
    smis: list[int]
    columns: Columns


@dataclass(frozen=True, slots=True)
class _Design:
    """Windows and covariates of the fit, the same for all counters.

    ``off`` and ``on`` are the windows of both arms that give a figure, ``loose`` are all others
    with the knob on.
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


def _counter_excess(
    name: str, design: _Design, ticks: Mapping[Key, float] | None
) -> CounterExcess | None:
    expected = expected_counts(name, design.quiet, ticks)

    def gains(windows: Iterable[Window]) -> list[float]:
        return [window.counted[name] - expected(window) for window in windows]

    baseline = Baseline.fit(design.covariates, gains(design.quiet))
    if not baseline:
        return None
    off, on, loose = (
        baseline.residuals(gains(side.windows), side.columns)
        for side in (design.off, design.on, design.loose)
    )
    with_knob_off = _excess(baseline, off, design.off, pooled=False)
    limit = LEAK * with_knob_off.mean
    outliers = _beyond(OUTLIER, baseline, loose, design.loose, limit)
    leaking = sum(design.covariates.explain(window) for window in outliers)
    suspected = len(_beyond(SUSPECT, baseline, loose, design.loose, limit))
    return CounterExcess(
        _counts(name, design.quiet),
        with_knob_off,
        _excess(baseline, on, design.on, pooled=True),
        len(on) + len(loose),
        len(_beyond(OUTLIER, baseline, on, design.on, limit)) + leaking,
        suspected - leaking + design.left_out,
    )


def expected_counts(
    name: str, quiet: Sequence[Window], ticks: Mapping[Key, float] | None
) -> Callable[[Window], float]:
    """Return a function that gives the count expected in a window, without the baseline."""
    if ticks is None:
        return lambda window: window.known[name]
    rate = sum(window.counted[name] for window in quiet) / sum(ticks[window_key(w)] for w in quiet)
    return lambda window: rate * ticks[window_key(window)]


def _counts(name: str, quiet: Sequence[Window]) -> bool:
    """Whether a counter counts; it may stand still if the guest gives it nothing to count."""
    counted = [window.counted[name] for window in quiet]
    known = [window.known[name] for window in quiet if name in window.known]
    if not known:
        return min(counted) > 0
    return sum(known) / 2 <= sum(counted) and (min(counted) > 0 or not any(known))


def _excess(baseline: Baseline, residuals: Sequence[float], side: _Side, *, pooled: bool) -> Excess:
    """Return an arm's excess per SMI.

    Handlers vary in length, so leaking windows differ by more than noise: the interval comes from
    their own scatter. Windows that should not leak (``pooled``) and quiet ones estimate the noise
    together.
    """
    count, total = len(residuals), sum(side.smis)
    mean = sum(residuals) / total
    distances = [
        residual - mean * smis for residual, smis in zip(residuals, side.smis, strict=True)
    ]
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
    residuals: Sequence[float],
    side: _Side,
    limit: float,
) -> list[Window]:
    """Return the windows that exceed the limit by ``far``: multiples of noise, and events."""
    times, events = far
    noise = max(times * baseline.largest_residual, events)
    found = []
    for at, (residual, smis) in enumerate(zip(residuals, side.smis, strict=True)):
        above = residual - limit * smis
        if above > noise:
            leverage = baseline.leverage([[column[at]] for column in side.columns], 1)
            if above > noise * sqrt(1 + leverage):
                found.append(side.windows[at])
    return found


def quantile(freedom: int) -> float:
    """Return the value that Student's t exceeds with probability ERROR, or a little more."""
    return QUANTILES[min(freedom, len(QUANTILES)) - 1]
