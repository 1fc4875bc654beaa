"""The leak experiment drawn
=========================

One figure of one result, from the evidence alone: excess over time, the arms' distributions with
their intervals, and the lengths of gaps. An arm has a marker as well as a colour, for grey prints
and the colour-blind; colours are those of Okabe and Ito
(https://jfly.uni-koeln.de/color/).
"""

import textwrap
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from itertools import chain, zip_longest
from math import ceil, floor, log10
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from kvmtest.evidence import Evidence, Result
from kvmtest.judge import Reading, Scalar
from kvmtest.judge.arms import Arms, smis_of, ticks_run, window_key
from kvmtest.judge.baseline import Baseline, Covariates
from kvmtest.judge.excess import LEAK, expected_counts
from kvmtest.judge.samples import Arm, Gap, Samples, Toggle, Window

from .heading import model_name

if TYPE_CHECKING:
    # Imported in the functions that draw: the module must load without matplotlib.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

BLACK, GREY, LIGHT = "#000000", "#6b6b6b", "#d0d0d0"
SKY, BLUE, VERMILLION = "#56B4E9", "#0072B2", "#D55E00"


class Style(NamedTuple):
    """How an arm is drawn, and its text in the key."""

    marker: str
    colour: str
    face: str
    condition: str


STYLES = {
    Arm.QUIET: Style("o", GREY, "none", "no SMIs"),
    Arm.KNOB_OFF: Style("^", VERMILLION, VERMILLION, "SMIs, freeze_on_smi 0"),
    Arm.KNOB_ON: Style("s", BLUE, BLUE, "SMIs, freeze_on_smi 1"),
    Arm.MIXED: Style("x", BLACK, BLACK, "toggled amid it or before"),
}
ARMS = (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)


class Kind(Enum):
    """The cause of a gap."""

    SMI = "SMIs"
    EXIT = "VM-exits"
    EITHER = "SMIs or VM-exits"


LOOKS = {Kind.SMI: (SKY, ""), Kind.EITHER: (LIGHT, "//"), Kind.EXIT: ("white", "")}

# Inches: the figure, and its rows from the top.
WIDTH, LEFT, MIDDLE, RIGHT, BOTTOM = 11.0, 0.95, 6.5, 0.3, 0.6
HEAD, ROW, LANES, LATENCY = 1.6, 2.1, 0.55, 1.6
# Between rows: those with one axis of time, and those that have labels between them.
NEAR, SPACE = 0.12, 0.85
BINS_PER_DECADE = 20


class Interval(NamedTuple):
    """A mean per SMI with its confidence interval."""

    mean: float
    low: float
    high: float


class Series(NamedTuple):
    """One counter: each window's excess, and each arm's excess per SMI, as it was judged."""

    name: str
    what: str
    windows: Sequence[Window]
    excess: Sequence[float]
    intervals: Mapping[Arm, Interval]


def draw(evidence: Evidence, result: Result) -> "Figure":
    """Return the figure of a result that has windows.

    Raises KeyError or ValueError if a sample is broken. Rows are the counters whose expected count
    is known, or all if none is.
    """
    from matplotlib.figure import Figure

    samples = Samples.of(result.readings)
    names = list(samples.windows[0].counted)
    known = [name for name in names if all(name in window.known for window in samples.windows)]
    series = [_series(name, samples, result.readings) for name in known or names]
    heights = [*[ROW] * len(series), LANES, LATENCY]
    gaps = [*[SPACE] * (len(series) - 1), NEAR, SPACE + NEAR]
    height = HEAD + sum(heights) + sum(gaps) + BOTTOM
    figure = Figure(figsize=(WIDTH, height))

    def panel(row: int, left: float, right: float, beside: "Axes | None" = None) -> "Axes":
        foot = height - HEAD - sum(heights[: row + 1]) - sum(gaps[:row])
        box = (left / WIDTH, foot / height, (right - left) / WIDTH, heights[row] / height)
        axes = figure.add_axes(box, sharex=beside)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    lanes = panel(len(series), LEFT, MIDDLE)
    origin = min(window.began for window in samples.windows)
    for row, counter in enumerate(series):
        _against_time(panel(row, LEFT, MIDDLE, lanes), counter, origin)
        _distributions(panel(row, MIDDLE + 1.15, WIDTH - RIGHT), counter)
    _lanes(lanes, samples, origin)
    _latencies(panel(len(series) + 1, LEFT, WIDTH - RIGHT), samples)
    _title(figure, evidence, result)
    _key(figure, {window.arm for window in samples.windows})
    return figure


