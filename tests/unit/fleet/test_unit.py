"""fleet/unit.py: a job outlives whoever starts it, and the end of it is told to whoever waits."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmtest.fleet import unit

PATIENCE_S = 60.0
# Tells that it runs, by a FIFO, and goes on until it is ended.
ENDLESS = "echo ready >{fifo}; exec sleep infinity"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "job"
    call("end", 5, tmp_path / "job")


def call(command: str, *words: object, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kvmtest.fleet.unit", command, *map(str, words)],
        input=given, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(
    folder: Path,
    script: str,
    *,
    before: Sequence[Sequence[str]] = (),
    restore: str = "true",
    deadline: float = PATIENCE_S,
) -> None:
    job = {
        "before": before,
        "command": ["sh", "-c", script],
        "restore": ["sh", "-c", restore],
        "deadline": deadline,
    }
    assert call("start", folder, given=json.dumps(job)) == ""


def wait(folder: Path) -> dict[str, Any]:
    return dict(json.loads(call("wait", folder)))


def test_a_job_is_done_and_its_end_is_told(folder: Path) -> None:
    start(folder, "echo said; echo complained >&2; exit 4")
    state = wait(folder)
    assert (state["state"], state["status"], state["why"]) == ("ended", 4, "")
    assert state["printed"] == "said\ncomplained\n"
    assert not state["restarted"]


def test_whoever_starts_a_job_again_gets_the_first_one(folder: Path, tmp_path: Path) -> None:
    for _ in range(3):
        start(folder, f"echo once >>{tmp_path}/runs")
    wait(folder)
    start(folder, f"echo again >>{tmp_path}/runs")
    assert wait(folder)["status"] == 0
    assert (tmp_path / "runs").read_text() == "once\n"
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "state.json"]


def endless(folder: Path, tmp_path: Path, **more: Any) -> None:
    """Start a job that goes on until it is ended; return when it is at work."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    start(folder, ENDLESS.format(fifo=fifo), **more)
    assert fifo.read_text() == "ready\n"


def test_a_wait_goes_on_until_the_end(folder: Path, tmp_path: Path) -> None:
    endless(folder, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "kvmtest.fleet.unit", "wait", str(folder)], stdout=subprocess.PIPE
    ) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        call("end", 30, folder)
        output, _ = waiting.communicate(timeout=PATIENCE_S)
    state = json.loads(output)
    assert (state["state"], state["why"]) == ("ended", "it was told to end")
    assert state["late"] is False


def test_a_job_that_takes_too_long_is_ended(folder: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"trap 'echo restored; exit 143' TERM; exec 3<>{fifo}; read -r _ <&3"
    start(folder, script, deadline=0.2)
    state = wait(folder)
    assert (state["status"], state["why"]) == (143, "it did not end within 0 s")
    assert state["late"] is True
    assert state["printed"] == "restored\n"


def test_commands_come_before_and_one_that_fails_ends_the_job(folder: Path, tmp_path: Path) -> None:
    start(
        folder,
        f"touch {tmp_path}/run",
        before=[["echo", "first"], ["sh", "-c", "echo second; exit 3"], ["echo", "third"]],
    )
    state = wait(folder)
    assert state["status"] is None
    assert state["why"] == "the command `sh -c 'echo second; exit 3'` ended with status 3"
    assert state["printed"] == "first\nsecond\n"
    assert not (tmp_path / "run").exists()


def test_a_program_that_is_missing_is_named(folder: Path) -> None:
    start(folder, "true", before=[["/nowhere/program"]])
    state = wait(folder)
    assert state["why"] == "the command `/nowhere/program` ended with status 127"
    assert state["printed"] == "/nowhere/program: No such file or directory\n"


def test_the_host_is_restored_where_the_command_is_killed(folder: Path) -> None:
    start(folder, "kill -KILL $$", restore="echo restored")
    state = wait(folder)
    assert (state["status"], state["why"]) == (None, "kvmtest was killed by signal 9")
    assert state["printed"] == "restored\n"


def test_only_the_end_of_what_is_printed_is_kept(folder: Path) -> None:
    start(folder, "head -c 3000000 /dev/zero | tr '\\0' '\\1'; echo end")
    printed = wait(folder)["printed"]
    assert len(printed) == 16384
    assert printed.endswith("\1end\n")


def test_a_unit_that_was_killed_has_not_ended(folder: Path, tmp_path: Path) -> None:
    endless(folder, tmp_path)
    state = json.loads((folder / "state.json").read_bytes())
    os.killpg(state["pid"], signal.SIGKILL)
    assert wait(folder)["state"] == unit.BEGAN
    # Nor does the same job begin anew.
    start(folder, "echo anew")
    assert wait(folder)["state"] == unit.BEGAN


def test_the_command_alone_holds_the_job_where_its_unit_was_killed(
    folder: Path, tmp_path: Path
) -> None:
    endless(folder, tmp_path)
    os.kill(json.loads((folder / "state.json").read_bytes())["pid"], signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-m", "kvmtest.fleet.unit", "wait", str(folder)], timeout=1)
    call("end", 30, folder)
    assert wait(folder)["state"] == unit.BEGAN


# A signal to a group of processes ends a command before its unit hears it.
HEARD_LATE = "(sleep 0.2; kill $PPID) & kill $$"


def test_a_job_was_told_to_end_although_its_unit_hears_of_that_last(folder: Path) -> None:
    start(folder, HEARD_LATE)
    state = wait(folder)
    assert (state["status"], state["why"]) == (None, "it was told to end")


def test_so_was_one_whose_command_before_it_is_at_work(folder: Path, tmp_path: Path) -> None:
    start(folder, f"touch {tmp_path}/run", before=[["sh", "-c", HEARD_LATE]])
    assert wait(folder)["why"] == "it was told to end"
    assert not (tmp_path / "run").exists()


def test_a_command_that_ignores_signals_is_killed(folder: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    start(folder, f"trap '' TERM; echo ready >{fifo}; while :; do sleep 1000; done")
    assert fifo.read_text() == "ready\n"
    call("end", 0.2, folder)
    assert wait(folder)["state"] == unit.BEGAN


def test_all_jobs_are_ended_in_one_call(folder: Path, tmp_path: Path) -> None:
    endless(folder, tmp_path)
    ended = tmp_path / "ended"
    start(ended, "true")
    wait(ended)
    call("end", 30, tmp_path / "none", ended, folder)
    assert wait(folder)["why"] == "it was told to end"
    assert wait(ended)["why"] == ""


def test_a_restart_of_the_host_is_noticed(folder: Path) -> None:
    start(folder, "true")
    wait(folder)
    path = folder / "state.json"
    state = json.loads(path.read_bytes())
    path.write_text(json.dumps({**state, "boot_id": "another"}))
    assert wait(folder)["restarted"]


def test_what_was_never_started_has_no_state(folder: Path) -> None:
    assert "state" not in wait(folder)


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to mount a small tmpfs")
    script = """
set -e
mount -t tmpfs -o size=64k tmpfs "$1"
exec "$2" -m kvmtest.fleet.unit start "$1/job"
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable],
        input=json.dumps({"before": [], "command": ["true"], "restore": [], "deadline": 1}),
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    if "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (1, "No space left on device\n")
