"""kvmtest/kernels/deb.py: what a package says and holds, whatever it is packed with."""

import gzip
import lzma
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kernel_files import deb, read_tree
from support.packages import damaged, everything

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.deb import Control, control, unpack

pytest.importorskip("debian")
zstandard = pytest.importorskip("zstandard")

FILES = {"boot/vmlinuz-1": b"image", "usr/share/doc/readme": b"text", "boot/empty": b""}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_content_size=False).compress,
    "": lambda data: data,
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_control_and_files_come_out(tmp_path: Path, suffix: str) -> None:
    path = deb(tmp_path / "a.deb", FILES, package="linux-image-1", version="1-2",
               pack=PACKERS[suffix], suffix=suffix)  # fmt: skip
    assert control(path) == Control("linux-image-1", "1-2", "amd64")
    unpack(path, tmp_path / "tree", everything)
    assert read_tree(tmp_path / "tree") == FILES


def test_only_what_is_wanted_comes_out(tmp_path: Path) -> None:
    path = deb(tmp_path / "a.deb", FILES)
    unpack(path, tmp_path / "tree", lambda name: name.parts[0] == "usr")
    assert read_tree(tmp_path / "tree") == {"usr/share/doc/readme": b"text"}


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "boot/../../escaped"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = deb(tmp_path / "a.deb", {name: b"bad"} if name[0] != "/" else {f"/{name}": b"bad"})
    folder = tmp_path / "in" / "tree"
    folder.mkdir(parents=True)
    if name.startswith("/"):
        unpack(path, folder, everything)
        assert read_tree(tmp_path / "in") == {"tree/escaped": b"bad"}
    else:
        with pytest.raises(EnvironmentUnfit, match="a name that leads out of it"):
            unpack(path, folder, everything)
        assert read_tree(tmp_path / "in") == {}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({f"boot/{'a' * 300}": b""}, "File name too long"),
        ({"boot": b"", "boot/vmlinuz": b""}, "File exists"),
        ({"boot/vmlinuz": b"", "boot": b""}, "Is a directory"),
        ({"a": b"", "a/b/c": b""}, "Not a directory"),
    ],
)
def test_names_that_can_not_be_made_are_the_package_s_fault(
    tmp_path: Path, files: dict[str, bytes], why: str
) -> None:
    package = deb(tmp_path / "a.deb", files)
    with pytest.raises(EnvironmentUnfit, match=rf"^{package} is not a complete .* \({why}\)"):
        unpack(package, tmp_path / "into", everything)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_package_that_is_cut_off_or_damaged_is_told_in_one_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = deb(tmp_path / "a.deb", FILES)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    for read in (lambda: control(path), lambda: unpack(path, tmp_path / "tree", everything)):
        try:
            read()
        except EnvironmentUnfit as caught:
            error = caught
        else:
            continue
        assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("lost", [2, 3, 100])
def test_a_package_that_lost_its_end_is_told_to_be_downloaded_again(
    tmp_path: Path, suffix: str, lost: int
) -> None:
    path = deb(tmp_path / "a.deb", FILES, pack=PACKERS[suffix], suffix=suffix)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(
        EnvironmentUnfit, match=r"a\.deb is not a complete .*cut off.*download it again"
    ):
        unpack(path, tmp_path / "tree", everything)


@pytest.mark.parametrize("size", ["-61", "-60", "-0", "+4", "1_0", "4.", "", "٣"])
def test_a_part_whose_size_is_none_is_told_and_not_gone_back_by(tmp_path: Path, size: str) -> None:
    path = deb(tmp_path / "a.deb", FILES)
    data = bytearray(path.read_bytes())
    field = data.index(b"control.tar") + 48
    data[field : field + 10] = size.encode().ljust(10)
    path.write_bytes(data)
    with pytest.raises(
        EnvironmentUnfit, match=r"not a complete Debian package \(a part of it has no"
    ):
        control(path)


def test_a_size_beyond_any_package_s_is_refused_and_not_gone_forward_by(tmp_path: Path) -> None:
    member = tarfile.TarInfo("./large")
    member.size = (4 << 30) + 1
    header = member.tobuf(tarfile.GNU_FORMAT)
    path = deb(tmp_path / "a.deb", FILES, pack=lambda tar: header, suffix="")
    with pytest.raises(EnvironmentUnfit, match="large in it has 4096 MiB"):
        unpack(path, tmp_path / "tree", lambda name: False)


def test_a_package_of_countless_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(b"!<arch>\n" + b"%-48s0         `\n" % b"x" * 200)
    with pytest.raises(EnvironmentUnfit, match="more than 100 parts"):
        control(path)


def test_the_checksum_at_the_end_of_the_stream_is_checked(tmp_path: Path) -> None:
    # Behind the archive's end there is more than is read along with it.
    path = deb(tmp_path / "a.deb", FILES, pack=lambda tar: lzma.compress(tar + os.urandom(1 << 20)))
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    with pytest.raises(EnvironmentUnfit, match=r"a\.deb is not a complete Debian package"):
        unpack(path, tmp_path / "tree", everything)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deb(tmp_path / "a.deb", FILES)
    monkeypatch.setitem(sys.modules, "debian.arfile", None)
    with pytest.raises(EnvironmentUnfit, match=r"python-debian.*pip install 'kvmtest\[lab\]'"):
        unpack(path, tmp_path / "tree", everything)


def test_a_control_file_that_is_no_utf_8_is_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = deb(
        tmp_path / "a.deb",
        FILES,
        package="linux-image-1\nMaintainer: M?ller",
        pack=lambda data: data.replace(b"M?ller", b"M\xfcller"),
        suffix="",
    )
    assert control(package).package == "linux-image-1"
    assert caplog.records == []
