"""The leak experiment judged, by exact cases; how often it errs: docs/test_leak_judge_doc.py."""

import dataclasses
import random
import re
from collections.abc import Callable

import numpy
import pytest
from scipy.special import stdtrit
from support.simulated_machine import Machine

from kvmtest.judge import Judgement, Reading, Role, Verdict, judge
from kvmtest.judge.arms import ticks_run
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Gap, Samples, Window

LAB = Machine(handler=11)
EXACT = {"instructions:k": 0}
Change = Callable[[Window], Window]


def samples(
    on: int = 0,
    off: int = 11,
    blocks: int = 10,
    smis: int = 5,
    change: Change = lambda window: window,
) -> Samples:
    """Return an exact experiment: so many instructions per SMI with the knob on, off."""
    made = Samples()
    for block in range(blocks):
        for at, (arm, per) in enumerate([(Arm.QUIET, 0), (Arm.KNOB_OFF, off), (Arm.KNOB_ON, on)]):
            count = 0 if arm is Arm.QUIET else smis
            began = (3 * block + at) * 1_100_000
            window = Window(
                arm, began, began + 1_000_000, {"instructions:k": 50_003 + per * count},
                {"instructions:k": 50_000}, exits=0, smis=count, gaps=count,
            )  # fmt: skip
            made.windows.append(change(window))
    return made


def verdict(made: Samples) -> Judgement:
    return judge(conclude(made))


def only(arm: Arm, change: Change) -> Change:
    return lambda window: change(window) if window.arm is arm else window


def more(name: str = "instructions:k", **add: int) -> Change:
    """Return what adds to a window: ``counted`` to the counter, the rest to fields."""

    def change(window: Window) -> Window:
        counted = {**window.counted, name: window.counted[name] + add.get("counted", 0)}
        fields = {
            field: getattr(window, field) + n for field, n in add.items() if field != "counted"
        }
        return dataclasses.replace(window, counted=counted, **fields)

    return change


def once(number: int, change: Change) -> Change:
    """Return what changes the treatment window of that block alone."""
    at = (3 * number + 2) * 1_100_000
    return lambda window: change(window) if window.began == at else window


# What the lab shows


def test_an_exact_experiment_passes_and_says_which_leak_it_would_have_seen() -> None:
    readings = conclude(samples())
    assert judge(readings).verdict is Verdict.PASS
    power = next(r for r in readings if r.what.startswith("smallest leak of instructions:k"))
    # Two counts over 50 SMIs, of 11 an SMI; and 8 of 50 SMIs would be met all but once in 10^4.
    assert power.observed == pytest.approx(100 * (2 / 50) / 11, rel=1e-3)
    assert power.raw["least_percent_of_smis"] == pytest.approx(100 * (1 - 1e-4 ** (1 / 50)), 1e-3)


@pytest.mark.parametrize("blocks", [8, 12])
def test_a_hundred_smis_are_enough_in_an_exact_world(blocks: int) -> None:
    assert verdict(samples(blocks=blocks, smis=4)).verdict is Verdict.PASS


def test_exact_counts_of_few_smis_are_not_taken_for_certainty() -> None:
    judgement = verdict(samples(blocks=6, smis=2))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert re.search(r"about \d+ more SMIs in guest mode with the knob on", judgement.reason)


@pytest.mark.parametrize("on", [1, 11])
def test_a_leak_fails_whole_or_in_part(on: int) -> None:
    judgement = verdict(samples(on=on))
    assert judgement.verdict is Verdict.FAIL
    assert "instructions:k counts SMM with the knob on" in judgement.reason


def test_one_leaking_window_among_many_fails_and_is_counted() -> None:
    judgement = verdict(samples(change=once(4, more(counted=55))))
    assert judgement.verdict is Verdict.FAIL
    assert "1 of 10 windows by themselves" in judgement.reason


def test_one_window_no_farther_off_than_noise_may_be_decides_nothing() -> None:
    noise = random.Random(2)
    noisy = samples(change=lambda window: more(counted=noise.choice((-1, 0, 1)))(window))
    noisy.windows[14] = more(counted=20)(noisy.windows[14])
    assert verdict(noisy).verdict is Verdict.INCONCLUSIVE


def test_one_window_within_the_limit_is_no_leak() -> None:
    assert verdict(samples(off=1000, change=once(4, more(counted=40)))).verdict is Verdict.PASS


