"""The leak experiment judged
==========================

From samples to controls, claims and figures of the witness leak; docs/leak-judge.md says in words
how, and how often it errs.
"""

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, hypot, inf, sqrt
from typing import Self

from .baseline import Baseline, Columns, Covariates, dot
from .readings import Reading, claim, control, measure
from .samples import WITNESS, Arm, Gap, Samples, Window

__all__ = ["again", "conclude"]

#: A leak counts from this part of the control's on.
LEAK = 0.01
#: How often one bound of an interval may be wrong.
ERROR = 1e-5
#: A window stands out that is so many times as far off as any quiet one.
STANDS_OUT = 25.0
#: Counts are whole: one may be half an event off, and an arm's sum and its baseline one each.
COUNT_UNSURE, SUM_UNSURE = 0.5, 2.0
#: Windows that an arm needs.
WINDOWS = 4
#: The part of all windows whose gaps, VM-exits and SMIs must fit each other.
FITTING = 0.75
#: The chance of not seeing any SMI of a rare leak that is still called seen.
RARE = 1e-4

_CONCLUDED = "concluded"
Ticks = Callable[[Window], float]


def conclude(samples: Samples) -> list[Reading]:
    """Return what the samples say; raises ValueError where windows count different things.

    Counters of which it is known what the guest executed must be decided. Others are heard where
    they are sure and are figures where not, unless there are no better ones.
    """
    windows = [window for window in samples.windows if window.arm is not Arm.MIXED]
    names = list(windows[0].counted) if windows else []
    if any(list(window.counted) != names for window in windows):
        raise ValueError("the windows do not all count the same")
    arms = _Arms.of(windows)
    readings = [*arms.raised(), _fit(windows)]
    if all(reading.agrees for reading in readings):
        known = [name for name in names if all(name in window.known for window in windows)]
        others = [name for name in names if name not in known]
        views = _views(known, arms, None)
        if others:
            ticks = _ticks(windows, samples.gaps)
            views |= _views(others, arms.only(ticks), lambda w: ticks[w.vcpu, w.began])
        for name in names:
            readings += _said(name, views.get(name), must_decide=name in known or not known)
        if not any(view.leaks for view in views.values()):
            readings.append(_nothing_leaks(arms, views.values()))
    return [replace(r, raw={**r.raw, _CONCLUDED: True}) for r in readings]


def again(readings: Iterable[Reading]) -> list[Reading]:
    """Return a check's readings with what was concluded from its samples concluded anew.

    Raises KeyError or ValueError where a sample is broken.
    """
    taken = [reading for reading in readings if not reading.raw.get(_CONCLUDED)]
    samples = Samples.of(taken)
    return taken + conclude(samples) if samples.windows else taken


@dataclass(frozen=True, slots=True)
class _Arms:
    """Windows by what they can be used for.

    Those of ``control`` and ``treatment`` have SMIs in guest mode, in a known number. ``bounds``
    are treatment windows with SMIs of which it is not known how many came in guest mode.
    """

    quiet: list[Window]
    control: list[Window]
    treatment: list[Window]
    bounds: list[Window]

    @classmethod
    def of(cls, windows: Iterable[Window]) -> Self:
        """Sort the windows; a quiet one with an SMI is of no use."""
        arms = cls([], [], [], [])
        for window in windows:
            if window.arm is Arm.QUIET:
                if not window.smis:
                    arms.quiet.append(window)
            elif window.guest_smis:
                (arms.control if window.arm is Arm.CONTROL else arms.treatment).append(window)
            elif window.arm is Arm.TREATMENT and window.smis:
                arms.bounds.append(window)
        return arms

    def only(self, keys: Container[tuple[int, int]]) -> "_Arms":
        """Return the arms without the windows that ``keys`` does not name by vCPU and start."""
        lists = (self.quiet, self.control, self.treatment, self.bounds)
        return _Arms(*([w for w in each if (w.vcpu, w.began) in keys] for each in lists))

    def raised(self) -> list[Reading]:
        """Return whether there is something to compare."""
        quiet = control(
            WITNESS, f"enough windows without SMIs ({len(self.quiet)})",
            len(self.quiet) >= WINDOWS, True, f"take {WINDOWS} windows while there are no SMIs",
        )  # fmt: skip
        return [quiet, self._seen("off", self.control), self._seen("on", self.treatment)]

    @staticmethod
    def _seen(knob: str, windows: Sequence[Window]) -> Reading:
        smis = sum(_smis(windows))
        lacking = WINDOWS - len(windows)
        more = (
            f"about {ceil(lacking * max(smis, 1) / max(len(windows), 1))} more SMIs in guest mode"
        )
        return control(
            WITNESS, f"enough SMIs in guest mode with the knob {knob} "
            f"({smis:.0f} in {len(windows)} windows)",
            lacking <= 0, True, f"{more} with the knob {knob}, in {lacking} more windows",
            smis=int(smis), windows=len(windows),
        )  # fmt: skip


