"""The leak experiment judged
==========================

From samples to controls, claims and figures of the witness leak; docs/leak-judge.md says in words
how, and how often it errs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

from .arms import Arms, smis_of, ticks_run
from .excess import COUNTED, WINDOWS, View, more_smis, views
from .readings import Reading, Role, Scalar, claim, control, measure
from .samples import WITNESS, Samples, Window
from .states import REFERENCE, Group, excess_of, groups
from .toggled import Split, followed, splits

__all__ = ["conclude", "conclude_again"]

#: The part of all windows whose gaps, VM-exits and SMIs must fit each other.
FITTING = 0.75
#: The chance to meet no SMI of a rare leak that is still called seen.
RARE = 1e-4
#: Marks what was concluded, in the raw part of a reading.
CONCLUDED = "concluded"
#: Names the excess of a group that another one was the control of, in the raw part.
_HERE = "here"


def conclude(samples: Samples) -> list[Reading]:
    """Return what the samples say; raises ValueError where windows count different things.

    Counters of which it is known what the guest executed must be decided. Others make
    claims where they are sure, and figures where not, unless no counter is known.
    """
    windows = samples.windows
    names = windows[0].counted.keys() if windows else ()
    if any(window.counted.keys() != names for window in windows):
        raise ValueError("the windows do not all count the same")
    known = [name for name in names if all(name in window.known for window in windows)]
    others = [name for name in names if name not in known]
    found = groups(windows)
    if any(group.state for group in found):
        return _conclude_by_state(samples, found, known, others)
    arms = Arms.of(windows)
    readings = [*_enough(arms), _fitting(windows)]
    if not all(reading.agrees for reading in readings):
        return readings
    seen = views(known, arms)
    if others:
        ticks = ticks_run(windows, samples.gaps)
        seen |= views(others, arms.only(ticks), ticks)
    parts = splits(samples)
    for name in names:
        must_decide = name in known or not known
        view = seen.get(name)
        readings += _shown(name, view, must_decide) if view else [_unseen(name, must_decide)]
        if view and view.leaks and name in known:
            readings += _followed(name, view, arms.quiet, parts)
    if not any(view.leaks for view in seen.values()):
        readings.append(_nothing_leaks(seen.values()))
    return readings


def _conclude_by_state(
    samples: Samples,
    found: Mapping[Group, Sequence[Window]],
    known: Sequence[str],
    others: Sequence[str],
) -> list[Reading]:
    """Return what windows say that are told apart by what their vCPUs went through.

    Each group must count SMM where the knob is off, and must not where it is on; windows with the
    knob off and no state show that the counter can. Windows are few, and other witnesses look at
    the same: one group that refutes the claim decides; otherwise an undecided one silences all.
    """
    windows = samples.windows
    quiet, reference = Arms.of(windows).quiet, found.get(REFERENCE, ())
    states = {group: taken for group, taken in found.items() if group != REFERENCE}
    readings = [
        _quiet_enough(quiet),
        *(
            _raised(str(group), [window for window in taken if window.guest_smis])
            for group, taken in {REFERENCE: reference, **states}.items()
        ),
        _fitting(windows),
    ]
    if not all(reading.agrees for reading in readings):
        return readings
    ticks = ticks_run(windows, samples.gaps) if others else None
    seen = {
        group: excess_of(known, quiet, reference, taken)
        | (excess_of(others, quiet, reference, taken, ticks) if others else {})
        for group, taken in states.items()
    }
    concluded: list[Reading] = []
    for name in (*known, *others):
        must_decide = name in known or not known
        shown = {group: views[name] for group, views in seen.items() if name in views}
        if len(shown) == len(seen):
            concluded += _held_against(name, shown, must_decide)
        else:
            concluded.append(_unseen(name, must_decide))
    is_against = any(r.role is Role.CLAIM and not r.agrees for r in concluded)
    is_undecided = not all(r.agrees for r in concluded if r.role is Role.CONTROL)
    for reading in concluded:
        is_as_figure = (
            _is_undecided(reading) if is_against else is_undecided and reading.role is Role.CLAIM
        )
        readings.append(_as_figure(reading) if is_as_figure else reading)
    shown_ = [view for views in seen.values() for view in views.values()]
    if not any(view.leaks for view in shown_):
        readings.append(_nothing_leaks(shown_))
    return readings


def _as_figure(reading: Reading) -> Reading:
    return replace(reading, role=Role.MEASURE, expected=None, remedy="")


def _is_undecided(reading: Reading) -> bool:
    """Whether this is the open question about a group."""
    return reading.role is Role.CONTROL and not reading.agrees and _HERE in reading.raw


def _held_against(name: str, shown: Mapping[Group, View], must_decide: bool) -> list[Reading]:
    """Return the readings of one counter, for all groups."""
    views = list(shown.values())
    counts = _counts(name, views[0])
    clear = [view.off for view in views if view.leaks]
    if not clear:
        excesses = [views[0].off, *(view.on for view in views)]
        means = ", ".join(f"{each.mean:.4g}" for each in excesses)
        where = ", ".join(str(group) for group in (REFERENCE, *shown))
        return [counts, _figure(f"{name} per SMI {where}", means)]
    noise = f"{clear[0]} per SMI, noise up to {clear[0].floor:.4g}"
    concluded = [counts, _must_hold(f"{name} counts SMM {REFERENCE} ({noise})", True, "")]
    for group, view in shown.items():
        off = view.off
        raw: dict[str, Scalar] = {
            "reference": off.mean, "reference_half": off.half, "reference_floor": off.floor,
            _HERE: view.on.mean, "here_half": view.on.half,
            "here_smis": view.on.smis, "standing_out": view.standing_out,
            "obscure": view.obscure,
        }  # fmt: skip
        what = f"{name} counts SMM {group} ({view.on} per SMI)"
        does, does_not = (
            (view.is_against, view.is_for) if group.is_on else (view.is_counted, view.is_frozen)
        )
        if view.leaks and (does or does_not):
            concluded.append(
                claim(WITNESS, what, does, not group.is_on, **raw, **{CONCLUDED: True})
            )
        elif must_decide:
            wanted = _wanted(view, group)
            concluded.append(_must_hold(f"it is sure whether {what}", False, wanted, **raw))
        else:
            concluded.append(_figure(f"it is sure whether {what}", False, **raw))
    return concluded


def _wanted(view: View, group: Group) -> str:
    """Return what would decide whether a group counts SMM."""
    if group.is_on:
        return view.wanted
    off = view.on
    return more_smis(off.smis, off.of_many, COUNTED * view.off.mean, "off")


def conclude_again(readings: Iterable[Reading]) -> list[Reading]:
    """Return a check's readings with what was concluded from its samples concluded anew.

    Raises KeyError or ValueError where a sample is broken.
    """
    recorded = list(readings)
    taken = [reading for reading in recorded if not reading.raw.get(CONCLUDED)]
    if len(taken) == len(recorded):  # A figure without a claim, such as AMD's.
        return recorded
    return taken + conclude(Samples.of(taken))


def _must_hold(what: str, held: bool, remedy: str, **raw: Scalar) -> Reading:
    # The remedies count what is missing, which of one that held is less than nothing.
    return control(WITNESS, what, held, True, "" if held else remedy, **raw, **{CONCLUDED: True})


def _figure(what: str, observed: Scalar, **raw: Scalar) -> Reading:
    return measure(WITNESS, what, observed, **raw, **{CONCLUDED: True})


def _enough(arms: Arms) -> list[Reading]:
    """Return the controls that there is enough to compare."""
    return [
        _quiet_enough(arms.quiet),
        _raised("with the knob off", arms.off),
        _raised("with the knob on", arms.on),
    ]


def _quiet_enough(windows: Sequence[Window]) -> Reading:
    quiet = len(windows)
    remedy = f"take {WINDOWS - quiet} more windows without SMIs"
    return _must_hold(f"enough windows without SMIs ({quiet})", quiet >= WINDOWS, remedy)


def _raised(when: str, windows: Sequence[Window]) -> Reading:
    count, total = len(windows), sum(smis_of(windows))
    lacking = WINDOWS - count
    more = ceil(lacking * max(total, 1) / max(count, 1))
    return _must_hold(
        f"enough SMIs in guest mode {when} ({total} in {count} windows)",
        lacking <= 0,
        f"about {more} more SMIs in guest mode {when}, in {lacking} more windows",
    )


def _fitting(windows: Sequence[Window]) -> Reading:
    count = len(windows)
    fit = sum(window.guest_smis is not None for window in windows)
    return _must_hold(
        f"gaps, VM-exits and SMIs fit each other (in {fit} of {count} windows)",
        fit >= FITTING * count,
        "have the guest see every gap, and count the SMIs on its own CPU",
    )


def _unseen(name: str, must_decide: bool) -> Reading:
    what = f"enough windows to tell what {name} counts without SMIs"
    if must_decide:
        remedy = "take more windows, quiet ones with as many VM-exits, and record every gap"
        return _must_hold(what, False, remedy)
    return _figure(what, False)


def _counts(name: str, view: View) -> Reading:
    remedy = "free the counter: the NMI watchdog or another user of perf may hold it"
    return _must_hold(f"{name} counts the guest", view.counts, remedy)


def _shown(name: str, view: View, must_decide: bool) -> list[Reading]:
    """Return the readings of one counter."""
    off, on = view.off, view.on
    figures: dict[str, Scalar] = {
        "off": off.mean, "off_half": off.half, "off_floor": off.floor, "off_smis": off.smis,
        "on": on.mean, "on_half": on.half, "on_floor": on.floor, "on_smis": on.smis,
        "standing_out": view.standing_out, "obscure": view.obscure,
    }  # fmt: skip
    counts = _counts(name, view)
    if not view.leaks:
        both = f"{off.mean:.4g}, {on.mean:.4g}"
        return [counts, _figure(f"{name} per SMI with the knob off, on", both, **figures)]
    noise = f"{off} per SMI, noise up to {off.floor:.4g}"
    readings = [counts, _must_hold(f"{name} counts SMM with the knob off ({noise})", True, "")]
    where = f", {view.standing_out} of {view.windows} windows by themselves"
    shown = f"{on} per SMI{where if view.standing_out else ''}"
    if view.is_for or view.is_against:
        what = f"{name} counts SMM with the knob on ({shown})"
        readings.append(
            claim(WITNESS, what, view.is_against, False, **figures, **{CONCLUDED: True})
        )
    else:
        what = f"{name} with the knob on ({shown}) is surely above or below {view.limit:.4g}"
        undecided = _must_hold(what, False, view.wanted, **figures)
        readings.append(undecided if must_decide else _figure(what, False, **figures))
    least = round(100 * view.half / off.mean, 3)
    rare = round(100 * (1 - RARE ** (1 / on.smis)), 3)
    what = f"smallest leak of {name} that would have been seen, in % of that with the knob off"
    return [*readings, _figure(what, least, least_percent_of_smis=rare)]


def _followed(
    name: str, view: View, quiet: Sequence[Window], parts: Sequence[Split]
) -> Iterator[Reading]:
    """Yield what a counter shows where the knob was written amid a window: a claim where sure.

    By the knob's state at the begin: a KVM that goes on with it counts too much in windows that
    begin with the knob off, and too little in others.
    """
    for value, state in enumerate(("off", "on")):
        seen = followed(name, quiet, [p for p in parts if p.begins == value], view.off)
        if not seen:
            continue
        what = (
            f"{name} follows toggles amid windows that begin with the knob {state} "
            f"({seen.smis} SMIs in {seen.windows} windows)"
        )
        (on_least, on_most), (off_least, off_most) = seen.on, seen.off
        figures: dict[str, Scalar] = {
            "on_least": on_least, "on_most": on_most, "on_due": seen.on_due,
            "off_least": off_least, "off_most": off_most, "off_due": seen.off_due,
            "half": seen.half,
        }  # fmt: skip
        if seen.follows is None:
            yield _figure(what, "unsure", **figures)
        else:
            yield claim(WITNESS, what, seen.follows, True, **figures, **{CONCLUDED: True})


def _nothing_leaks(seen: Iterable[View]) -> Reading:
    what = "SMM is counted with the knob off"
    # The counter nearest to a clear effect says how far it is.
    nearest = max((view.off for view in seen), key=lambda off: off.mean - off.half, default=None)
    if nearest is None or nearest.mean <= 0:
        return _must_hold(what, False, "have SMIs whose handlers run longer")
    half = nearest.of_many + nearest.floor
    return _must_hold(what, False, more_smis(nearest.smis, half, nearest.mean, "off"))
