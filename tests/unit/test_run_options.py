"""Options of a run: written once, and the same wherever they are asked for."""

import argparse
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kvmtest.run_options import RunOptions, options

TEXT = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1).filter(
    lambda text: not text.startswith("-")
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "output": TEXT.map(Path),
    "root": st.sampled_from([Path("/"), Path("/proc")]),
    "schedule_steps": st.integers(1, 8),
    "smi_source": st.sampled_from([None, "passive", "apm-port:0x91", "command:a b=c"]),
}


def values(name: str, default: object) -> st.SearchStrategy[Any]:
    if name in VALUES:
        return VALUES[name]
    if isinstance(default, bool):
        return st.booleans()
    return st.lists(TEXT).map(tuple) if default == () else st.none() | TEXT


RUNS = st.fixed_dictionaries({each.name: values(each.name, each.default) for each in options()})


def parsed(words: list[str]) -> RunOptions:
    parser = argparse.ArgumentParser()
    for each in options():
        each.add_to(parser)
    return RunOptions.of(parser.parse_args(words))


@given(RUNS)
def test_the_words_of_a_run_ask_for_the_same_run(wanted: dict[str, Any]) -> None:
    run = RunOptions(**wanted)
    assert parsed(run.words()) == run


def test_without_words_everything_is_as_the_fields_say() -> None:
    assert parsed([]) == RunOptions()
    assert RunOptions().words() == []
