"""The benchmark: it says how kvmtest does, and its exit status agrees with what it says."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.stand_in import environment, need_kvm

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize(("program", "words"), [("run.py", ["3"]), ("speed.py", [])])
def test_it_ends_with_1_where_a_goal_is_missed(program: str, words: list[str]) -> None:
    if program == "run.py":
        need_kvm()
    done = subprocess.run(
        [sys.executable, BENCH / program, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(PYTHONPATH=str(BENCH.parent / "tests")),
    )
    said = [line for line in done.stdout.splitlines() if "(goal " in line]
    assert done.stderr == ""
    assert len(said) == 5
    assert all(line.startswith(("ok", "MISSED")) for line in said)
    assert done.returncode == ("MISSED" in done.stdout)
