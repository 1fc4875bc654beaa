"""kvmtest/kernels/unpacking.py: what every package format has in common."""

import errno
import io
from pathlib import Path, PurePosixPath

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import unpacking


def test_a_damaged_package_is_told_in_one_line_with_what_to_do() -> None:
    with (
        pytest.raises(
            EnvironmentUnfit,
            match=r"^a\.rpm is not a complete RPM package \(two lines\); download it again$",
        ),
        unpacking.reading(Path("a.rpm"), "RPM package"),
    ):
        raise ValueError("two\nlines")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), EnvironmentUnfit("no zstd")])
def test_what_is_not_the_package_s_fault_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, unpacking.reading(Path("a"), "package"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        unpacking.inner_name(name)
    assert unpacking.inner_name("./boot/vmlinuz") == PurePosixPath("boot/vmlinuz")


def test_a_file_that_is_cut_off_or_beyond_any_kernel_s_is_refused(tmp_path: Path) -> None:
    name = PurePosixPath("a/b")
    unpacking.place(io.BytesIO(b"1234"), 4, tmp_path, name, executable=True)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o755
    with pytest.raises(ValueError, match="a/b in it is cut off"):
        unpacking.place(io.BytesIO(b"123"), 4, tmp_path, name, executable=False)
    with pytest.raises(ValueError, match="a/b in it has 2048 MiB"):
        unpacking.place(io.BytesIO(b""), 2 << 30, tmp_path, name, executable=False)
