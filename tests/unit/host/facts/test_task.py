"""The fields that /proc has of a task are told apart, whatever the task's name."""

import os
from pathlib import Path

from support.stand_in import stand_in

from kvmtest.host.facts.task import stat, status
from kvmtest.host.tree import Tree


def test_a_name_with_brackets_and_spaces_is_one_field(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, {"/proc/7/stat": "7 (a) S 1 (b) R 1 2 3\n"})
    assert stat(tree, "/proc/7") == ["R", "1", "2", "3"]


def test_status_has_names(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, {"/proc/7/status": "Name:\ta: b\nSigPnd:\t0000000000000001\n"})
    assert status(tree, "/proc/7") == {"Name": "a: b", "SigPnd": "0000000000000001"}


def test_a_task_that_has_ended_has_none(tmp_path: Path) -> None:
    assert stat(Tree(tmp_path), "/proc/7") == []
    assert status(Tree(tmp_path), "/proc/7") == {}


def test_the_live_machine_s_tasks_are_read() -> None:
    assert stat(Tree(), f"/proc/{os.getpid()}")[1] == str(os.getppid())
    assert status(Tree(), f"/proc/{os.getpid()}")["Pid"] == str(os.getpid())
