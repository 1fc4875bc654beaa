"""kvmtest/disk.py: files and folders reach the disk, and a failure to is told."""

import errno
import os
from pathlib import Path

import psutil
import pytest

from kvmtest.disk import sync


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that fsync(2) was asked for, while their descriptors were open."""
    paths: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: paths.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    return paths


@pytest.mark.parametrize("name", ["", "file"])
def test_a_file_or_a_folder_is_written_and_closed(
    name: str, tmp_path: Path, synced: list[str]
) -> None:
    (tmp_path / "file").write_text("text")
    before = psutil.Process().num_fds()
    sync(tmp_path / name)
    assert synced == [str(tmp_path / name)]
    assert psutil.Process().num_fds() == before


def test_a_disk_that_fails_is_told_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)
    assert psutil.Process().num_fds() == before
