"""The numbers of expectations.py are those of c_helpers/selftest."""

import re
from pathlib import Path

import pytest

from kvmtest.lab.emulators.bochs import expectations as table
from kvmtest.lab.emulators.bochs.expectations import Expectation, expectations

ROOT = Path(__file__).parents[5]
HEADER = (ROOT / "c_helpers" / "selftest" / "machine.h").read_text()
SHARED = ("STRAIGHT", "LOOPS", "REPEATS", "FAULTS", "EXITS", "SMI_PERIOD", "TIMER_PERIOD", "TURNS")


@pytest.mark.parametrize("name", SHARED)
def test_they_count_as_much_as_the_machine_does(name: str) -> None:
    (number,) = re.findall(rf"^#define {name} +(\d+)", HEADER, flags=re.M)
    assert int(number) == getattr(table, name)


@pytest.mark.parametrize("cpus", [1, 2])
def test_each_line_is_expected_once(cpus: int) -> None:
    names = [one.name for one in expectations(cpus)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("cpus", [1, 2])
def test_what_depends_on_another_line_depends_on_one_that_is_expected(cpus: int) -> None:
    rows = expectations(cpus)
    names = {one.name for one in rows}
    assert all(set(one.each) <= names for one in rows)


def test_two_cpus_are_expected_to_do_what_one_does_and_more() -> None:
    one, two = ({row.name for row in expectations(cpus)} for cpus in (1, 2))
    assert one < two
    assert all("second" in name or "smi-to-" in name for name in two - one)


def test_a_number_is_a_sum_over_other_lines() -> None:
    row = Expectation("counted", "instructions", 7, {"smis": 3, "turns": 10})
    assert row.expected({"smis": 2, "turns": 1, "else": 50}) == 7 + 6 + 10
    assert row.expected({"smis": 2}) == 13


def test_a_repeat_is_disturbed_where_there_is_one_cpu() -> None:
    one, two = ({row.name: row for row in expectations(cpus)} for cpus in (1, 2))
    assert all(one[name].number > 0 and one[name].at_least for name in table.AMID_REPEAT)
    assert all(two[name].number == 0 and two[name].at_least for name in table.AMID_REPEAT)
