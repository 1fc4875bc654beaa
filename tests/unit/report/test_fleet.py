"""kvmtest/report/fleet.py: how a fleet stands, at the widths of terminals."""

import pytest

from kvmtest.fleet.course import Boot, Ended, Ending, GivenUp, Restore, Run
from kvmtest.fleet.standing import AtWork, NotDone, Standing
from kvmtest.fleet.tasks import Task
from kvmtest.report.fleet import screen

UNFIT = GivenUp(Boot("new"), Ended(Ending.UNFIT, "no such kernel; name another"))
OPEN = NotDone(Task("new", 1), None)
GIVEN_UP = [NotDone(Task("new", number), UNFIT) for number in (1, 2)]


def lines(*hosts: Standing, at_work: str = "", width: int = 80) -> list[str]:
    return [line.plain for line in screen(hosts, "DIR", at_work, width=width, now=1000.0)]


@pytest.mark.parametrize(
    ("host", "sentence", "status"),
    [
        (Standing("a", 2, [0, 0], []), "PASS: 2 of 2 runs pass", 0),
        (Standing("a", 2, [0, 4], []), "PASS: 1 of 2 runs pass, 1 decided nothing", 0),
        (Standing("a", 2, [0, 1], []), "FAIL: 1 of 2 runs FAIL", 1),
        (Standing("a", 2, [1], [OPEN]), "FAIL: 1 of 2 runs FAIL", 1),
        (Standing("a", 2, [0, 3], []), "ERROR: 1 of 2 runs broke", 3),
        (Standing("a", 2, [0, 130], []), "ERROR: 1 of 2 runs broke", 3),
        (Standing("a", 2, [0], [OPEN]), "ERROR: 1 of 2 runs left no evidence", 3),
        (Standing("a", 1, [0], [], is_clean=False), "ERROR: not every host is as it was", 3),
        (Standing("a", 2, [4, 4], []), "UNDECIDED: 2 runs decided nothing", 4),
    ],
)
def test_the_first_line_is_the_sentence_and_the_exit_status(
    host: Standing, sentence: str, status: int
) -> None:
    first = lines(host)[0]
    assert first.startswith(sentence)
    assert first.endswith(f"exit {status}")
    assert len(first) == 80


@pytest.mark.parametrize(
    ("host", "sentence", "status"),
    [
        (Standing("a", 1, [0], []), "ERROR: can't write DIR/matrix.html", 3),
        (Standing("a", 1, [4], []), "ERROR: can't write DIR/matrix.html", 3),
        (Standing("a", 1, [3], []), "ERROR: 1 of 1 runs broke", 3),
        (Standing("a", 1, [1], []), "FAIL: 1 of 1 run FAIL", 1),
        (Standing("a", 2, [0], [OPEN]), "ERROR: 1 of 2 runs left no evidence", 3),
    ],
)
def test_what_else_went_wrong_is_no_pass(host: Standing, sentence: str, status: int) -> None:
    first = screen([host], "DIR", problems=["can't write DIR/matrix.html"])[0].plain
    assert first.startswith(sentence)
    assert first.endswith(f"exit {status}")


def test_hosts_in_trouble_come_first_and_say_why() -> None:
    said = lines(
        Standing("fine", 2, [0, 0], []),
        Standing("open", 2, [0], [OPEN]),
        Standing("unfit", 2, [], GIVEN_UP),
        Standing("lost", 2, [], [OPEN], lost="no answer for 900 s", is_clean=False),
    )
    assert said[2:] == [
        "lost   0/2  LOST: no answer for 900 s",
        "unfit  0/2  2 given up",
        "open   1/2  1 pass",
        "fine   2/2  2 pass",
        "",
        "Given up:",
        "unfit new 1,2: boot unfit: no such kernel; name another",
        "",
        "Next: kvmtest fleet resume DIR",
    ]


def test_what_is_at_work_is_said_while_somebody_works_on_it() -> None:
    steps = [AtWork(Run("new", 2, 1), 760.0), AtWork(Boot("new"), 990.0)]
    host = Standing("a", 2, [0], [OPEN], at_work=steps, is_clean=False)
    said = lines(host, at_work="pid 7 (kvmtest fleet run)")
    assert said[0].startswith("AT WORK: 1 of 2 runs done")
    assert said[1] == "At work: pid 7 (kvmtest fleet run)"
    assert said[3:] == ["a  1/2  1 pass; runs new 2 (4 min); boots new (10 s)"]
    back = Standing("a", 1, [0], [], at_work=[AtWork(Restore(), 999.0)], is_clean=False)
    assert lines(back, at_work="x")[3:] == ["a  1/1  1 pass; is put back (1 s)"]
    assert "NOT put back yet" in lines(back)[2]


@pytest.mark.parametrize("width", [60, 80])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    hosts = [
        Standing(f"host-{'x' * 40}-{n}", 12, [0] * n, GIVEN_UP, lost="no answer " * 20)
        for n in range(10)
    ]
    assert max(map(len, lines(*hosts, width=width))) <= width


def test_a_thousand_hosts_fit_on_a_screen() -> None:
    hosts = [Standing(f"runner-{n:04}", 10, [0] * 10, []) for n in range(1000)]
    said = lines(*hosts)
    assert len(said) <= 40
    assert said[-1] == "and 976 hosts more with 9760/9760 runs done"


def test_what_a_host_says_does_not_reach_the_terminal() -> None:
    assert not any("\x1b" in line for line in lines(Standing("a", 1, [], [], lost="\x1b[2J")))
