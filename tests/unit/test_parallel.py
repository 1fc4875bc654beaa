"""kvmtest/parallel.py: tasks in processes of their own, with real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import kvmtest
from kvmtest.errors import EnvironmentUnfit
from kvmtest.parallel import Ended, Task, jobs_that_fit, run

Say = Callable[[str], None]


class Heard:
    """An audience that notes all."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def began(self, name: str) -> None:
        self.lines.append(f"{name} began")

    def said(self, name: str, text: str) -> None:
        self.lines.append(f"{name}: {text}")

    def ended(self, ended: Ended[Any]) -> None:
        self.lines.append(f"{ended.name} ended")

    def tick(self) -> None:
        pass

    def interrupted(self) -> None:
        self.lines.append("interrupted")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO: whoever reads it waits for one that writes."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def returns(what: object) -> Task[Any]:
    return Task(str(what), lambda _: what)


def test_results_are_in_the_order_of_the_tasks_whatever_ends_first(fifo: Path) -> None:
    def late(_: Say) -> str:
        return fifo.read_text()

    def early(_: Say) -> int:
        return fifo.write_text("let go")

    heard = Heard()
    ended = run([Task("late", late), returns(5), Task("early", early)], 2, heard)
    assert [each.result for each in ended] == ["let go", 5, 6]
    assert next(line for line in heard.lines if "ended" in line) == "5 ended"


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_are_at_work_than_was_asked_for(at_once: int) -> None:
    heard = Heard()
    run([returns(number) for number in range(8)], at_once, heard)
    steps = [1 if line.endswith("began") else -1 for line in heard.lines]
    assert max(accumulate(steps)) == at_once


def test_each_pool_has_a_limit_of_its_own(fifo: Path) -> None:
    def waits(_: Say) -> str:
        return fifo.read_text()

    def lets_go(_: Say) -> int:
        return fifo.write_text("let go")

    # Where they counted for one limit, the first would wait for the others for ever.
    heard = Heard()
    run([Task("waits", waits), Task("lets go", lets_go, "lab")], 1, heard, pools={"lab": 1})
    assert sorted(heard.lines[:2]) == ["lets go began", "waits began"]
    heard = Heard()
    run([Task(str(n), lambda _: None, "lab") for n in range(6)], 1, heard, pools={"lab": 2})
    steps = [1 if line.endswith("began") else -1 for line in heard.lines]
    assert max(accumulate(steps)) == 2


def test_the_text_of_a_task_comes_before_its_end() -> None:
    def tell(say: Say) -> None:
        say("one")
        say("two")

    heard = Heard()
    run([Task("t", tell)], 1, heard)
    assert heard.lines == ["t began", "t: one", "t: two", "t ended"]


def refuse(_: Say) -> None:
    raise EnvironmentUnfit("no network; plug it in")


def stumble(_: Say) -> None:
    raise ZeroDivisionError("a bug")


def die(_: Say) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: Say) -> None:
    os._exit(7)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (refuse, "no network; plug it in"),
        (stumble, "ZeroDivisionError: a bug"),
        (die, "killed by SIGKILL"),
        (leave, "ended with status 7"),
    ],
)
def test_a_failure_is_told_and_ends_no_other_task(
    trouble: Callable[[Say], None], said: str
) -> None:
    ended = run([returns(1), Task("trouble", trouble), returns(2)], 1, Heard())
    assert [each.result for each in ended] == [1, None, 2]
    assert [bool(each.failure) for each in ended] == [False, True, False]
    assert said in ended[1].failure


def waiting(fifo: Path, left: Path) -> Task[None]:
    """Return a task that waits for ever, and writes a file when it is interrupted."""

    def wait(say: Say) -> None:
        try:
            say("ready")
            fifo.read_text()
        finally:
            left.write_text("cleaned up")

    return Task(left.name, wait)


class Impatient(Heard):
    """An audience that interrupts when all tasks are at work."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.missing = tasks

    def said(self, name: str, text: str) -> None:
        self.missing -= 1
        if not self.missing:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_ends_all_tasks_and_lets_them_clean_up(fifo: Path, tmp_path: Path) -> None:
    left = [tmp_path / "a", tmp_path / "b"]
    impatient = Impatient(2)
    with pytest.raises(KeyboardInterrupt):
        run([waiting(fifo, path) for path in left], 2, impatient)
    assert impatient.lines[-1] == "interrupted"
    assert [path.read_text() for path in left] == 2 * ["cleaned up"]


def test_what_tasks_say_while_they_clean_up_is_heard(fifo: Path) -> None:
    def wordy(say: Say) -> None:
        try:
            say("ready")
            fifo.read_text()
        finally:
            # More than a pipe holds.
            for number in range(100):
                say(f"{number} {'x' * 1000}")

    heard: list[str] = []

    class Listener(Impatient):
        def said(self, name: str, text: str) -> None:
            heard.append(text.split()[0])
            super().said(name, text)

    with pytest.raises(KeyboardInterrupt):
        run([Task("wordy", wordy)], 1, Listener(1))
    assert heard == ["ready", *map(str, range(100))]


def test_a_task_that_an_interrupt_does_not_end_is_killed(fifo: Path) -> None:
    def deaf(say: Say) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        say("ready")
        fifo.read_text()

    with pytest.raises(KeyboardInterrupt):
        run([Task("deaf", deaf)], 1, Impatient(1), patience=0.1)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_runs_beside_ends_with_the_last_task(fifo: Path, tmp_path: Path) -> None:
    class Patient(Heard):
        def tick(self) -> None:
            pass

    left, ready = tmp_path / "beside", tmp_path / "ready"
    os.mkfifo(ready)

    def beside(say: Say) -> None:
        try:
            ready.write_text("")
            fifo.read_text()
        finally:
            left.write_text("cleaned up")

    def wait_for_it(_: Say) -> None:
        ready.read_text()

    heard = Patient()
    run([Task("counted", wait_for_it)], 1, heard, [Task("beside", beside)])
    assert left.read_text() == "cleaned up"
    assert heard.lines == ["counted began", "counted ended"]


PARENT = """
import os, sys
from kvmtest.parallel import Task, run

class Deaf:
    began = said = ended = tick = interrupted = lambda *_: None

def wait(say):
    try:
        print("ready", flush=True)
        open(sys.argv[1]).read()
    finally:
        print("cleaned up", flush=True)

run([Task("t", wait)], 1, Deaf())
"""


def test_tasks_clean_up_where_their_parent_is_killed(fifo: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(fifo)],
        env=os.environ | {"PYTHONPATH": str(Path(kvmtest.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == "cleaned up\n"


def test_as_many_fit_as_there_are_cpus_and_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000000 kB\nMemFree:  100 kB\nMemAvailable:  4194304 kB\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert jobs_that_fit(1024, meminfo) == 4
    assert jobs_that_fit(1025, meminfo) == 3
    assert jobs_that_fit(512, meminfo) == 4
    assert jobs_that_fit(5000, meminfo) == 1
    meminfo.write_text("MemFree:  100 kB\n")
    assert jobs_that_fit(1, meminfo) == 1
