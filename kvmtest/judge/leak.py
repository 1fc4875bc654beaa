"""The leak experiment judged
==========================

From samples to controls, claims and figures of the witness leak; docs/leak-judge.md says in words
how, and how often it errs.
"""

from collections.abc import Iterable, Sequence
from math import ceil

from .arms import Arms, ran, smis_of
from .excess import WINDOWS, View, more_smis, views
from .readings import Reading, Scalar, claim, control, measure
from .samples import WITNESS, Samples, Window

__all__ = ["again", "conclude"]

#: The part of all windows whose gaps, VM-exits and SMIs must fit each other.
FITTING = 0.75
#: The chance to meet no SMI of a rare leak that is still called seen.
RARE = 1e-4
#: Marks what was concluded, in the raw part of a reading.
CONCLUDED = "concluded"


def conclude(samples: Samples) -> list[Reading]:
    """Return what the samples say; raises ValueError where windows count different things.

    Counters of which it is known what the guest executed must be decided. Others are heard where
    they are sure and are figures where not, unless there are no better ones.
    """
    windows = samples.windows
    names = windows[0].counted.keys() if windows else ()
    if any(window.counted.keys() != names for window in windows):
        raise ValueError("the windows do not all count the same")
    arms = Arms.of(windows)
    readings = [*_enough(arms), _fitting(windows)]
    if not all(reading.agrees for reading in readings):
        return readings
    known = [name for name in names if all(name in window.known for window in windows)]
    others = [name for name in names if name not in known]
    seen = views(known, arms)
    if others:
        ticks = ran(windows, samples.gaps)
        seen |= views(others, arms.only(ticks), ticks)
    for name in names:
        must_decide = name in known or not known
        view = seen.get(name)
        readings += _shown(name, view, must_decide) if view else [_unseen(name, must_decide)]
    if not any(view.leaks for view in seen.values()):
        readings.append(_nothing_leaks(seen.values()))
    return readings


def again(readings: Iterable[Reading]) -> list[Reading]:
    """Return a check's readings with what was concluded from its samples concluded anew.

    Raises KeyError or ValueError where a sample is broken.
    """
    recorded = list(readings)
    taken = [reading for reading in recorded if not reading.raw.get(CONCLUDED)]
    if len(taken) == len(recorded):  # A figure without a claim, such as AMD's.
        return recorded
    return taken + conclude(Samples.of(taken))


def _held(what: str, held: bool, remedy: str, **raw: Scalar) -> Reading:
    return control(WITNESS, what, held, True, remedy, **raw, **{CONCLUDED: True})


def _figure(what: str, observed: Scalar, **raw: Scalar) -> Reading:
    return measure(WITNESS, what, observed, **raw, **{CONCLUDED: True})


def _enough(arms: Arms) -> list[Reading]:
    """Return whether there is something to compare."""
    quiet = len(arms.quiet)
    remedy = f"take {WINDOWS - quiet} more windows without SMIs"
    return [
        _held(f"enough windows without SMIs ({quiet})", quiet >= WINDOWS, remedy),
        _raised("off", arms.control),
        _raised("on", arms.treatment),
    ]


def _raised(knob: str, windows: Sequence[Window]) -> Reading:
    count, total = len(windows), sum(smis_of(windows))
    lacking = WINDOWS - count
    more = ceil(lacking * max(total, 1) / max(count, 1))
    return _held(
        f"enough SMIs in guest mode with the knob {knob} ({total} in {count} windows)",
        lacking <= 0,
        f"about {more} more SMIs in guest mode with the knob {knob}, in {lacking} more windows",
    )


def _fitting(windows: Sequence[Window]) -> Reading:
    count = len(windows)
    fit = sum(window.guest_smis is not None for window in windows)
    return _held(
        f"gaps, VM-exits and SMIs fit each other (in {fit} of {count} windows)",
        fit >= FITTING * count,
        "have the guest see every gap, and count the SMIs on its own CPU",
    )


def _unseen(name: str, must_decide: bool) -> Reading:
    what = f"enough windows to tell what {name} counts without SMIs"
    if must_decide:
        remedy = "take more windows, quiet ones with as many VM-exits, and record every gap"
        return _held(what, False, remedy)
    return _figure(what, False)


def _shown(name: str, view: View, must_decide: bool) -> list[Reading]:
    """Return the readings of one counter."""
    off, on = view.control, view.treatment
    figures: dict[str, Scalar] = {
        "off": off.mean, "off_half": off.half, "off_floor": off.floor, "off_smis": off.smis,
        "on": on.mean, "on_half": on.half, "on_floor": on.floor, "on_smis": on.smis,
        "standing_out": view.standing_out, "obscure": view.obscure,
    }  # fmt: skip
    counts = _held(
        f"{name} counts the guest",
        view.counts,
        "free the counter: the NMI watchdog or another user of perf may hold it",
    )
    if not view.leaks:
        both = f"{off.mean:.4g}, {on.mean:.4g}"
        return [counts, _figure(f"{name} per SMI with the knob off, on", both, **figures)]
    noise = f"{off} per SMI, noise up to {off.floor:.4g}"
    readings = [counts, _held(f"{name} counts SMM with the knob off ({noise})", True, "")]
    where = f", {view.standing_out} of {view.windows} windows by themselves"
    shown = f"{on} per SMI{where if view.standing_out else ''}"
    if view.is_for or view.is_against:
        what = f"{name} counts SMM with the knob on ({shown})"
        readings.append(
            claim(WITNESS, what, view.is_against, False, **figures, **{CONCLUDED: True})
        )
    else:
        what = f"{name} with the knob on ({shown}) is surely above or below {view.limit:.4g}"
        undecided = _held(what, False, view.wanted, **figures)
        readings.append(undecided if must_decide else _figure(what, False, **figures))
    least = round(100 * view.half / off.mean, 3)
    rare = round(100 * (1 - RARE ** (1 / on.smis)), 3)
    what = f"smallest leak of {name} that would have been seen, in % of that with the knob off"
    return [*readings, _figure(what, least, least_percent_of_smis=rare)]


def _nothing_leaks(seen: Iterable[View]) -> Reading:
    what = "SMM is counted with the knob off"
    # The counter nearest to a clear effect says how far it is.
    nearest = max(
        (view.control for view in seen), key=lambda off: off.mean - off.half, default=None
    )
    if nearest is None or nearest.mean <= 0:
        return _held(what, False, "have SMIs whose handlers run longer")
    half = nearest.of_many + nearest.floor
    return _held(what, False, more_smis(nearest.smis, half, nearest.mean, "off"))