def test_a_leak_must_be_above_what_counts_may_be_off_by() -> None:
    assert verdict(samples(on=1, blocks=4, smis=1)).verdict is Verdict.INCONCLUSIVE


def test_one_window_a_few_events_off_decides_nothing() -> None:
    judgement = verdict(samples(change=once(4, more(counted=8))))
    assert judgement.verdict is Verdict.INCONCLUSIVE


# What must never pass


def test_without_smis_nothing_is_decided() -> None:
    judgement = verdict(samples(smis=0))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "more SMIs in guest mode with the knob off" in judgement.reason
    # Figures of nothing would only hide what is lacking.
    assert len(conclude(samples(smis=0))) == 4


def test_without_windows_nothing_is_decided() -> None:
    assert verdict(Samples()).verdict is Verdict.INCONCLUSIVE


def test_without_quiet_windows_nothing_is_decided() -> None:
    made = samples()
    made.windows[:] = [w for w in made.windows if w.arm is not Arm.QUIET]
    assert "take 4 more windows without SMIs" in verdict(made).reason


def test_quiet_windows_with_an_smi_are_no_baseline() -> None:
    spoilt = more(counted=11, smis=1, gaps=1)
    assert verdict(samples(change=only(Arm.QUIET, spoilt))).verdict is Verdict.INCONCLUSIVE
    made = samples()
    made.windows[3], made.windows[9] = spoilt(made.windows[3]), spoilt(made.windows[9])
    assert verdict(made).verdict is Verdict.PASS


@pytest.mark.parametrize("gain", [0, 3])
def test_a_dead_counter_is_told(gain: int) -> None:
    made = samples(change=lambda w: dataclasses.replace(w, counted={"instructions:k": gain}))
    judgement = verdict(made)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "instructions:k counts the guest: no, expected yes" in judgement.reason


def test_a_dead_counter_beside_a_good_one_is_told() -> None:
    def beside(window: Window) -> Window:
        known = {**window.known, "instructions:u": 400}
        return dataclasses.replace(
            window, counted={**window.counted, "instructions:u": 0}, known=known
        )

    assert "instructions:u counts the guest: no" in verdict(samples(change=beside)).reason


def test_a_control_that_does_not_leak_is_no_control() -> None:
    judgement = verdict(samples(off=0))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "SMM is counted with the knob off: no, expected yes" in judgement.reason


def test_a_control_that_leaks_in_one_window_is_no_clear_one() -> None:
    made = samples(off=0)
    made.windows[13] = more(counted=500)(made.windows[13])
    assert "SMM is counted with the knob off: no" in verdict(made).reason


def test_a_control_must_be_above_what_counts_may_be_off_by() -> None:
    # Four events of four SMIs: by two sure, and two are within the noise floor.
    assert "SMM is counted with the knob off: no" in verdict(samples(1, 1, 4, 1)).reason
    assert verdict(samples(2, 2, 4, 1)).verdict is Verdict.FAIL


