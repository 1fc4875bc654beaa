"""docs/fleet.md's commands, run as they stand there."""

import os
import socket
import sysconfig
from pathlib import Path

import pytest
from support.console_blocks import play, steps
from support.hosts import Hosts

from kvmtest.cache import Cache

PAGE = Path(__file__).resolve().parents[2] / "docs/fleet.md"
COORDINATOR = ("127.0.0.1", 20408)
TIMEOUT = 600


def test_the_tutorial_s_commands_print_what_it_shows(hosts: Hosts, tmp_path: Path) -> None:
    with socket.socket() as busy:
        if busy.connect_ex(COORDINATOR) == 0:
            pytest.skip("a coordinator of labgrid is at work at port 20408")
    todo = steps(PAGE.read_text())
    assert len(todo) > 15
    (tmp_path / "logs").mkdir()
    environment = hosts.environment
    environment["PATH"] = f"{sysconfig.get_path('scripts')}:{environment['PATH']}"
    environment["LC_ALL"] = "C.UTF-8"
    environment["KVMTEST_CACHE"] = str(Cache.default().root)
    for name in [name for name in os.environ if name.startswith("LG_")]:
        del environment[name]
    wrong = list(play(todo, tmp_path, environment, tmp_path / "logs", TIMEOUT))
    assert not wrong, "\n".join(wrong)
    assert "first" in (tmp_path / "fleet/results/matrix.html").read_text()
    # Nothing is left on the host.
    host = hosts["host1"]
    assert host.run("find", "/var/lib/kvmtest", "-mindepth", "1", check=False).stdout == ""
    assert host.run("pgrep", "-l", "python", check=False).stdout == ""