def _fit(windows: Sequence[Window]) -> Reading:
    unfit = sum(window.guest_smis is None for window in windows)
    return control(
        WITNESS, f"gaps, VM-exits and SMIs fit each other (in {len(windows) - unfit} of "
        f"{len(windows)} windows)",
        unfit <= (1 - FITTING) * len(windows), True,
        "have the guest see every gap, and the SMIs counted on its own CPU",
    )  # fmt: skip


def _smis(windows: Iterable[Window]) -> list[float]:
    """Return how many SMIs came in guest mode, at most."""
    return [float(window.guest_smis or window.smis) for window in windows]


def _ticks(windows: Iterable[Window], gaps: Iterable[Gap]) -> dict[tuple[int, int], float]:
    """Return the ticks that the guest ran in each window, where all of its gaps were recorded."""
    begins: dict[int, list[int]] = {}
    lengths: dict[int, list[int]] = {}
    for gap in sorted(gaps, key=lambda gap: gap.began):
        begins.setdefault(gap.vcpu, []).append(gap.began)
        lengths.setdefault(gap.vcpu, []).append(gap.ended - gap.began)
    ran = {}
    for window in windows:
        begun = begins.get(window.vcpu, [])
        first, last = bisect_left(begun, window.began), bisect_left(begun, window.ended)
        if last - first == window.gaps:
            lost = sum(lengths[window.vcpu][first:last]) if window.gaps else 0
            ran[window.vcpu, window.began] = float(window.ended - window.began - lost)
    return ran


@dataclass(frozen=True, slots=True)
class _Excess:
    """What a counter gained above its baseline for each SMI in guest mode.

    ``half`` is half its interval, ``floor`` what quiet windows let expect of noise alone.
    """

    mean: float
    half: float
    floor: float
    smis: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise."""
        return self.mean - self.half > self.floor

    def __str__(self) -> str:
        return f"{self.mean - self.half:.4g} to {self.mean + self.half:.4g}"


@dataclass(frozen=True, slots=True)
class _View:
    """What one counter shows: its excess in both arms, and treatment windows that stand out.

    ``unexplained`` are those whose VM-exits nobody knows the cost of.
    """

    name: str
    counts: bool
    control: _Excess
    treatment: _Excess
    standing_out: int
    unexplained: int

    @property
    def leaks(self) -> bool:
        """Whether it counts SMM with the knob off."""
        return self.control.is_clear

    @property
    def limit(self) -> float:
        """The excess per SMI that is a leak."""
        return LEAK * self.control.mean

    @property
    def half(self) -> float:
        """Half the interval of the treatment's excess over the limit, which is uncertain, too."""
        return hypot(self.treatment.half, LEAK * self.control.half)

    @property
    def is_against(self) -> bool:
        """Whether SMM is surely counted with the knob on."""
        above = self.treatment.mean - self.limit > self.half
        return bool(self.standing_out) or (above and self.treatment.is_clear)

    @property
    def is_for(self) -> bool:
        """Whether SMM is surely not counted with the knob on."""
        return abs(self.treatment.mean) + self.half < self.limit

    @property
    def more(self) -> str:
        """What would decide it."""
        beside = abs(abs(self.treatment.mean) - self.limit)
        if self.treatment.mean + self.half < -self.limit:
            return "have quiet windows like those with SMIs: these counted less"
        return _more(self.treatment.smis, self.half, beside) + " with the knob on"


