"""kvmtest/fleet/folder_lock.py: one fleet command at a time works on a folder."""

import os
from pathlib import Path

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.folder_lock import FolderLock, holder


def take(folder: Path, patience: float = 0.0) -> FolderLock:
    return FolderLock.take(folder, patience, lambda _: None)


def test_a_folder_has_one_command_at_a_time(tmp_path: Path) -> None:
    assert holder(tmp_path) == ""
    with take(tmp_path):
        assert holder(tmp_path).startswith(f"pid {os.getpid()} (")
        with pytest.raises(EnvironmentUnfit, match=f"pid {os.getpid()} .*works on it"):
            take(tmp_path)
    assert holder(tmp_path) == ""
    with take(tmp_path):
        pass


def held_for_a_dead_command(folder: Path) -> tuple[int, int]:
    """Have a child of a dead command hold the lock; return its pid, and what lets it go."""
    lets_go, held = os.pipe()
    told, tell = os.pipe()
    command = os.fork()
    if command == 0:
        with take(folder):
            child = os.fork()
            if child == 0:
                os.close(held)
                os.read(lets_go, 1)
                os._exit(0)
        os.write(tell, b"%d\n" % child)
        os._exit(0)
    os.close(lets_go)
    os.waitpid(command, 0)
    with os.fdopen(told, "rb") as said:
        os.close(tell)
        return int(said.readline()), held


def test_it_lasts_until_the_last_host_of_a_dead_command_is_put_back(tmp_path: Path) -> None:
    _, held = held_for_a_dead_command(tmp_path)
    assert holder(tmp_path) == "processes of a dead fleet command, which put their hosts back"
    with pytest.raises(EnvironmentUnfit, match="is held by a process of a dead fleet command"):
        take(tmp_path)
    said: list[str] = []

    def told(text: str) -> None:
        said.append(text)
        os.close(held)

    with FolderLock.take(tmp_path, 60.0, told):
        assert said == ["a fleet command was killed: waiting until its hosts are put back"]


def test_a_lock_s_file_that_others_wrote_names_nobody(tmp_path: Path) -> None:
    with take(tmp_path):
        for text in ("", "[]", "{", '{"pid": -1, "start": 1, "command": "x"}'):
            (tmp_path / "fleet.lock").write_text(text)
            assert holder(tmp_path).startswith("processes of a dead fleet command")