def _series(name: str, samples: Samples, readings: Sequence[Reading]) -> Series:
    """Return a counter's excess over its baseline; without one, over the known count.

    If the expected count is unknown, it is proportional to the time that the guest ran, as in the
    judge; windows where that time is unknown are left out.
    """
    windows = samples.windows
    ticks = None
    if not all(name in window.known for window in windows):
        ticks = ticks_run(windows, samples.gaps)
        windows = [window for window in windows if window_key(window) in ticks]
    intervals = _intervals(name, readings)
    if quiet := Arms.of(windows).quiet:
        covariates, expected = Covariates(quiet), expected_counts(name, quiet, ticks)
        gains = {window_key(window): window.counted[name] - expected(window) for window in windows}
        if baseline := Baseline.fit(covariates, [gains[window_key(window)] for window in quiet]):
            excess = baseline.residuals(list(gains.values()), covariates.of(windows))
            return Series(name, "excess", windows, excess, intervals)
    what = "counted" if ticks else "counted \N{MINUS SIGN} known"
    over_known = [float(w.counted[name] - w.known.get(name, 0)) for w in windows]
    return Series(name, what, windows, over_known, intervals)


def _intervals(name: str, readings: Sequence[Reading]) -> dict[Arm, Interval]:
    """Return a counter's intervals from the judge's figures; the quiet arm's is the noise."""
    figures = next((r.raw for r in readings if r.what.startswith(f"{name} ") and "on" in r.raw), {})
    if not figures:
        return {}
    noise = _number(figures["off_floor"])
    return {
        Arm.QUIET: Interval(0.0, -noise, noise),
        Arm.KNOB_OFF: _interval(figures, "off"),
        Arm.KNOB_ON: _interval(figures, "on"),
    }


def _interval(figures: Mapping[str, Scalar], key: str) -> Interval:
    mean, half = _number(figures[key]), _number(figures[f"{key}_half"])
    return Interval(mean, mean - half, mean + half)


def _number(value: Scalar) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _per_smi(counter: Series, arm: Arm) -> list[float]:
    """Return an arm's excess per SMI in guest mode.

    A quiet window counts as one with the other arms' median of SMIs. Windows of those arms without
    an SMI are left out.
    """
    windows = counter.windows
    counts = [float(count) for count in smis_of(windows)]
    if arm is Arm.QUIET:
        others = [n for n, w in zip(counts, windows, strict=True) if w.arm is not Arm.QUIET and n]
        counts = [median(others or [1.0])] * len(windows)
    rows = zip(windows, counter.excess, counts, strict=True)
    return [value / count for window, value, count in rows if window.arm is arm and count]


def _against_time(axes: "Axes", counter: Series, origin: int) -> None:
    axes.axhline(0, color=LIGHT, linewidth=0.8, zorder=0)
    size = 5 if len(counter.windows) <= 150 else 3
    for arm, style in STYLES.items():
        points = [
            ((window.began + window.ended) / 2 - origin, value)
            for window, value in zip(counter.windows, counter.excess, strict=True)
            if window.arm is arm
        ]
        if points:
            axes.plot(*zip(*points, strict=True), **_marks(style), ms=size, ls="", label=arm.value)
    axes.set_ylabel(f"{counter.what} per window,\n{counter.name}")
    axes.yaxis.set_major_formatter(_tick)
    axes.margins(y=0.12)
    axes.set_ylim(min(-1.0, axes.get_ylim()[0]), max(1.0, axes.get_ylim()[1]))
    axes.tick_params(labelbottom=False)


