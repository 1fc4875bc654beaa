"""The guardian: kvmtest/host/changes/guardian.py, with real processes that really die."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kvmtest
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.changes import guardian
from kvmtest.host.changes.journal import RECORD, Journal
from kvmtest.host.changes.lock import LOCK, process_start
from kvmtest.host.tree import Tree

KNOB = "/sys/devices/cpu/freeze_on_smi"

OPENED = """
import os, sys
from pathlib import Path
from kvmtest.host.changes.journal import Journal
from kvmtest.host.tree import Tree
tree = Tree(Path(sys.argv[1]))
journal = Journal.open(tree)
guardian = journal._guardian.pid
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.path(KNOB).parent.mkdir(parents=True)
    tree.path(KNOB).write_text("1\n")
    return tree


@contextmanager
def run(tree: Tree, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run that opens the journal and goes on with ``code``, in its own process group."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENED + code, str(tree.root)],
        env=os.environ | {"PYTHONPATH": str(Path(kvmtest.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout
    return process.stdout.readline().decode().strip()


def await_undone(tree: Tree) -> None:
    """Wait until nobody holds the lock any more."""
    fd = os.open(tree.path(LOCK), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.close(fd)


def goes_on(pid: int) -> bool:
    """Tell whether the process lives on for the time in which a guardian would have undone."""
    pidfd = os.pidfd_open(pid)
    try:
        return not select.select([pidfd], [], [], 0.2)[0]
    finally:
        os.close(pidfd)


CHANGED = f"""
journal.write({KNOB!r}, "0")
print(guardian, flush=True)
sys.stdin.read()
"""


def test_it_undoes_what_a_killed_run_changed(tree: Tree) -> None:
    with run(tree, CHANGED) as process:
        assert said(process)
        assert tree.read(KNOB) == "0"
        process.kill()
        await_undone(tree)
    assert tree.path(KNOB).read_text() == "1\n"
    assert not tree.exists(RECORD)


def test_it_survives_what_kills_the_runs_whole_process_group(tree: Tree) -> None:
    with run(tree, CHANGED) as process:
        pid = int(said(process))
        assert os.getsid(pid) == pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        os.killpg(process.pid, signal.SIGKILL)
        await_undone(tree)
    assert tree.read(KNOB) == "1"


def test_it_undoes_when_a_run_ends_without_close(tree: Tree) -> None:
    with run(tree, f'journal.write({KNOB!r}, "0"); os._exit(0)') as process:
        process.wait()
        await_undone(tree)
    assert tree.read(KNOB) == "1"


def test_it_does_not_undo_while_the_run_lives_whatever_becomes_of_its_lifeline(
    tree: Tree,
) -> None:
    code = "os.close(journal._guardian.lifeline); print(guardian, flush=True); sys.stdin.read()"
    with run(tree, f'journal.write({KNOB!r}, "0"); {code}') as process:
        assert goes_on(int(said(process)))
        assert tree.read(KNOB) == "0"
        process.kill()
        await_undone(tree)
    assert tree.read(KNOB) == "1"


def test_it_leaves_a_killed_run_without_changes_alone(tree: Tree) -> None:
    with run(tree, 'print("open", flush=True); sys.stdin.read()') as process:
        assert said(process) == "open"
        process.kill()
        await_undone(tree)
    assert not tree.exists("/var")
    assert tree.read(KNOB) == "1"


def test_it_is_gone_and_reaped_after_close(tree: Tree) -> None:
    journal = Journal.open(tree)
    assert journal._guardian
    pid = journal._guardian.pid
    assert process_start(pid)
    journal.write(KNOB, "0")
    assert journal.close() == []
    assert process_start(pid) is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_it_holds_neither_the_runs_output_nor_other_descriptors(tree: Tree) -> None:
    code = "print(guardian, flush=True); os.set_inheritable(1, True); os.close(1); sys.stdin.read()"
    with run(tree, f'journal.write({KNOB!r}, "0"); ' + code) as process:
        pid = int(said(process))
        assert process.stdout
        assert process.stdout.read() == b""  # Ends while run and guardian live.
        # The pipe by which it told that it is up may still be open for an instant.
        expected = sorted([str(tree.path(LOCK)), *[os.devnull] * 3, "anon_inode", "pipe"])
        deadline = time.monotonic() + 10
        while len(list(Path(f"/proc/{pid}/fd").iterdir())) > len(expected):
            assert time.monotonic() < deadline
        held = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert process_start(pid) is not None
        assert sorted(name.partition(":")[0] for name in held) == expected


def test_a_run_that_ends_cleanly_after_its_guardian_was_killed_undoes_by_itself(
    tree: Tree,
) -> None:
    journal = Journal.open(tree)
    assert journal._guardian
    journal.write(KNOB, "0")
    os.kill(journal._guardian.pid, signal.SIGKILL)
    assert journal.close() == []
    assert tree.read(KNOB) == "1"


def test_it_awaits_the_commands_that_the_dead_run_left_running(tree: Tree) -> None:
    os.mkfifo(tree.root / "gate")
    for name, script in {
        "rmmod": "exit 1",
        "modprobe": f"[ $2 = a=0 ] && read line < gate\necho ${{2#a=}} > {KNOB[1:]}",
    }.items():
        program = tree.root / "usr/sbin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    code = 'print(guardian, flush=True); journal.reload_module("m", {"a": "1"}, {"a": "0"})'
    with run(tree, code) as process:
        pid = int(said(process))
        # Opening the gate to write returns when the command has opened it to read.
        with (tree.root / "gate").open("w") as gate:
            process.kill()
            process.wait()
            assert goes_on(pid)
            gate.write("go\n")
        await_undone(tree)
    assert tree.read(KNOB) == "1"
    assert not tree.exists(RECORD)


def test_no_change_is_made_where_it_could_not_start(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian, "_COMMAND", ("/bin/false",))
    journal = Journal.open(tree)
    with pytest.raises(EnvironmentUnfit, match="did not start"):
        journal.write(KNOB, "0")
    assert tree.read(KNOB) == "1"
    assert journal.close() == []


def test_a_machine_that_can_not_start_it_is_told_so_and_the_lock_is_free_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian, "_COMMAND", ("/no/such/interpreter",))
    with pytest.raises(EnvironmentUnfit, match="can't start the guardian"):
        Journal.open(tree)
    monkeypatch.undo()
    Journal.open(tree).close()


def test_it_is_up_before_it_imports_what_undoes() -> None:
    code = "import sys, kvmtest.host.changes.guardian_process; print(sorted(sys.modules))"
    folder = Path(kvmtest.__file__).parents[1]
    imported = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=folder, text=True)
    assert "'kvmtest.host.changes.guardian_process'" in imported
    for heavy in ("dataclasses", "pathlib", "json", "typing", "kvmtest.host.changes.journal"):
        assert f"'{heavy}'" not in imported


def test_by_hand_it_says_who_starts_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvmtest.host.changes.guardian_process"],
        cwd=Path(kvmtest.__file__).parents[1],
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"started by `kvmtest run` alone" in done.stderr


def test_a_run_whose_standard_streams_are_closed_is_refused_not_left_hanging(tree: Tree) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from kvmtest.errors import EnvironmentUnfit\n"
        "from kvmtest.host.changes.journal import Journal\n"
        "from kvmtest.host.tree import Tree\n"
        "out = os.dup2(1, 9)\n"
        "for fd in range(3): os.close(fd)\n"
        "try: Journal.open(Tree(Path(sys.argv[1]))).close()\n"
        "except EnvironmentUnfit as error: os.write(9, str(error).encode())\n"
    )
    command = [sys.executable, "-c", code, str(tree.root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=30)
    assert b"standard input, output or error is closed" in done.stdout
