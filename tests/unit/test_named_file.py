"""A file argument is read where it is a file with an end, and nothing else is opened."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest import named_file


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_a_file_is_read_whole_up_to_the_bound(
    tmp_path_factory: pytest.TempPathFactory, size: int, most: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "file"
    path.write_bytes(os.urandom(size))
    if size <= most:
        assert named_file.read(path, most) == path.read_bytes()
        return
    with pytest.raises(OSError, match="this has more than"):
        named_file.read(path, most)


def test_a_file_that_grows_while_it_is_read_is_bounded_too() -> None:
    # Its size is 0 to whoever asks, and it has hundreds of MiB.
    with pytest.raises(OSError, match=r"this has more than 0\.5 MiB"):
        named_file.read(Path("/proc/self/pagemap"), named_file.MIB // 2)


def test_a_file_that_tells_no_size_is_read() -> None:
    path = Path("/proc/self/cmdline")
    assert path.stat().st_size == 0
    assert named_file.read(path, 10_000) == path.read_bytes()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/tty", "/dev/kvm"])
def test_a_device_is_not_even_opened(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path(device).exists():
        pytest.skip(f"needs {device}")
    monkeypatch.setattr(os, "open", lambda *args: pytest.fail("it was opened"))
    with pytest.raises(OSError, match="this is a device, not a file"):
        named_file.read(Path(device), 10)


def test_a_fifo_that_takes_the_file_s_place_does_not_hold_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fifo"
    path.write_bytes(b"")
    file = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda self: file)
    with pytest.raises(OSError, match="this is a FIFO, not a file"):
        named_file.read(path, 10)


def test_an_error_is_the_system_s_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        named_file.read(tmp_path / "none", 10)
