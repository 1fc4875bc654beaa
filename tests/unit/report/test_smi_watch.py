"""kvmtest/report/smi_watch.py: a live table on a terminal, lines elsewhere; a sum at the end."""

import io
import re

import pytest
from support.pseudo_terminal import terminal

from kvmtest.report.smi_watch import SmiScreen
from kvmtest.smi.watch import Tally

pytestmark = pytest.mark.usefixtures("plain_environment")

HEAD = "SMIs counted by the test"


def tally(cpus: int) -> Tally:
    return Tally.of(tuple(range(cpus)), 1_000_000.0)


def lines(text: str) -> list[str]:
    """Return the lines of a terminal's last frame, without what moves its cursor or colours it."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")
    return [line.rstrip() for line in plain.rpartition(HEAD)[2].splitlines()]


def test_a_pipe_gets_a_line_for_each_look_that_saw_some() -> None:
    stream = io.StringIO()
    seen = tally(4)
    with SmiScreen(HEAD, stream) as screen:
        screen.show(seen)
        seen.add({0: 2, 1: 2, 2: 1, 3: 2}, 1.0, 1_000_001.0)
        screen.show(seen)
        seen.add({0: 0, 1: 0, 2: 0, 3: 0}, 2.0, 1_000_002.0)
        screen.show(seen)
        seen.add({0: 1, 1: 1, 2: 2, 3: 1}, 3.0, 1_000_003.0)
        screen.show(seen)
    head, *told, sum_ = stream.getvalue().splitlines()
    assert head == HEAD
    assert [re.sub(r"^\d\d:\d\d:(\d\d)", r"\1", line) for line in told] == [
        "41 1 SMI on CPU 2", "41 2 SMIs on CPUs 0-1,3",
        "43 1 SMI on CPUs 0-1,3", "43 2 SMIs on CPU 2",
    ]  # fmt: skip
    assert sum_ == "3 SMIs on each of CPUs 0-3 in 3.0 s"


@pytest.mark.parametrize(
    ("rises", "told"),
    [
        ({0: 0}, "no SMI on CPU 0 in 5.0 s"),
        ({0: 0, 1: 0}, "no SMI on CPUs 0-1 in 5.0 s"),
        ({0: 1}, "1 SMI on CPU 0 in 5.0 s"),
        ({0: 0, 1: 3}, "0 to 3 SMIs on CPUs 0-1 in 5.0 s"),
    ],
)
def test_the_sum_is_in_words(rises: dict[int, int], told: str) -> None:
    stream = io.StringIO()
    seen = tally(len(rises))
    with SmiScreen(HEAD, stream) as screen:
        seen.add(rises, 5.0, 1_000_005.0)
        screen.show(seen)
    assert stream.getvalue().splitlines()[-1] == told


def test_a_terminal_has_a_row_for_each_cpu_with_count_rate_and_last_time() -> None:
    with terminal(60) as term:
        seen = tally(2)
        with SmiScreen(HEAD, term.stream) as screen:
            screen.show(seen)
            seen.add({0: 0, 1: 4}, 8.0, 1_000_008.0)
            screen.show(seen)
            shown = lines(term.text())
        after = term.text()
    head, first, second, since, *_ = shown[1:]
    assert head.split() == ["CPU", "SMIs", "a", "second", "last", "seen"]
    assert first.split() == ["0", "0", "0.00", "-"]
    assert re.fullmatch(r"1 +4 +0\.50 +\d\d:\d\d:48", second)
    assert since.startswith("0:08 since ")
    assert max(map(len, shown)) <= 60
    assert "0 to 4 SMIs on CPUs 0-1 in 8.0 s" in after


def test_cpus_to_which_the_same_came_share_a_row_where_there_are_many() -> None:
    with terminal(60) as term:
        seen = tally(200)
        with SmiScreen(HEAD, term.stream) as screen:
            seen.add({cpu: 2 if cpu in (7, 9) else 1 for cpu in range(200)}, 4.0, 1_000_004.0)
            screen.show(seen)
            shown = lines(term.text())
    assert shown[2].split()[:3] == ["7,9", "2", "0.50"]
    assert shown[3].split()[:3] == ["0-6,8,10-199", "1", "0.25"]


def test_without_colour_the_table_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal(80) as term:
        seen = tally(2)
        with SmiScreen(HEAD, term.stream) as screen:
            seen.add({0: 0, 1: 4}, 8.0, 1_000_008.0)
            screen.show(seen)
        shown = term.text()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal(80) as term:
        seen = tally(2)
        with SmiScreen(HEAD, term.stream) as screen:
            seen.add({0: 1, 1: 1}, 8.0, 1_000_008.0)
            screen.show(seen)
        shown = term.text()
    assert "1 SMI on CPUs 0-1" in shown
    assert "\x1b" not in shown
