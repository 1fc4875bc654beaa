"""kvmtest/judge/quantiles.py: the table is scipy's."""

import pytest
from scipy.special import stdtr

from kvmtest.judge.quantiles import ERROR, QUANTILES


def test_t_exceeds_each_with_the_probability_that_it_is_for() -> None:
    exceeded = [1 - stdtr(freedom, value) for freedom, value in enumerate(QUANTILES, 1)]
    assert exceeded == pytest.approx([ERROR] * len(QUANTILES), rel=1e-6)
