"""After -- stand pytest's own options; those of the run are refused, however they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest import cli
from kvmtest.errors import UsageError
from kvmtest.suite_words import refuse


def run_options() -> set[str]:
    options: set[str] = cli._parser().parse_args(["run"]).run_options
    return options


LONG = sorted(o for o in run_options() if o.startswith("--") and o not in ("--help", "--quiet"))
#: What pytest takes, with values that look like anything but an option.
HARMLESS = st.sampled_from(
    ["-v", "-x", "-rA", "-k", "fresh", "-kfresh", "-m", "intel", "--tb=short", "--maxfail", "2",
     "-s", "-xvs", "--durations=0", "--co", "--strict-markers", "--color", "-qk", "-ro"]
)  # fmt: skip


def test_the_options_of_the_run_are_known() -> None:
    assert {"--require", "--only", "--smi-source", "--root", "--strict", "-o"} <= run_options()


@given(st.lists(HARMLESS))
def test_what_is_pytest_s_alone_is_handed_on(words: list[str]) -> None:
    refuse(words, run_options())


@given(st.lists(HARMLESS), st.sampled_from(LONG), st.data())
def test_no_spelling_of_an_option_of_the_run_is_handed_on(
    before: list[str], option: str, data: st.DataObject
) -> None:
    # An abbreviation that means this option alone.
    shortest = next(
        n for n in range(3, len(option) + 1) if sum(o.startswith(option[:n]) for o in LONG) == 1
        or n == len(option)
    )  # fmt: skip
    spelled = option[: data.draw(st.integers(shortest, len(option)))]
    word = spelled + data.draw(st.sampled_from(["", "=", "=x", "=-v"]))
    with pytest.raises(UsageError, match=f"^{spelled} after --: .*write {option} before --$"):
        refuse([*before, word, "x"], run_options())


@given(st.text("xvslq", max_size=4), st.sampled_from(["", "out", "=out"]))
def test_an_o_behind_other_letters_is_seen(flags: str, value: str) -> None:
    with pytest.raises(UsageError, match=r"^-o after --"):
        refuse([f"-{flags}o{value}"], run_options())
