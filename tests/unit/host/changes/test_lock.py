"""One run at a time: kvmtest/host/changes/lock.py, with real processes."""

import fcntl
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvmtest
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.changes.lock import LOCK, Lock, LockHeld, process_start
from kvmtest.host.tree import Tree

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")

HOLDER = """
import sys
from pathlib import Path
from kvmtest.host.changes.lock import Lock
from kvmtest.host.tree import Tree
lock = Lock.take(Tree(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def holder(tree: Tree) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tree.root)],
        env=os.environ | {"PYTHONPATH": str(Path(kvmtest.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def fork(work: Callable[[], None], user: int | None = None) -> int:
    """Run ``work`` in a forked child, as ``user``; return the child's pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12, where threads were left.
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        work()
        status = 0
    finally:
        os._exit(status)


def succeeds(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def test_the_second_run_is_told_pid_and_command_of_the_first(
    tree: Tree, holder: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(LockHeld) as caught:
        Lock.take(tree)
    assert caught.value.pid == holder.pid
    assert f"pid {holder.pid} ({sys.executable}" in str(caught.value)
    assert "\n" not in str(caught.value)[:60]
    assert caught.value.exit_status == 3


def test_the_lock_is_free_after_release(tree: Tree) -> None:
    lock = Lock.take(tree)
    lock.release()
    lock.release()
    Lock.take(tree).release()


def test_one_process_can_not_hold_it_twice(tree: Tree) -> None:
    lock = Lock.take(tree)
    with pytest.raises(LockHeld, match=f"pid {os.getpid()} "):
        Lock.take(tree)
    lock.release()


def test_a_killed_holder_leaves_no_stale_lock(tree: Tree, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()
    Lock.take(tree).release()


def test_a_child_that_inherits_the_descriptor_holds_the_lock_on(tree: Tree) -> None:
    lock = Lock.take(tree)
    waits, go = os.pipe()

    def hold() -> None:
        os.close(go)
        os.read(waits, 1)

    child = fork(hold)
    os.close(lock.fd)  # As death would, without the release.
    with pytest.raises(LockHeld):
        Lock.take(tree)
    os.close(go)
    os.close(waits)
    assert succeeds(child)
    Lock.take(tree).release()


def test_release_frees_it_though_a_forked_child_inherited_it(tree: Tree) -> None:
    lock = Lock.take(tree)
    waits, go = os.pipe()

    def linger() -> None:
        os.close(go)
        os.read(waits, 1)

    child = fork(linger)
    lock.release()
    Lock.take(tree).release()
    os.close(go)
    os.close(waits)
    assert succeeds(child)


def test_a_dead_runs_guardian_is_awaited(tree: Tree) -> None:
    begins, begun = os.pipe()
    ends, end = os.pipe()

    def guard() -> None:
        os.write(begun, b".")
        os.read(ends, 1)

    def run() -> None:
        os.close(end)
        lock = Lock.take(tree)
        lock.name_guardian(fork(guard))

    assert succeeds(fork(run))
    assert os.read(begins, 1) == b"."
    with pytest.raises(LockHeld, match="held for the dead run"):
        Lock.take(tree, patience=0)
    os.close(end)
    Lock.take(tree).release()
    for fd in (begins, begun, ends):
        os.close(fd)


def test_a_holder_without_a_name_is_found_in_proc_locks(tree: Tree) -> None:
    (tree.root / "proc").mkdir()
    (tree.root / "proc/locks").symlink_to("/proc/locks")
    Lock.take(tree).release()
    path = tree.path(LOCK)
    path.write_text("nobody knows")
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    if str(path.stat().st_ino) not in Path("/proc/locks").read_text():
        pytest.skip("/proc/locks does not list this file system's locks")
    with pytest.raises(LockHeld) as caught:
        Lock.take(tree)
    assert caught.value.pid == os.getpid()
    os.close(fd)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"pid": "x", "start": 1, "command": ""}',
        "\0",
        "[" * 60_000,
        f'{{"pid": {10**30}, "start": 1, "command": "", "guardian": {10**30}}}',
        '{"pid": 4000000, "start": 1, "command": "", "guardian": -1}',
        '{"pid": 4000000, "start": [], "command": [], "guardian": {}}',
    ],
)
def test_whatever_its_file_says_a_held_lock_is_held(tree: Tree, text: str) -> None:
    lock = Lock.take(tree)
    tree.path(LOCK).write_text(text)
    with pytest.raises(LockHeld, match="another kvmtest run holds"):
        Lock.take(tree)
    lock.release()


@pytest.mark.parametrize(
    "line",
    ["1: FLOCK", "1: FLOCK  ADVISORY  WRITE x 00:1a:{} 0 EOF", "1: FLOCK  ADVISORY  WRITE 1 {} 0",
     "1: FLOCK  ADVISORY  WRITE -1 00:1a:{} 0 EOF"],
)  # fmt: skip
def test_whatever_proc_locks_says_a_held_lock_is_held(tree: Tree, line: str) -> None:
    lock = Lock.take(tree)
    tree.path(LOCK).write_text("nobody knows")
    (tree.root / "proc").mkdir()
    (tree.root / "proc/locks").write_text(line.format(os.fstat(lock.fd).st_ino) + "\n")
    with pytest.raises(LockHeld) as caught:
        Lock.take(tree)
    assert caught.value.pid is None
    lock.release()


@needs_root
def test_another_user_can_take_a_lock_that_root_made() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        tree = Tree(Path(directory))
        Lock.take(tree).release()
        tree.path(LOCK).parent.chmod(0o1777)
        before = tree.path(LOCK).read_text()
        assert succeeds(fork(lambda: Lock.take(tree).release(), NOBODY))
        assert tree.path(LOCK).read_text() == before


@needs_root
def test_root_can_take_a_lock_that_another_user_made_in_a_sticky_directory() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        tree = Tree(Path(directory))
        tree.path(LOCK).parent.mkdir(parents=True)
        tree.path(LOCK).parent.chmod(0o1777)
        assert succeeds(fork(lambda: Lock.take(tree).release(), NOBODY))
        assert tree.path(LOCK).stat().st_uid == NOBODY
        Lock.take(tree).release()


@needs_root
def test_who_may_not_open_the_lock_is_told_so() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        theirs = Tree(Path(directory))

        def refused() -> None:
            with pytest.raises(EnvironmentUnfit, match=r"Permission denied; run kvmtest as root"):
                Lock.take(theirs)

        assert succeeds(fork(refused, NOBODY))


def test_a_link_planted_in_its_place_is_not_followed(tree: Tree) -> None:
    target = tree.root / "precious"
    target.write_text("as it was")
    tree.path(LOCK).parent.mkdir(parents=True)
    tree.path(LOCK).symlink_to(target)
    with pytest.raises(EnvironmentUnfit, match="can't open the lock"):
        Lock.take(tree)
    assert target.read_text() == "as it was"


def test_a_zombie_counts_as_no_task() -> None:
    pid = fork(lambda: None)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process_start(pid) is None
    assert process_start(os.getpid()) is not None
    assert succeeds(pid)
