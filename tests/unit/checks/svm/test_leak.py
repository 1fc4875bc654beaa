"""The figures of AMD's guest-only events are what the windows hold."""

import random
from dataclasses import replace

import pytest

from kvmtest.checks.svm.leak import figures
from kvmtest.judge import Reading, Verdict, judge
from kvmtest.judge.samples import Arm, Gap, Samples, Window


def taken(
    *, per_smi: int = 0, per_exit: int = 0, intercepted: bool = False, rounds: int = 9
) -> Samples:
    """Take quiet windows and such with SMIs in turns; cycles go by the time that the guest ran."""
    chance, samples, now = random.Random(1), Samples(), 10_000
    for at in range(2 * rounds):
        smis = 3 + at % 3 if at % 2 else 0
        exits = chance.randint(0, 3) + (smis if intercepted else 0)
        gaps = exits if intercepted else exits + smis
        began = now
        length = 5000 + chance.randint(0, 500)
        samples.gaps.extend(Gap(began + 10 * gap, began + 10 * gap + 7) for gap in range(gaps))
        now = began + length
        counted = 1000 + per_exit * exits + per_smi * smis
        cycles = 2 * (length - 7 * gaps) + per_smi * smis
        arm = Arm.MIXED if smis else Arm.QUIET
        samples.windows.append(
            Window(
                arm, began, now, {"instructions": counted, "cycles": cycles},
                {"instructions": 1000}, exits, smis, gaps,
            )
        )  # fmt: skip
        now += 100
    return samples


def figure(readings: list[Reading], what: str) -> Reading:
    (reading,) = [r for r in readings if r.what == what]
    return reading


@pytest.mark.parametrize("per_smi", [0, 100])
@pytest.mark.parametrize("per_exit", [0, 1])
def test_the_excess_per_smi_is_told_without_what_exits_cost(per_smi: int, per_exit: int) -> None:
    readings = figures(taken(per_smi=per_smi, per_exit=per_exit), "ls_smi_rx")
    for name in ("instructions", "cycles"):
        reading = figure(readings, f"{name} per SMI")
        assert reading.observed == pytest.approx(per_smi, abs=0.01)
        assert (reading.raw["smis"], reading.raw["windows"]) == (36, 9)
    assert judge(readings).verdict is Verdict.MEASURED


def test_smis_are_told_as_the_count_says_and_as_the_guest_saw_them() -> None:
    what = "SMIs that ls_smi_rx counted"
    seen = figure(figures(taken(per_smi=9), "ls_smi_rx"), what)
    assert seen.observed == "36 in 9 windows, 36 in guest mode"
    seen = figure(figures(taken(intercepted=True), "ls_smi_rx"), what)
    assert seen.observed == "36 in 9 windows, 0 in guest mode"


def test_a_quiet_window_in_which_an_smi_came_is_left_out() -> None:
    samples = taken(per_smi=100)
    odd = replace(samples.windows[0], smis=1, counted={"instructions": 9000, "cycles": 9000})
    samples.windows.insert(0, odd)
    assert figure(figures(samples, "ls_smi_rx"), "instructions per SMI").observed == 100


def test_without_smis_or_with_few_windows_nothing_is_made_up() -> None:
    samples = taken()
    samples.windows[:] = [w for w in samples.windows if w.arm is Arm.QUIET]
    (reading,) = figures(samples, "ls_smi_rx")
    assert reading.observed == "0 in 0 windows, 0 in guest mode"
    few = figures(taken(rounds=2), "ls_smi_rx")
    assert figure(few, "instructions per SMI").observed == "too few quiet windows"
