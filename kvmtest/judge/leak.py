"""The leak experiment judged
==========================

From samples to controls, claims and figures of the witness leak. docs/leak-judge.md explains the
method and its error rate.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

from .arms import Arms, smis_of, ticks_run
from .excess import COUNTED, WINDOWS, CounterExcess, excess_by_counter, more_smis
from .readings import Reading, Role, Scalar, claim, control, measure
from .samples import WITNESS, Samples, Window
from .states import REFERENCE, WindowGroup, excess_of, groups
from .toggled import ToggledWindow, toggle_excess, toggled_windows

__all__ = ["conclude", "conclude_again"]

#: The smallest share of windows whose gaps, VM-exits and SMIs must be consistent.
FITTING = 0.75
#: The accepted chance that a rare leak shows in no SMI of the run.
RARE = 1e-4
#: Key in a reading's raw part: the judge concluded the reading.
CONCLUDED = "concluded"
#: Key in a reading's raw part: the excess of a group that was compared to the reference.
_HERE = "here"


def conclude(samples: Samples) -> list[Reading]:
    """Return the samples' readings; raises ValueError if windows have different counters.

    A counter whose expected count is known must be decided. Any other makes a claim if the result
    is sure, else a figure; if no expected count is known, all must be decided.
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
    readings = [*_enough(arms), _consistent(windows)]
    if not all(reading.agrees for reading in readings):
        return readings
    seen = excess_by_counter(known, arms)
    if others:
        ticks = ticks_run(windows, samples.gaps)
        seen |= excess_by_counter(others, arms.only(ticks), ticks)
    toggled = toggled_windows(samples)
    for name in names:
        must_decide = name in known or not known
        counter = seen.get(name)
        readings += (
            _counter_readings(name, counter, must_decide)
            if counter
            else [_no_baseline(name, must_decide)]
        )
        if counter and counter.leaks and name in known:
            readings += _follows_toggles(name, counter, arms.quiet, toggled)
    if not any(counter.leaks for counter in seen.values()):
        readings.append(_nothing_leaks(seen.values()))
    return readings


