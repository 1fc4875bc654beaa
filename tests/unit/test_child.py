"""A child that ends with its parent, however the parent ends."""

import os
import select
import subprocess
import sys

import pytest

from kvmtest.child import mortal
from kvmtest.errors import EnvironmentUnfit

# Starts a child that waits for ever, says its number, and waits for its own end.
PARENT = """
import subprocess, sys
from kvmtest.child import mortal
child = subprocess.Popen(mortal(["sh", "-c", "echo ready; exec sleep infinity"]),
                         stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_it_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            parent.wait()
            # The descriptor is readable once the child has ended: its new parent need not reap it.
            assert select.select([child], [], [], 30) == ([child], [], [])
        finally:
            os.close(child)


def test_it_is_the_command() -> None:
    done = subprocess.run(mortal(["sh", "-c", "exit 7"]))
    assert done.returncode == 7


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentUnfit, match=r"setpriv is missing; .*util-linux"):
        mortal(["true"])
