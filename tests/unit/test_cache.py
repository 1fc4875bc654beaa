"""kvmtest/cache.py: entries are whole or not there, with real processes."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvmtest
from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit

# Says that it is making the entry, then waits for a line before it is done.
MAKER = """
import sys
from pathlib import Path
from kvmtest.cache import Cache

def make(folder):
    (folder / "half").write_text("made by the other")
    print("making", flush=True)
    sys.stdin.readline()
    (folder / "whole").write_text("made by the other")

print(Cache(Path(sys.argv[1])).entry("kernel", sys.argv[2], make), flush=True)
"""


class Maker:
    """Another process that makes an entry of the same cache."""

    def __init__(self, root: Path, digest: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAKER, str(root), digest],
            env=os.environ | {"PYTHONPATH": str(Path(kvmtest.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def finish(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def maker(cache: Cache) -> Iterator[Maker]:
    made = Maker(cache.root, "abc")
    assert made.says() == "making"
    yield made
    with made.process:
        made.process.kill()


def blocked(pid: int) -> bool:
    """Wait until the process waits for a lock; False where /proc/locks never says so."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        if any(line[1] == "->" and line[5] == str(pid) for line in fields):
            return True
        os.sched_yield()
    return False


def fill(folder: Path) -> None:
    (folder / "whole").write_text("made here")


def never(folder: Path) -> None:
    raise AssertionError(f"made again in {folder}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_entry_is_made_once(cache: Cache) -> None:
    path = cache.entry("kernel", "abc", fill)
    assert (path / "whole").read_text() == "made here"
    assert cache.entry("kernel", "abc", never) == path
    assert path == cache.root / "kernel" / "abc"


def test_nothing_but_entries_is_left(cache: Cache) -> None:
    cache.entry("kernel", "abc", fill)
    assert names(cache.root / "kernel") == ["abc"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_entry_whose_making_fails_is_not_there(cache: Cache, error: BaseException) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        cache.entry("kernel", "abc", fail)
    assert names(cache.root / "kernel") == []
    assert (cache.entry("kernel", "abc", fill) / "whole").exists()


def test_of_two_processes_one_makes_it_and_the_other_waits(cache: Cache, maker: Maker) -> None:
    second = Maker(cache.root, "abc")
    maker.finish()
    with second.process:
        # It never says "making".
        assert second.says() == str(cache.root / "kernel" / "abc")
    assert names(cache.root / "kernel") == ["abc"]
    assert (cache.entry("kernel", "abc", never) / "whole").exists()


def test_who_waited_for_a_lock_that_is_gone_takes_the_one_that_others_see(cache: Cache) -> None:
    lock = cache.root / "kernel" / "abc.lock"
    lock.parent.mkdir(parents=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    waiting = Maker(cache.root, "abc")
    if not blocked(waiting.process.pid):
        pytest.skip("/proc/locks does not list who waits")
    lock.unlink()
    os.close(fd)
    with waiting.process:
        assert waiting.says() == "making"
        assert lock.exists()
        waiting.finish()


def test_what_a_killed_process_was_making_is_gone_after_the_next_entry(
    cache: Cache, maker: Maker
) -> None:
    maker.process.send_signal(signal.SIGKILL)
    maker.process.wait()
    assert names(cache.root / "kernel") == ["abc.lock", "abc.making"]
    cache.entry("kernel", "another", fill)
    assert names(cache.root / "kernel") == ["another"]


def test_an_entry_that_a_killed_process_was_making_is_made_anew(cache: Cache, maker: Maker) -> None:
    maker.process.send_signal(signal.SIGKILL)
    maker.process.wait()
    assert names(cache.entry("kernel", "abc", fill)) == ["whole"]


def test_what_a_living_process_is_making_is_left_alone(cache: Cache, maker: Maker) -> None:
    cache.entry("kernel", "another", fill)
    maker.finish()
    assert maker.says() == str(cache.root / "kernel" / "abc")


def test_an_entry_that_is_there_needs_no_lock_and_no_right_to_write(cache: Cache) -> None:
    path = cache.entry("kernel", "abc", fill)
    path.parent.chmod(0o500)
    assert cache.entry("kernel", "abc", never) == path
    path.parent.chmod(0o700)


def test_a_cache_that_can_not_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentUnfit, match=r"can't make .*abc: .*set KVMTEST_CACHE"):
        Cache(tmp_path / "file").entry("kernel", "abc", fill)


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(cache: Cache) -> None:
    def fill_up(folder: Path) -> None:
        (folder / "half").write_text("")
        with Path("/dev/full").open("w") as full:
            full.write("x")

    with pytest.raises(EnvironmentUnfit, match="No space left on device; free space"):
        cache.entry("kernel", "abc", fill_up)
    assert names(cache.root / "kernel") == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KVMTEST_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/kvmtest"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/her/.cache/kvmtest"),
        ({}, "/home/her/.cache/kvmtest"),
    ],
)
def test_the_cache_is_where_the_user_says(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    assert Cache.default(environment).root == Path(expected)
