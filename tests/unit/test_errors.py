"""Every error is one line that a terminal only shows: kvmtest/errors.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError


@given(st.sampled_from([KvmtestError, UsageError, EnvironmentUnfit]), st.text())
def test_an_error_is_one_printable_line_as_long_as_what_it_was_made_of(
    kind: type[KvmtestError], text: str
) -> None:
    said = str(kind(text))
    assert said.isprintable()
    assert len(said) == len(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the file a  b is no ELF file", "the file a  b is no ELF file"),
        ("first\nsecond\tthird", "first second third"),
        ("clear \x1b[2J the screen", "clear \ufffd[2J the screen"),
        ("half a pair: \ud800", "half a pair: \ufffd"),
    ],
)
def test_what_is_printable_stays_as_it_is(text: str, said: str) -> None:
    assert str(KvmtestError(text)) == said
