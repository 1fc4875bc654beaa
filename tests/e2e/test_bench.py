"""The benchmark: it says how kvmtest does, and its exit status agrees with what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

from kvmtest.kvm import KvmUnavailable, System

BENCH = Path(__file__).resolve().parents[2] / "bench/run.py"


def test_it_ends_with_1_where_a_goal_is_missed() -> None:
    try:
        System().close()
    except KvmUnavailable as error:
        pytest.skip(f"needs a usable /dev/kvm: {error}")
    done = subprocess.run([sys.executable, BENCH, "3"], capture_output=True, text=True, timeout=60)
    goals = [line for line in done.stdout.splitlines() if "(goal " in line]
    assert done.stderr == ""
    assert len(goals) == 5
    assert all(line.startswith(("ok", "MISSED")) for line in goals)
    assert done.returncode == ("MISSED" in done.stdout)