def _distributions(axes: "Axes", counter: Series) -> None:
    axes.axvline(0, color=LIGHT, linewidth=0.8, zorder=0)
    values = {arm: _per_smi(counter, arm) for arm in ARMS}
    seen = [*(v for each in values.values() for v in each), *chain(*counter.intervals.values())]
    low, high = min(seen, default=-1.0), max(seen, default=1.0)
    off = counter.intervals.get(Arm.KNOB_OFF)
    limit = LEAK * off.mean if off and off.low > 0 else 0.0
    if limit:
        _mark_limit(axes, limit, low, high)
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(_tick)
    for at, arm in enumerate(ARMS):
        style = STYLES[arm]
        # Spread by the golden section: evenly, and the same each time.
        heights = [at - 0.02 - 0.3 * (number * 0.618034 % 1) for number in range(len(values[arm]))]
        size = 4 if len(heights) <= 50 else 2.5
        axes.plot(values[arm], heights, **_marks(style), ms=size, ls="", label=arm.value)
        if interval := counter.intervals.get(arm):
            _interval_drawn(axes, arm, at + 0.15, interval, max(limit, high / 2))
    counts = [f"{arm.value}\n{len(values[arm])} windows" for arm in ARMS]
    axes.set_yticks(range(len(ARMS)), counts)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(ARMS) - 0.4, -0.5)
    scale = f"\n(logarithmic beyond {LEAK:.0%} of control)" if limit else ""
    axes.set_xlabel(f"{counter.what} per SMI in guest mode, {counter.name}{scale}")


def _interval_drawn(axes: "Axes", arm: Arm, at: float, interval: Interval, far: float) -> None:
    """Draw an arm's interval and below it its bounds, right-aligned beyond ``far``."""
    mean, low, high = interval
    axes.errorbar(
        [mean], [at], xerr=[[mean - low], [high - mean]], color=BLACK, marker="|", ms=8, capsize=3,
        linewidth=1.3, label=f"{arm.value} interval",
    )  # fmt: skip
    bounds = f"noise ±{_short(high)}" if arm is Arm.QUIET else f"{_short(low)} to {_short(high)}"
    axes.annotate(
        bounds, (high if mean > far else mean, at),
        xytext=(0, -4), textcoords="offset points", va="top", fontsize=8,
        ha="right" if mean > far else "center",
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
    )  # fmt: skip