def _conclude_by_state(
    samples: Samples,
    found: Mapping[WindowGroup, Sequence[Window]],
    known: Sequence[str],
    others: Sequence[str],
) -> list[Reading]:
    """Return the readings of windows that are grouped by their vCPU's history.

    A group must count SMM with the knob off, and must not with the knob on. Windows with the knob
    off and no history show that the counter can count SMM. Windows are few, and other witnesses
    look at the same thing: one refuting group decides; otherwise an undecided one silences all.
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
        _consistent(windows),
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
        shown = {
            group: by_counter[name] for group, by_counter in seen.items() if name in by_counter
        }
        if len(shown) == len(seen):
            concluded += _counter_readings_by_state(name, shown, must_decide)
        else:
            concluded.append(_no_baseline(name, must_decide))
    is_against = any(r.role is Role.CLAIM and not r.agrees for r in concluded)
    is_undecided = not all(r.agrees for r in concluded if r.role is Role.CONTROL)
    for reading in concluded:
        is_as_figure = (
            _is_undecided(reading) if is_against else is_undecided and reading.role is Role.CLAIM
        )
        readings.append(_as_figure(reading) if is_as_figure else reading)
    shown_ = [counter for by_counter in seen.values() for counter in by_counter.values()]
    if not any(counter.leaks for counter in shown_):
        readings.append(_nothing_leaks(shown_))
    return readings


def _as_figure(reading: Reading) -> Reading:
    return replace(reading, role=Role.MEASURE, expected=None, remedy="")


def _is_undecided(reading: Reading) -> bool:
    """Whether the reading says that a group is undecided."""
    return reading.role is Role.CONTROL and not reading.agrees and _HERE in reading.raw


def _counter_readings_by_state(
    name: str, shown: Mapping[WindowGroup, CounterExcess], must_decide: bool
) -> list[Reading]:
    """Return the readings of one counter, for all groups."""
    by_counter = list(shown.values())
    counts = _counts(name, by_counter[0])
    clear = [counter.off for counter in by_counter if counter.leaks]
    if not clear:
        excesses = [by_counter[0].off, *(counter.on for counter in by_counter)]
        means = ", ".join(f"{each.mean:.4g}" for each in excesses)
        where = ", ".join(str(group) for group in (REFERENCE, *shown))
        return [counts, _figure(f"{name} per SMI {where}", means)]
    noise = f"{clear[0]} per SMI, noise up to {clear[0].floor:.4g}"
    concluded = [counts, _must_hold(f"{name} counts SMM {REFERENCE} ({noise})", True, "")]
    for group, counter in shown.items():
        off = counter.off
        raw: dict[str, Scalar] = {
            "counter": name, "state": group.state, "knob": int(group.is_on),
            "reference": off.mean, "reference_half": off.half, "reference_floor": off.floor,
            "reference_smis": off.smis,
            _HERE: counter.on.mean, "here_half": counter.on.half,
            "here_smis": counter.on.smis, "standing_out": counter.standing_out,
            "obscure": counter.obscure,
        }  # fmt: skip
        what = f"{name} counts SMM {group} ({counter.on} per SMI)"
        does, does_not = (
            (counter.is_against, counter.is_for)
            if group.is_on
            else (counter.is_counted, counter.is_frozen)
        )
        if counter.leaks and (does or does_not):
            concluded.append(
                claim(WITNESS, what, does, not group.is_on, **raw, **{CONCLUDED: True})
            )
        elif must_decide:
            wanted = _wanted(counter, group)
            concluded.append(_must_hold(f"it is sure whether {what}", False, wanted, **raw))
        else:
            concluded.append(_figure(f"it is sure whether {what}", False, **raw))
    return concluded


def _wanted(counter: CounterExcess, group: WindowGroup) -> str:
    """Return the remedy that would decide whether a group counts SMM."""
    if group.is_on:
        return counter.wanted
    off = counter.on
    return more_smis(off.smis, off.of_many, COUNTED * counter.off.mean, "off")


def conclude_again(readings: Iterable[Reading]) -> list[Reading]:
    """Return a check's readings, with the conclusions from its samples drawn anew.

    Raises KeyError or ValueError if a sample is broken.
    """
    recorded = list(readings)
    taken = [reading for reading in recorded if not reading.raw.get(CONCLUDED)]
    if len(taken) == len(recorded):  # A figure without a claim, such as AMD's.
        return recorded
    return taken + conclude(Samples.of(taken))


def _must_hold(what: str, held: bool, remedy: str, **raw: Scalar) -> Reading:
    # A remedy counts the missing windows: a negative number for a control that held.
    return control(WITNESS, what, held, True, "" if held else remedy, **raw, **{CONCLUDED: True})


def _figure(what: str, observed: Scalar, **raw: Scalar) -> Reading:
    return measure(WITNESS, what, observed, **raw, **{CONCLUDED: True})


def _enough(arms: Arms) -> list[Reading]:
    """Return the controls that each arm has enough windows."""
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


def _consistent(windows: Sequence[Window]) -> Reading:
    count = len(windows)
    fit = sum(window.guest_smis is not None for window in windows)
    return _must_hold(
        f"gaps, VM-exits and SMIs fit each other (in {fit} of {count} windows)",
        fit >= FITTING * count,
        "have the guest see every gap, and count the SMIs on its own CPU",
    )


def _no_baseline(name: str, must_decide: bool) -> Reading:
    what = f"enough windows to tell what {name} counts without SMIs"
    if must_decide:
        remedy = "take more windows, quiet ones with as many VM-exits, and record every gap"
        return _must_hold(what, False, remedy)
    return _figure(what, False)


def _counts(name: str, counter: CounterExcess) -> Reading:
    remedy = "free the counter: the NMI watchdog or another user of perf may hold it"
    return _must_hold(f"{name} counts the guest", counter.counts, remedy)


def _counter_readings(name: str, counter: CounterExcess, must_decide: bool) -> list[Reading]:
    """Return the readings of one counter."""
    off, on = counter.off, counter.on
    figures: dict[str, Scalar] = {
        "counter": name,
        "off": off.mean, "off_half": off.half, "off_floor": off.floor, "off_smis": off.smis,
        "on": on.mean, "on_half": on.half, "on_floor": on.floor, "on_smis": on.smis,
        "standing_out": counter.standing_out, "obscure": counter.obscure,
    }  # fmt: skip
    counts = _counts(name, counter)
    if not counter.leaks:
        both = f"{off.mean:.4g}, {on.mean:.4g}"
        return [counts, _figure(f"{name} per SMI with the knob off, on", both, **figures)]
    noise = f"{off} per SMI, noise up to {off.floor:.4g}"
    readings = [counts, _must_hold(f"{name} counts SMM with the knob off ({noise})", True, "")]
    where = f", {counter.standing_out} of {counter.windows} windows by themselves"
    shown = f"{on} per SMI{where if counter.standing_out else ''}"
    if counter.is_for or counter.is_against:
        what = f"{name} counts SMM with the knob on ({shown})"
        readings.append(
            claim(WITNESS, what, counter.is_against, False, **figures, **{CONCLUDED: True})
        )
    else:
        what = f"{name} with the knob on ({shown}) is surely above or below {counter.limit:.4g}"
        undecided = _must_hold(what, False, counter.wanted, **figures)
        readings.append(undecided if must_decide else _figure(what, False, **figures))
    least = round(100 * counter.half / off.mean, 3)
    rare = round(100 * (1 - RARE ** (1 / on.smis)), 3)
    what = f"smallest leak of {name} that would have been seen, in % of that with the knob off"
    return [*readings, _figure(what, least, least_percent_of_smis=rare)]


def _follows_toggles(
    name: str, counter: CounterExcess, quiet: Sequence[Window], toggled: Sequence[ToggledWindow]
) -> Iterator[Reading]:
    """Yield a counter's readings for windows with a toggle inside: a claim if sure, else a figure.

    Windows are separated by the knob's first state: a KVM that keeps it counts too much in windows
    that begin with the knob off, and too little in the others.
    """
    for value, state in enumerate(("off", "on")):
        seen = toggle_excess(name, quiet, [p for p in toggled if p.begins == value], counter.off)
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


def _nothing_leaks(seen: Iterable[CounterExcess]) -> Reading:
    what = "SMM is counted with the knob off"
    # The counter nearest to a clear effect says how far it is.
    nearest = max(
        (counter.off for counter in seen), key=lambda off: off.mean - off.half, default=None
    )
    if nearest is None or nearest.mean <= 0:
        return _must_hold(what, False, "have SMIs whose handlers run longer")
    half = nearest.of_many + nearest.floor
    return _must_hold(what, False, more_smis(nearest.smis, half, nearest.mean, "off"))
