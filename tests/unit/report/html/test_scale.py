"""A scale's places are within it, whatever is drawn."""

import math

from hypothesis import given
from hypothesis import strategies as st

from kvmtest.report.html.scale import Scale, scale_words

COUNTS = st.floats(-1e18, 1e18)


@given(COUNTS, COUNTS, COUNTS)
def test_every_value_has_a_place(low: float, high: float, value: float) -> None:
    place = Scale(min(low, high), max(low, high)).percent(value)
    assert 0 <= place <= 100
    assert math.isfinite(place)


def test_places_are_in_proportion() -> None:
    assert [Scale(-10, 30).percent(value) for value in (-10, 0, 10, 30, 99)] == [
        0,
        25,
        50,
        100,
        100,
    ]


def test_zero_has_no_decimals() -> None:
    assert (scale_words(0.0), scale_words(44.0)) == ("0", "44.0")
