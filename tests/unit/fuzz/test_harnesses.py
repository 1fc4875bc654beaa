"""The fuzzer's harnesses work without the fuzzer: tests/fuzz."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.harness import (
    FOUND,
    LONGEST_S,
    MOST_BYTES,
    NAMES,
    Finding,
    Harness,
    _peak_bytes,
    check,
    load,
)

FOUND_BEFORE = [path for name in NAMES for path in sorted((FOUND / name).glob("*"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_harness_takes_its_seeds_and_refuses_what_it_must(name: str) -> None:
    harness = load(name)
    assert harness.seeds
    assert [check(harness, seed) for seed in harness.seeds] == [True] * len(harness.seeds)
    assert [check(harness, seed) for seed in harness.refused] == [False] * len(harness.refused)
    assert all(len(seed) <= harness.longest for seed in (*harness.seeds, *harness.refused))


@pytest.mark.parametrize("name", NAMES)
def test_a_harness_takes_damaged_seeds(name: str) -> None:
    harness = load(name)
    for seed in harness.seeds:
        for at in range(0, len(seed), max(1, len(seed) // 16)):
            check(harness, seed[:at])
            check(harness, seed[:at] + b"\xff" + seed[at + 1 :])


@pytest.mark.parametrize("path", FOUND_BEFORE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_is_no_finding_any_more(path: Path) -> None:
    check(load(path.parent.name), path.read_bytes())


def test_every_input_that_was_found_is_some_harness_s() -> None:
    assert {path.name for path in FOUND.glob("*")} <= set(NAMES)


# What is a finding


def spend(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def complain(error: Exception) -> Callable[[bytes], None]:
    def parse(_: bytes) -> None:
        raise error

    return parse


@pytest.mark.parametrize(
    ("parse", "finding"),
    [
        (complain(IndexError("no such")), IndexError),
        (complain(RecursionError()), RecursionError),
        (complain(MemoryError()), MemoryError),
        (complain(ValueError("one\ntwo")), Finding),
        (lambda _: spend(LONGEST_S * 1.1), Finding),
        (lambda _: len(b"x" * (_peak_bytes() + MOST_BYTES * 2)), Finding),
    ],
    ids=["index", "recursion", "memory error", "two lines", "slow", "large"],
)
def test_what_is_no_documented_refusal_is_a_finding(
    parse: Callable[[bytes], object], finding: type[BaseException]
) -> None:
    with pytest.raises(finding):
        check(Harness(parse, seeds=(b"",), refusals=(ValueError,)), b"")


def test_a_documented_refusal_is_none() -> None:
    assert not check(Harness(complain(ValueError("no")), (b"",), refusals=(ValueError,)), b"")
