"""-m of kvmtest run selects as pytest's -m does, and refuses what pytest would take for nothing."""

from collections.abc import Collection
from contextlib import suppress

import pytest
from _pytest.mark.expression import Expression
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import UsageError
from kvmtest.marker_expression import marker_expression
from kvmtest.properties import MARKERS

NAMES = st.sampled_from(sorted(MARKERS))
EXPRESSIONS = st.recursive(
    NAMES,
    lambda inner: st.one_of(
        inner.map(lambda e: f"not {e}"),
        inner.map(lambda e: f"({e})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
    ),
)


@given(EXPRESSIONS, st.sets(NAMES))
def test_it_means_what_pytest_means(text: str, markers: Collection[str]) -> None:
    expected = Expression.compile(text).evaluate(lambda name, /, **_: name in markers)
    assert marker_expression(text)(markers) == expected


def test_an_unknown_marker_is_refused_with_the_list() -> None:
    said = "^-m amd or intle: no marker intle; there are intel, amd, nested, tdx, smi, lab$"
    with pytest.raises(UsageError, match=said):
        marker_expression("amd or intle")


@pytest.mark.parametrize(
    "text",
    ["", " ", "intel and", "intel amd", "1", "intel.x", "intel()", "intel; amd", "(" * 999, "a\0b",
     "intel if amd else smi", "[intel for intel in amd]", "-intel", "not", "intel == amd", "\\"],
)  # fmt: skip
def test_what_is_no_expression_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        marker_expression(text)
    assert str(caught.value).startswith("-m ")
    assert "\n" not in str(caught.value)


@given(st.text())
def test_nothing_but_a_usage_error_comes_of_any_text(text: str) -> None:
    with suppress(UsageError):
        marker_expression(text)(())