def _more(smis: float, half: float, wanted: float) -> str:
    """Say how many SMIs make an interval as narrow as is wanted: it goes by their square root."""
    more = smis * ((half / wanted) ** 2 - 1) if wanted else inf
    words = f"about {max(ceil(more), 1)}" if more < 1e6 else "more than a million"
    return f"{words} more SMIs in guest mode"


def _views(names: Sequence[str], arms: _Arms, ticks: Ticks | None) -> dict[str, _View]:
    """Return what the counters show, of those of which there are windows enough."""
    if not names or not all(reading.agrees for reading in arms.raised()):
        return {}
    covariates = Covariates(arms.quiet, ticks)
    off = [window for window in arms.control if covariates.explain(window)]
    on = [window for window in arms.treatment if covariates.explain(window)]
    loose = arms.bounds + [w for w in arms.treatment if not covariates.explain(w)]
    if min(len(off), len(on)) < WINDOWS:
        return {}
    sides = [_Side(windows, _smis(windows), covariates.of(windows)) for windows in (off, on, loose)]
    views = {name: _view(name, covariates, arms.quiet, *sides) for name in names}
    return {name: view for name, view in views.items() if view}


@dataclass(frozen=True, slots=True)
class _Side:
    """Windows of an arm, their SMIs, and their covariates: the same for all counters."""

    windows: list[Window]
    smis: list[float]
    columns: Columns


def _view(
    name: str, covariates: Covariates, quiet: list[Window], off: _Side, on: _Side, loose: _Side
) -> _View | None:
    gains = _gains(name, quiet)
    baseline = Baseline.fit(covariates, gains)
    if not baseline:
        return None
    counted = [window.counted[name] for window in quiet]
    expected = sum(window.known.get(name, 0) for window in quiet)
    counts = min(counted) > 0 and expected / 2 <= sum(counted) <= (expected or inf) * 2
    nothing_to_count = not expected and all(name in window.known for window in quiet)
    rests = baseline.excess(_gains(name, off.windows), off.columns)
    control = _excess(baseline, rests, off, pooled=False)
    rests = baseline.excess(_gains(name, on.windows), on.columns)
    limit = LEAK * control.mean
    standing_out = _standing_out(baseline, rests, on, limit)
    treatment = _excess(baseline, rests, on, pooled=True)
    rests = baseline.excess(_gains(name, loose.windows), loose.columns)
    odd = _standing_out(baseline, rests, loose, limit)
    unexplained = [w for w in odd if not covariates.explain(w)]
    return _View(
        name, counts or nothing_to_count, control, treatment,
        len(standing_out) + len(odd) - len(unexplained), len(unexplained),
    )  # fmt: skip


def _gains(name: str, windows: Iterable[Window]) -> list[float]:
    return [float(window.counted[name] - window.known.get(name, 0)) for window in windows]


def _excess(baseline: Baseline, rests: list[float], side: _Side, *, pooled: bool) -> _Excess:
    """Return an arm's excess per SMI.

    SMM is not always as long, so that windows that leak differ by more than their noise: the
    interval is from the windows' own scatter. Where they need not leak (``pooled``), they tell of
    the noise together with the quiet ones.
    """
    count, smis = len(rests), sum(side.smis)
    mean = sum(rests) / smis
    distances = [rest - mean * n for rest, n in zip(rests, side.smis, strict=True)]
    squares = dot(distances, distances)
    own, freedom = squares * count / (count - 1), count - 1
    noise = baseline.squares / baseline.freedom
    leverage = baseline.leverage(count, side.columns)
    floor = _quantile(baseline.freedom) * sqrt(noise * (count + leverage))
    if pooled:
        freedom += baseline.freedom
        noise = (baseline.squares + squares) / freedom
        own = max(own, noise * count)
    half = _quantile(freedom) * sqrt(own + noise * leverage)
    return _Excess(mean, max(half, SUM_UNSURE) / smis, max(floor, SUM_UNSURE) / smis, smis)


