"""The baseline: what is put into quiet windows is found again, and nothing that is not in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.judge.baseline import Baseline, Covariates, dot
from kvmtest.judge.samples import Arm, Window


def window(at: int, exits: int = 0, vcpu: int = 0) -> Window:
    return Window(Arm.QUIET, 100 * at, 100 * at + 90, {}, {}, exits, 0, exits, vcpu)


def fitted(windows: list[Window], gains: list[float]) -> tuple[Covariates, Baseline]:
    covariates = Covariates(windows)
    baseline = Baseline.fit(covariates, gains)
    assert baseline
    return covariates, baseline


@given(
    st.lists(st.integers(0, 50), min_size=9, max_size=14).filter(lambda e: len(set(e)) > 3),
    *[st.integers(-50, 50)] * 4,
)
def test_constant_cost_of_exits_and_drift_leave_no_rest(
    exits: list[int], constant: int, cost: int, slope: int, bend: int
) -> None:
    def gain(of: Window) -> float:
        at = of.began / 100
        return constant + cost * of.exits + slope * at + bend * at * at / 10

    windows = [window(at, count, at % 2) for at, count in enumerate(exits)]
    covariates, baseline = fitted(windows, [gain(each) for each in windows])
    later = [window(3, 7), window(len(exits), 60)]
    residuals = baseline.residuals([gain(each) + 5 for each in later], covariates.of(later))
    assert residuals == pytest.approx([5, 5], abs=1e-4)
    assert baseline.squares == pytest.approx(0, abs=1e-6)


def test_the_variance_of_the_baseline_is_that_of_textbooks() -> None:
    # m windows of n are off by m^2/n, and by (the sum of their distances)^2 / (sum of squares).
    windows = [window(0, exits) for exits in (0, 1, 2, 3, 4, 5)]
    covariates, baseline = fitted(windows, [0.0] * 6)
    other = [window(0, exits=4), window(0, exits=6)]
    assert baseline.leverage(covariates.of(other), 2) == pytest.approx(4 / 6 + 5**2 / 17.5)


def test_noise_stays_in_the_rests_with_its_degrees_of_freedom() -> None:
    gains = [0.0, 3, 0, -3, 0, 3, 0, -3, 0, 3]
    windows = [window(at) for at in range(10)]
    covariates, baseline = fitted(windows, gains)
    assert baseline.freedom == 10 - 3
    assert 0 < baseline.squares <= dot(gains, gains)
    residuals = baseline.residuals(gains, covariates.of(windows))
    assert baseline.largest_residual == pytest.approx(max(map(abs, residuals)) * (10 / 7) ** 0.5)


def test_covariates_that_say_the_same_are_one() -> None:
    windows = [window(at, exits=2 * at) for at in range(6)]
    covariates, baseline = fitted(windows, [4.0 * at for at in range(6)])
    assert len(covariates.quiet) == 1
    assert baseline.squares == pytest.approx(0, abs=1e-9)


def test_what_no_quiet_window_shows_is_not_explained() -> None:
    steady = Covariates([window(at, exits=3) for at in range(9)])
    assert steady.explain(window(20, exits=3))
    assert not steady.explain(window(20, exits=4))
    varied = Covariates([window(at, exits=at % 3) for at in range(9)])
    assert varied.explain(window(20, exits=40))
    assert not varied.explain(window(20, vcpu=1))


def test_too_few_windows_have_no_baseline() -> None:
    windows = [window(at, exits=at % 3) for at in range(5)]
    assert Baseline.fit(Covariates(windows), [0.0] * 5) is None
