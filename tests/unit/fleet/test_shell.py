"""fleet/shell.py: what a host answers becomes one line; a lost connection is tried again."""

import time

import pytest

from kvmtest.fleet.shell import CommandFailed, ConnectionLost, Ran, TooSlow, while_lost


@pytest.mark.parametrize(
    ("output", "errors", "line"),
    [
        (b"", b"first\nlast \n\n", "last"),
        (b"said\n", b" \n", "said"),
        (b"", b"", ""),
        (b"", b"\x1b[31mred\xff", "\ufffd[31mred\ufffd"),
        (b"", b"x" * 10_000, "x" * 300),
    ],
)
def test_a_complaint_is_the_last_line_and_can_be_shown(
    output: bytes, errors: bytes, line: str
) -> None:
    assert Ran(1, output, errors).complaint == line


def test_a_command_that_must_succeed_says_why_it_did_not() -> None:
    assert Ran(0, b" a \n").must("can't").text == "a"
    with pytest.raises(CommandFailed, match=r"^h: can't x: no such thing$") as failed:
        Ran(2, errors=b"no such thing\n").must("h: can't x")
    assert failed.value.ran.status == 2
    with pytest.raises(CommandFailed, match=r"^h: can't x: the command ended with status 3$"):
        Ran(3).must("h: can't x")
    with pytest.raises(CommandFailed, match=r"No space left on device; free some space there$"):
        Ran(1, errors=b"cat: No space left on device\n").must("h: can't x")


def test_what_was_lost_is_done_again() -> None:
    left = [ConnectionLost("1"), ConnectionLost("2")]

    def do() -> str:
        if left:
            raise left.pop()
        return "done"

    assert while_lost(do, time.monotonic() + 60, pause=0) == "done"


def test_what_stays_lost_is_given_up() -> None:
    def do() -> None:
        raise ConnectionLost("away")

    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="away"):
        while_lost(do, began + 0.05, pause=0.01)
    assert 0.02 < time.monotonic() - began < 60


def test_a_host_that_was_away_till_the_end_is_not_called_slow() -> None:
    until = time.monotonic() + 0.05
    left: list[Exception] = [ConnectionLost("away")]

    def do() -> None:
        if left:
            raise left.pop()
        time.sleep(max(0.0, until - time.monotonic()))
        raise TooSlow("no answer in 0 s")

    with pytest.raises(ConnectionLost, match="away"):
        while_lost(do, until, pause=0)
    with pytest.raises(TooSlow):
        while_lost(do, until, pause=0)


def test_a_host_that_was_away_and_has_time_left_is_called_slow() -> None:
    left: list[Exception] = [TooSlow("no answer in 1 s"), ConnectionLost("away")]

    def do() -> None:
        raise left.pop()

    with pytest.raises(TooSlow):
        while_lost(do, time.monotonic() + 60, pause=0)


def test_another_failure_is_not_tried_again() -> None:
    tried = []

    def do() -> None:
        tried.append(1)
        raise CommandFailed("no", Ran(1))

    with pytest.raises(CommandFailed):
        while_lost(do, time.monotonic() + 60)
    assert tried == [1]