def _standing_out(
    baseline: Baseline, rests: list[float], side: _Side, limit: float
) -> list[Window]:
    """Return the windows that surely leak each by itself."""
    noise = STANDS_OUT * max(baseline.farthest, COUNT_UNSURE)
    return [
        window
        for at, (window, rest, smis) in enumerate(zip(side.windows, rests, side.smis, strict=True))
        if rest > noise + limit * smis
        and rest > limit * smis
        + noise * sqrt(1 + baseline.leverage(1, [[column[at]] for column in side.columns]))
    ]  # fmt: skip


@cache
def _quantile(freedom: int) -> float:
    """Return what Student's t exceeds with the probability ERROR."""
    # Imported here, as it takes long and only this experiment needs it.
    from scipy.special import stdtrit

    return float(stdtrit(float(freedom), 1 - ERROR))


def _said(name: str, view: _View | None, *, must_decide: bool) -> list[Reading]:
    """Return the readings of one counter."""
    if view is None:
        text = f"{name}: windows enough that tell what it counts without SMIs"
        if not must_decide:
            return [measure(WITNESS, text, False)]
        remedy = "take more quiet windows with as many VM-exits, and record every gap"
        return [control(WITNESS, text, False, True, remedy)]
    counting = control(
        WITNESS, f"{name} counts the guest", view.counts, True,
        "free the counter (NMI watchdog, other users of perf), and take the windows again",
    )  # fmt: skip
    off, on = view.control, view.treatment
    figures = {
        "off": off.mean, "off_half": off.half, "off_floor": off.floor,
        "on": on.mean, "on_half": on.half, "on_floor": on.floor,
    }  # fmt: skip
    if not view.leaks:
        text = f"{name} per SMI with the knob off, on"
        return [counting, measure(WITNESS, text, f"{off.mean:.4g}, {on.mean:.4g}", **figures)]
    readings = [
        counting,
        control(
            WITNESS, f"{name} counts SMM with the knob off ({off} per SMI, noise {off.floor:.4g})",
            True, True, "", **figures,
        ),
        control(
            WITNESS, f"windows with excess {name} and VM-exits of unknown cost", view.unexplained,
            0, "take quiet windows with as many VM-exits",
        ),
    ]  # fmt: skip
    decided = view.is_for or view.is_against
    if decided:
        part = f"{name} counts SMM with the knob on ({on} per SMI)"
        readings.append(
            claim(WITNESS, part, view.is_against, False, standing_out=view.standing_out)
        )
    text = f"{name} with the knob on ({on} per SMI) is surely below or above {view.limit:.4g}"
    if decided or must_decide:
        readings.append(control(WITNESS, text, decided, True, view.more, **figures))
    else:
        readings.append(measure(WITNESS, text, False, **figures))
    share = round(100 * view.half / off.mean, 3)
    text = f"smallest leak of {name} that would have been seen, in % of that with the knob off"
    rare = round(100 * (1 - RARE ** (1 / on.smis)), 3)
    return [*readings, measure(WITNESS, text, share, least_part_of_smis=rare)]


def _nothing_leaks(arms: _Arms, views: Iterable[_View]) -> Reading:
    # The counter nearest to a clear effect says how far it is.
    best = max(views, key=lambda view: view.control.mean - view.control.half, default=None)
    remedy = "take windows with SMIs that last longer"
    if best and best.control.mean > 0:
        excess = best.control
        remedy = _more(excess.smis, excess.half + excess.floor, excess.mean) + " with the knob off"
    return control(WITNESS, "SMM is counted with the knob off", False, True, remedy)
