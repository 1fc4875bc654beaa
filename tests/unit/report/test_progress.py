"""What is going on is one live line with the time, on a terminal alone."""

import io
import re

import pytest
from support.pseudo_terminal import terminal

from kvmtest.properties import PROPERTIES
from kvmtest.report.progress import Progress

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_it_is_silent_where_nobody_watches() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.property(PROPERTIES[0], 1, 2)
        progress.step("undoing")
    assert stream.getvalue() == ""


def test_it_leaves_nothing_on_a_terminal() -> None:
    with terminal() as term:
        with Progress(term.stream) as progress:
            progress.property(PROPERTIES[0], 1, 2)
        text = term.text()
        assert text.endswith("\x1b[2K")
        assert "\x1b[?25h" in text, "the cursor stays hidden"


def test_what_a_check_is_at_stands_beside_its_property() -> None:
    with terminal() as term:
        with Progress(term.stream) as progress:
            progress.property(PROPERTIES[0], 1, 2)
            progress.detail("12 s left")
        assert f"[1/2] {PROPERTIES[0].id}: 12 s left" in term.text()


def test_a_new_step_forgets_what_the_last_one_was_at() -> None:
    progress = Progress(io.StringIO())
    progress.step("booting")
    progress.detail("the kernel's line")
    assert str(progress.__rich__()).endswith(" booting: the kernel's line")
    progress.step("running")
    assert str(progress.__rich__()).endswith(" running")


def test_the_time_since_the_beginning_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(io.StringIO())
    progress.step("booting")
    now += 75.9
    assert str(progress.__rich__()) == "1:15 booting"
    now += 3600
    assert str(progress.__rich__()) == "61:15 booting"


def test_it_is_one_line_however_narrow_the_terminal() -> None:
    with terminal(40) as term:
        with Progress(term.stream) as progress:
            progress.step("x" * 300)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", term.text())
        assert max(map(len, re.split(r"[\r\n]+", text))) <= 40


def test_a_machine_s_line_obeys_no_terminal() -> None:
    progress = Progress(io.StringIO())
    progress.detail("a\x1b]0;b\x07[red]c")
    assert str(progress.__rich__()).endswith("a\ufffd]0;b\ufffd[red]c")


def test_in_lines_each_step_is_a_line_wherever_it_goes() -> None:
    stream = io.StringIO()
    long = "x" * 300
    with Progress(stream, lines=True) as progress:
        progress.property(PROPERTIES[0], 1, 2)
        progress.detail("12 s left")
        progress.step(long)
    assert stream.getvalue() == f"[1/2] {PROPERTIES[0].id}\n{long}\n", "a line each is many"


def test_in_lines_no_cursor_is_moved_on_a_terminal() -> None:
    with terminal() as term:
        with Progress(term.stream, lines=True) as progress:
            progress.step("one")
            progress.step("two")
        assert term.text() == "one\r\ntwo\r\n"
