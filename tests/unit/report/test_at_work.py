"""kvmtest/report/at_work.py: what is printed of tasks, to a pipe and to a terminal."""

import io
import re
import threading

import pytest
from support.pseudo_terminal import terminal

from kvmtest.parallel import Ended
from kvmtest.report.at_work import AtWork

pytestmark = pytest.mark.usefixtures("plain_environment")


def play(at_work: AtWork[str]) -> None:
    """Have two tasks at work, of which the second ends first and the first fails."""
    with at_work:
        at_work.began("6.1 intel")
        at_work.began("6.12 amd")
        at_work.said("6.1 intel", "booting\x1b it")
        at_work.tick()
        at_work.ended(Ended("6.12 amd", "7 PASS", "", 29.4))
        at_work.ended(Ended("6.1 intel", None, "it broke\nTraceback", 61))


def test_a_pipe_gets_a_line_for_each_that_has_ended() -> None:
    stream = io.StringIO()
    play(AtWork(2, str.lower, stream))
    assert stream.getvalue() == (
        "kvmtest: lab: [1/2] 6.12 amd: 7 pass (29 s)\n"
        "kvmtest: lab: [2/2] 6.1 intel: it broke (61 s)\n"
    )


def test_a_terminal_sees_what_is_at_work_and_keeps_the_lines() -> None:
    with terminal() as term:
        play(AtWork(2, str, term.stream))
        shown = term.text()
    assert "0 of 2 done, at work:" in shown
    assert re.search(r"6\.1 intel: booting\ufffd it \(\d+ s\)", shown)
    assert shown.index("6.1 intel: booting") < shown.index("[1/2] 6.12 amd: 7 PASS (29 s)")
    assert "[2/2] 6.1 intel: it broke (61 s)" in shown


def test_the_live_lines_need_no_thread() -> None:
    with terminal() as term:
        before = threading.active_count()
        with AtWork(1, str, term.stream) as at_work:
            at_work.began("one")
            at_work.tick()
            assert threading.active_count() == before


def test_a_text_that_ends_in_a_newline_stays() -> None:
    stream = io.StringIO()
    with AtWork(1, str, stream, prefix="kvmtest: fleet: ") as at_work:
        at_work.began("spr")
        at_work.said("spr", "booting")
        at_work.said("spr", "stable 1: PASS\n")
        at_work.interrupted()
    assert stream.getvalue() == (
        "kvmtest: fleet: spr: stable 1: PASS\n"
        "kvmtest: fleet: interrupted: cleaning up; interrupt again to stop at once\n"
    )


def test_more_tasks_than_the_terminal_has_lines_are_counted() -> None:
    with terminal() as term:
        with AtWork(100, str, term.stream) as at_work:
            for number in range(100):
                at_work.began(f"host-{number}")
        shown = term.text()
    assert re.search(r"and \d+ more", shown)