def test_a_control_of_uncertain_size_makes_the_limit_uncertain() -> None:
    def varying(window: Window) -> Window:
        return more(counted=5 if window.began // 3_300_000 % 2 else -5)(window)

    assert verdict(samples(smis=2)).verdict is Verdict.PASS
    made = samples(smis=2, change=only(Arm.KNOB_OFF, varying))
    assert verdict(made).verdict is Verdict.INCONCLUSIVE


def test_a_control_within_the_noise_says_how_many_smis_would_show_it() -> None:
    machine = Machine(handler=1000, kind="gaussian", noise=3000)
    judgement = judge(conclude(machine.samples(random.Random(3))))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    found = re.search(r"about (\d+) more SMIs in guest mode with the knob off", judgement.reason)
    assert found
    enough = dataclasses.replace(machine, blocks=machine.blocks + int(found[1]) // 5)
    readings = [conclude(enough.samples(random.Random(n))) for n in range(10)]
    shown = [any("counts SMM with the knob off (" in r.what for r in each) for each in readings]
    assert sum(shown) >= 6


def test_a_treatment_below_the_quiet_windows_is_a_fault_of_the_experiment() -> None:
    judgement = verdict(samples(on=-2))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "quiet windows counted more than those with SMIs" in judgement.reason


def test_the_smis_that_are_said_to_be_lacking_do_decide() -> None:
    machine = Machine(handler=1e5, kind="gaussian", noise=2000)
    reason = judge(conclude(machine.samples(random.Random(1)))).reason
    found = re.search(r"about (\d+) more SMIs in guest mode with the knob on", reason)
    assert found
    blocks = machine.blocks + int(found[1]) // 5
    enough = dataclasses.replace(machine, blocks=blocks)
    verdicts = [judge(conclude(enough.samples(random.Random(n)))).verdict for n in range(20)]
    assert verdicts.count(Verdict.PASS) >= 15


def test_a_mean_that_is_beside_the_limit_by_chance_does_not_ask_for_ever() -> None:
    machine = Machine(handler=1e5, kind="gaussian", noise=5000)
    for seed in range(20):
        reason = judge(conclude(machine.samples(random.Random(seed)))).reason
        found = re.search(r"about (\d+) more SMIs in guest mode with the knob on", reason)
        assert found
        assert int(found[1]) < 20_000


def test_where_smis_are_enough_but_windows_few_as_many_again_are_wanted() -> None:
    machine = Machine(handler=1e5, kind="gaussian", noise=600, blocks=4, exits=0)
    made = machine.samples(random.Random(4))
    smis = sum(window.smis for window in made.windows if window.arm is Arm.KNOB_ON)
    assert f"about {smis} more SMIs in guest mode with the knob on" in verdict(made).reason


# SMIs of which it is not known how many came in guest mode


def test_a_window_of_unknown_smis_is_no_evidence_for() -> None:
    made = samples()
    for block in range(7):
        made.windows[3 * block + 2] = more(gaps=1)(made.windows[3 * block + 2])
    assert "with the knob on (15 in 3 windows): no" in verdict(made).reason


def test_a_leak_in_a_window_of_unknown_smis_is_one() -> None:
    made = samples(change=once(3, more(counted=55, gaps=1)))
    assert verdict(made).verdict is Verdict.FAIL


def test_a_doubtful_excess_in_a_window_of_unknown_smis_is_no_evidence_for() -> None:
    assert verdict(samples(change=once(3, more(gaps=1, counted=1)))).verdict is Verdict.PASS
    assert verdict(samples(change=once(3, more(gaps=1, counted=9)))).verdict is not Verdict.PASS


def test_smis_in_host_mode_are_not_counted() -> None:
    readings = conclude(samples(change=only(Arm.KNOB_ON, more(smis=45))))
    said = next(r for r in readings if r.role is Role.CLAIM)
    assert (said.raw["off_smis"], said.raw["on_smis"]) == (50, 50)


def test_gaps_that_do_not_fit_make_all_doubtful() -> None:
    judgement = verdict(samples(change=only(Arm.QUIET, more(gaps=1))))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "gaps, VM-exits and SMIs fit each other (in 20 of 30 windows): no" in judgement.reason


# VM-exits, drift, vCPUs


def test_what_is_known_of_each_window_is_taken_off() -> None:
    def longer(window: Window) -> Window:
        # Not along with time, which would explain it as well.
        extra = 1000 * (window.began // 1_100_000 * 7 % 11)
        known = {"instructions:k": 50_000 + extra}
        return dataclasses.replace(more(counted=extra)(window), known=known)

    assert verdict(samples(change=longer)).verdict is Verdict.PASS


def exits(cost: int, of: Callable[[int], int], spared: Arm | None = None) -> Change:
    def change(window: Window) -> Window:
        count = of(window.began // 1_100_000) if window.arm is not spared else 0
        return more(counted=cost * count, exits=count, gaps=count)(window)

    return change


def test_the_cost_of_a_vm_exit_is_learnt_from_quiet_windows() -> None:
    assert verdict(samples(change=exits(7, lambda at: at * at % 5))).verdict is Verdict.PASS


def test_vm_exits_of_unknown_cost_speak_neither_for_nor_against() -> None:
    def late(at: int) -> int:
        return 1 if at == 14 else 0

    harmless = samples(change=exits(0, late))
    assert verdict(harmless).verdict is Verdict.PASS
    judgement = verdict(samples(change=exits(50, late)))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "take quiet windows with as many VM-exits" in judgement.reason


def test_a_window_far_from_any_quiet_one_does_not_stand_out_by_little() -> None:
    made = samples(change=exits(7, lambda at: at // 3 % 2))
    made.windows[14] = more(counted=39 * 7 + 100, exits=39, gaps=39)(made.windows[14])
    assert verdict(made).verdict is Verdict.INCONCLUSIVE


def test_a_slow_drift_is_no_leak_and_hides_none() -> None:
    def drifting(window: Window) -> Window:
        at = window.began // 1_100_000
        return more(counted=round(3 * at + at * at / 4))(window)

    assert verdict(samples(off=1000, change=drifting)).verdict is Verdict.PASS
    assert verdict(samples(off=1000, on=20, change=drifting)).verdict is Verdict.FAIL


def test_each_vcpu_has_its_own_baseline() -> None:
    def other(window: Window) -> Window:
        return dataclasses.replace(more(counted=400)(window), vcpu=1, began=window.began + 7)

    made = samples(blocks=6)
    made.windows.extend(samples(blocks=6, change=other).windows)
    assert verdict(made).verdict is Verdict.PASS
    # Without quiet windows of its own nothing is known of it.
    made.windows[:] = [w for w in made.windows if not (w.vcpu and w.arm is Arm.QUIET)]
    assert verdict(made).verdict is Verdict.INCONCLUSIVE


def test_windows_with_a_toggle_in_them_are_of_no_arm() -> None:
    made = samples()
    for window in made.windows[1:]:
        made.windows.append(dataclasses.replace(more(counted=500)(window), arm=Arm.MIXED))
    assert verdict(made).verdict is Verdict.PASS


# Several counters


def both(user: Callable[[Window], int], known: int | None = 300) -> Change:
    def change(window: Window) -> Window:
        counted = {**window.counted, "other": user(window)}
        told = {} if known is None else {"other": known}
        return dataclasses.replace(window, counted=counted, known={**window.known, **told})

    return change


@pytest.mark.parametrize("count", [300, 0])
def test_a_counter_that_smm_does_not_move_is_a_figure(count: int) -> None:
    readings = conclude(samples(change=both(lambda window: count, count)))
    assert judge(readings).verdict is Verdict.PASS
    about = [r for r in readings if r.what.startswith("other")]
    assert [r.role for r in about] == [Role.CONTROL, Role.MEASURE]


def test_every_counter_that_leaks_with_the_knob_off_is_asked() -> None:
    def leaks(window: Window) -> int:
        return 300 + (0 if window.arm is Arm.QUIET else 7 * window.smis)

    judgement = verdict(samples(change=both(leaks)))
    assert judgement.verdict is Verdict.FAIL
    assert "other counts SMM with the knob on" in judgement.reason


def cycles(made: Samples, smm: dict[Arm, int], noise: int = 0) -> Samples:
    """Add a counter of which nobody knows what the guest did: a cycle for two ticks that it ran."""
    generator = random.Random(1)
    for at, window in enumerate(made.windows):
        length = 30_000
        starts = range(window.began + 10, window.began + 10 + 40_000 * window.smis, 40_000)
        made.gaps.extend(Gap(start, start + length, window.vcpu) for start in starts)
        ran = window.ended - window.began - length * window.smis
        count = ran // 2 + smm[window.arm] * window.smis + round(generator.gauss(0, noise))
        made.windows[at] = dataclasses.replace(window, counted={**window.counted, "cycles": count})
    return made


SOUND = {Arm.QUIET: 0, Arm.KNOB_OFF: 20_000, Arm.KNOB_ON: 0}


def test_cycles_stand_still_in_gaps_and_leak_like_the_rest() -> None:
    readings = conclude(cycles(samples(), SOUND))
    assert judge(readings).verdict is Verdict.PASS
    assert any(r.role is Role.CLAIM and r.what.startswith("cycles") for r in readings)
    assert verdict(cycles(samples(), {**SOUND, Arm.KNOB_ON: 20_000})).verdict is Verdict.FAIL


def test_cycles_that_are_not_sure_do_not_hold_up_what_is() -> None:
    readings = conclude(cycles(samples(), SOUND, noise=3000))
    assert judge(readings).verdict is Verdict.PASS
    assert not any(r.role is Role.CLAIM and r.what.startswith("cycles") for r in readings)


def test_cycles_alone_must_be_sure() -> None:
    def alone(made: Samples) -> Samples:
        made.windows[:] = [
            dataclasses.replace(w, counted={"cycles": w.counted["cycles"]}, known={})
            for w in made.windows
        ]
        return made

    assert verdict(alone(cycles(samples(), SOUND))).verdict is Verdict.PASS
    judgement = verdict(alone(cycles(samples(), SOUND, noise=3000)))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    cut = alone(cycles(samples(), SOUND))
    del cut.gaps[-20:]
    judgement = verdict(cut)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "record every gap" in judgement.reason


def test_dead_cycles_are_told() -> None:
    def dead(window: Window) -> Window:
        return dataclasses.replace(window, counted={**window.counted, "cycles": 0})

    made = cycles(samples(), SOUND)
    made.windows[:] = [dead(window) for window in made.windows]
    assert "cycles counts the guest: no" in verdict(made).reason


def test_the_ticks_that_a_guest_ran_leave_out_its_gaps() -> None:
    window = samples(blocks=1).windows[0]
    two = dataclasses.replace(window, gaps=2)
    gaps = [Gap(500, 700), Gap(100, 200), Gap(300, 400, 1), Gap(window.ended, window.ended + 5)]
    assert ticks_run([two], gaps) == {(0, 0): 1_000_000 - 300}
    assert ticks_run([window], gaps) == {}
    assert ticks_run([dataclasses.replace(window, gaps=1)], [Gap(0, window.ended)]) == {}


def test_windows_that_count_different_things_are_refused() -> None:
    made = samples(change=once(2, both(lambda window: 1)))
    with pytest.raises(ValueError, match="do not all count the same"):
        conclude(made)


# The readings


def test_the_intervals_are_those_of_textbooks() -> None:
    scatter = random.Random(4)
    made = samples(off=1000, change=lambda window: more(counted=scatter.randint(-9, 9))(window))
    said = next(r for r in conclude(made) if r.role is Role.CLAIM)
    quiet, off, on = (
        numpy.array([w.counted["instructions:k"] - 50_000.0 for w in made.windows[at::3]])
        for at in range(3)
    )
    times = numpy.array([float(w.began) for w in made.windows]) / made.windows[-1].began
    design = numpy.vander(times, 3)
    fit, *_ = numpy.linalg.lstsq(design[0::3], quiet, rcond=None)
    inverse = numpy.linalg.inv(design[0::3].T @ design[0::3])

    def excess(gains: numpy.ndarray, rows: numpy.ndarray, pooled: bool) -> tuple[float, float]:
        rests = gains - rows @ fit
        own = ((rests - rests.mean()) ** 2).sum()
        squares = ((quiet - design[0::3] @ fit) ** 2).sum()
        noise = (squares + own) / 16 if pooled else squares / 7
        total = max(own / 9, noise if pooled else 0) * 10
        total += noise * (rows.sum(axis=0) @ inverse @ rows.sum(axis=0))
        half = stdtrit(16 if pooled else 9, 1 - 1e-5) * total**0.5
        return rests.sum() / 50, half / 50

    for arm, expected in (
        ("off", excess(off, design[1::3], pooled=False)),
        ("on", excess(on, design[2::3], pooled=True)),
    ):
        assert (said.raw[arm], said.raw[f"{arm}_half"]) == pytest.approx(expected)


def test_a_treatment_that_scatters_more_than_quiet_windows_is_less_sure() -> None:
    def unsteady(window: Window) -> Window:
        return more(counted=9 if window.began // 3_300_000 % 2 else -9)(window)

    made = samples(off=100_000, change=only(Arm.KNOB_ON, unsteady))
    said = next(r for r in conclude(made) if r.role is Role.CLAIM)
    # Ten windows, each 9 off: their own variance is the wider.
    own = 10 * 10 / 9 * 81
    baseline = (float(said.raw["on_half"]) * 50 / stdtrit(16, 1 - 1e-5)) ** 2 - own
    assert baseline == pytest.approx(10 * 81 / 16 * 10, rel=0.1)


def test_conclusions_are_marked_and_of_the_witness_leak() -> None:
    readings: list[Reading] = conclude(samples())
    assert {r.witness for r in readings} == {"leak"}
    assert all(r.raw["concluded"] is True for r in readings)


def test_no_remedy_asks_for_less_than_nothing() -> None:
    readings: list[Reading] = conclude(samples())
    held = [r for r in readings if r.role is Role.CONTROL and r.agrees]
    assert held
    assert not [r.remedy for r in held if r.remedy]