def _mark_limit(axes: "Axes", limit: float, low: float, high: float) -> None:
    """Mark where a leak begins; the axis is linear up to there, and logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=limit, linscale=0.8, subs=[1])
    axes.axvline(limit, color=BLACK, linewidth=0.8, linestyle=":", zorder=0)
    axes.annotate(
        f"{LEAK:.0%} of control: {_short(limit)}", (limit, 1), xycoords=axes.get_xaxis_transform(),
        xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8,
    )  # fmt: skip
    powers = [10.0**n for n in range(ceil(log10(limit)), ceil(log10(max(high, -low, limit))) + 1)]
    axes.set_xticks([*(-p for p in powers if -p >= low), 0, *(p for p in powers if p <= high)])
    axes.minorticks_off()
    axes.set_xlim(min(2 * low, -2 * limit), 2 * high)


def _lanes(axes: "Axes", samples: Samples, origin: int) -> None:
    """Draw the knob's state and the SMIs along the time of the panels above."""
    gaps = _sorted_out(samples)
    axes.eventplot(
        [[gap.began - origin for gap in gaps[kind]] for kind in (Kind.SMI, Kind.EITHER)],
        lineoffsets=[1, 1], linelengths=[0.6, 0.3], colors=[BLACK, GREY],
        linewidths=0.6 if len(samples.gaps) < 500 else 0.25,
    )  # fmt: skip
    end = max(window.ended for window in samples.windows) - origin
    for toggle, until in _reigns(samples.toggles, end + origin):
        axes.broken_barh(
            [(toggle.ended - origin, until - toggle.ended)], (-0.3, 0.6),
            facecolor=BLUE if toggle.value else "none", edgecolor=BLUE, linewidth=0.6,
        )  # fmt: skip
    axes.set_xlim(-0.015 * end, 1.015 * end)
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([0, 1], ["knob", "SMIs"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(_tick)
    axes.set_xlabel(
        "TSC ticks since the first window\n"
        "(SMIs: short ones may be VM-exits; knob freeze_on_smi: filled is 1, hollow 0)"
    )


def _reigns(toggles: Sequence[Toggle], end: int) -> list[tuple[Toggle, int]]:
    """Return each toggle with the time of the next one, or the end."""
    ordered = sorted(toggles, key=lambda toggle: toggle.began)
    return [
        (toggle, min(following.began if following else end, end))
        for toggle, following in zip_longest(ordered, ordered[1:])
        if toggle.ended < end
    ]


def _sorted_out(samples: Samples) -> dict[Kind, list[Gap]]:
    """Return the gaps within windows by their cause.

    The cause is known in windows without VM-exits or without SMIs; elsewhere it may be either.
    """
    sorted_out: dict[Kind, list[Gap]] = {kind: [] for kind in Kind}
    windows: dict[int, list[Window]] = {}
    for window in sorted(samples.windows, key=lambda window: window.began):
        windows.setdefault(window.vcpu, []).append(window)
    begins = {vcpu: [window.began for window in each] for vcpu, each in windows.items()}
    for gap in samples.gaps:
        at = bisect_right(begins.get(gap.vcpu, []), gap.began) - 1
        if at >= 0 and gap.began < (window := windows[gap.vcpu][at]).ended:
            is_smi = window.guest_smis == window.gaps
            is_exit = not window.smis
            sorted_out[Kind.SMI if is_smi else Kind.EXIT if is_exit else Kind.EITHER].append(gap)
    return sorted_out


def _latencies(axes: "Axes", samples: Samples) -> None:
    gaps = _sorted_out(samples)
    lengths = {kind: [max(g.ended - g.began, 1) for g in each] for kind, each in gaps.items()}
    axes.set_xlabel("length of a gap in the guest's time, TSC ticks")
    axes.set_ylabel("gaps")
    if not any(lengths.values()):
        axes.text(0.5, 0.5, "no gap was recorded", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    everything = [length for each in lengths.values() for length in each]
    first = floor(log10(min(everything)) * BINS_PER_DECADE) - BINS_PER_DECADE // 4
    last = ceil(log10(max(everything)) * BINS_PER_DECADE) + BINS_PER_DECADE // 4
    bins = [10 ** (at / BINS_PER_DECADE) for at in range(first, last + 1)]
    bottom: Any = 0
    for kind, (face, hatch) in LOOKS.items():
        if values := lengths[kind]:
            label = f"{len(values)} {kind.value}, median {_short(median(values))}"
            heights, _, _ = axes.hist(
                values, bins, bottom=bottom, label=label, facecolor=face, edgecolor=BLACK,
                linewidth=0.5, hatch=hatch,
            )  # fmt: skip
            bottom = bottom + heights
    axes.set_xscale("log")
    axes.set_xlim(bins[0], bins[-1])
    axes.locator_params(axis="y", nbins=4, integer=True)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2,
        borderpad=0, handlelength=1.2,
    )  # fmt: skip


def _title(figure: "Figure", evidence: Evidence, result: Result) -> None:
    release = evidence.kernel.release
    kernel = f"Linux {release}" if release else evidence.kernel.missing
    height = figure.get_figheight()
    lines = textwrap.wrap(result.reason, 150, max_lines=2, placeholder=" …")
    about = f"{kernel}, {evidence.machine_name}: {model_name(evidence)}"
    if evidence.machine.lab:
        about += "; EMULATED, not hardware"
    known = " (known defect)" if result.is_known_failure else ""
    left = 0.25 / WIDTH
    figure.text(left, 1 - 0.2 / height, f"{result.id}: {result.verdict}{known}", va="top",
                fontsize=14, fontweight="bold")  # fmt: skip
    figure.text(left, 1 - 0.5 / height, about, va="top")
    figure.text(left, 1 - 0.72 / height, "\n".join(lines), va="top", fontsize=8, color=GREY)


def _key(figure: "Figure", arms: Collection[Arm]) -> None:
    """Explain the markers above the panels."""
    from matplotlib.lines import Line2D

    shown = [(arm, style) for arm, style in STYLES.items() if arm in arms]
    figure.legend(
        [Line2D([], [], ls="", **_marks(style)) for _, style in shown],
        [f"{arm}: {style.condition}" for arm, style in shown],
        loc="upper left", bbox_to_anchor=(0.17 / WIDTH, 1 - 1.07 / figure.get_figheight()),
        ncols=len(shown), frameon=False, fontsize=9, handletextpad=0.1, borderpad=0,
    )  # fmt: skip


def _marks(style: Style) -> dict[str, Any]:
    return {"marker": style.marker, "mec": style.colour, "mfc": style.face, "mew": 0.9}


def _tick(value: float, position: object) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_short(value / factor)}{unit}"
    return _short(value)


def _short(value: float) -> str:
    """Return a number to four digits; thousands and more in whole ones."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")
