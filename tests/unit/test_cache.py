"""kvmtest/cache.py: entries are whole or not there, with real processes."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import kvmtest
from kvmtest import cache as module
from kvmtest.cache import LIMIT, UNUSED_S, Cache
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


MB = 10**6


def kept(cache: Cache, name: str, age: float, megabytes: int = 1, kind: str = "kernel") -> Path:
    """Have another process, which has ended, leave an entry that was used ``age`` seconds ago."""
    path = cache.root / kind / name
    path.mkdir(parents=True)
    (path / "file").write_bytes(bytes(megabytes * MB))
    used = time.time() - age
    os.utime(path, (used, used))
    return path


def let_go() -> None:
    """Use nothing any more, as a process that ends."""
    while module._held:
        os.close(module._held.popitem()[1])


def small(cache: Cache, megabytes: float) -> Cache:
    return Cache(cache.root, int(megabytes * MB))


def test_of_two_threads_one_makes_it_and_the_other_waits(cache: Cache) -> None:
    both, made = Barrier(2), []

    def make(folder: Path) -> None:
        made.append(folder)

    def want(_: int) -> Path:
        both.wait()
        return cache.entry("kernel", "abc", make)

    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(want, range(2)))) == 1
    assert len(made) == 1


def test_what_was_used_longest_ago_is_removed_until_the_rest_fits(cache: Cache) -> None:
    paths = [kept(cache, name, age) for name, age in (("b", 200), ("a", 300), ("c", 100))]
    small(cache, 2.5).entry("kernel", "new", fill)
    assert names(cache.root / "kernel") == ["b", "c", "new"]
    assert not paths[1].exists()


def test_a_use_counts_and_not_the_making(cache: Cache) -> None:
    kept(cache, "a", 300)
    kept(cache, "b", 200)
    cache.entry("kernel", "a", never)
    let_go()
    small(cache, 1.5).entry("image", "new", fill)
    assert names(cache.root / "kernel") == ["a"]


def test_the_limit_is_that_of_all_kinds(cache: Cache) -> None:
    kept(cache, "a", 300, kind="booted")
    kept(cache, "b", 200, kind="ready")
    small(cache, 1.5).entry("kernel", "new", fill)
    assert names(cache.root / "booted") == []
    assert names(cache.root / "ready") == ["b"]


def test_what_was_not_used_for_long_is_removed_however_small_the_cache_is(cache: Cache) -> None:
    kept(cache, "old", UNUSED_S + 60)
    kept(cache, "young", UNUSED_S - 60)
    cache.entry("kernel", "new", fill)
    assert names(cache.root / "kernel") == ["new", "young"]


USER = """
import sys
from pathlib import Path
from kvmtest.cache import Cache

print(Cache(Path(sys.argv[1])).entry("kernel", "abc", Path.touch), flush=True)
sys.stdin.readline()
"""


def test_what_a_living_process_uses_stays(cache: Cache) -> None:
    path = kept(cache, "abc", 1000)
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(cache.root)],
        env=os.environ | {"PYTHONPATH": str(Path(kvmtest.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with user:
        assert user.stdout
        assert user.stdout.readline() == f"{path}\n"
        Cache(cache.root, 0).entry("kernel", "new", fill)
        assert path.exists()
    Cache(cache.root, 0).entry("kernel", "newer", fill)
    assert not path.exists()


def test_what_this_process_has_used_stays(cache: Cache) -> None:
    nothing = Cache(cache.root, 0)
    mine = nothing.entry("kernel", "mine", fill)
    kept(cache, "another", 1)
    nothing.entry("kernel", "new", fill)
    assert mine.exists()
    assert names(cache.root / "kernel") == ["mine", "new"]


def test_who_waited_for_an_entry_that_is_being_removed_makes_it_anew(cache: Cache) -> None:
    path = kept(cache, "abc", 0)
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    waiting = Maker(cache.root, "abc")
    if not blocked(waiting.process.pid):
        pytest.skip("/proc/locks does not list who waits")
    path.rename(path.with_name("elsewhere"))
    os.close(fd)
    with waiting.process:
        assert waiting.says() == "making"
        waiting.finish()


def test_the_folder_that_mutants_are_compiled_in_is_no_entry(cache: Cache) -> None:
    kept(cache, "tree", 2 * UNUSED_S, kind="kvm-work")
    Cache(cache.root, 0).entry("kernel", "new", fill)
    assert names(cache.root / "kvm-work") == ["tree"]


def test_no_more_than_half_of_what_the_disk_has_for_it_is_kept(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * MB))
    for name, age in (("a", 300), ("b", 200), ("c", 100)):
        kept(cache, name, age)
    cache.entry("kernel", "new", fill)
    assert names(cache.root / "kernel") == ["b", "c", "new"]


@pytest.mark.parametrize(("said", "limit"), [("", LIMIT), ("0", 0), ("2.5", 2_500_000_000)])
def test_the_limit_is_what_the_user_says(said: str, limit: int) -> None:
    assert Cache.default({"KVMTEST_CACHE": "/a", "KVMTEST_CACHE_GB": said}).limit == limit


@pytest.mark.parametrize("said", ["-1", "20G", "nan", "inf", "1e400"])
def test_a_limit_that_is_no_number_is_refused(said: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=r"KVMTEST_CACHE_GB is .* give a number"):
        Cache.default({"KVMTEST_CACHE": "/a", "KVMTEST_CACHE_GB": said})
