"""kvmtest/kernels/rpm.py: what a package says and holds, whatever its payload is packed with."""

import bz2
import gzip
import lzma
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kernel_files import cpio, read_tree, rpm
from support.packages import damaged, everything

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.rpm import Tags, tags, unpack

pytest.importorskip("rpmfile")
zstandard = pytest.importorskip("zstandard")

FILES = {"lib/modules/1/vmlinuz": b"image", "usr/share/doc/readme": b"text", "boot/empty": b""}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
    "": bytes,
}


@pytest.mark.parametrize("compressor", PACKERS)
def test_tags_and_files_come_out(tmp_path: Path, compressor: str) -> None:
    path = rpm(tmp_path / "a.rpm", FILES, requires=["kernel-common", "/bin/sh"],
               pack=PACKERS[compressor], compressor=compressor)  # fmt: skip
    assert tags(path) == Tags(
        "kernel-core", "6.12.7", "200.fc41", "x86_64", "kernel-6.12.7-200.fc41.src.rpm",
        ("kernel-common", "/bin/sh"),
    )  # fmt: skip
    unpack(path, tmp_path / "tree", everything)
    assert read_tree(tmp_path / "tree") == FILES


def test_only_what_is_wanted_comes_out(tmp_path: Path) -> None:
    path = rpm(tmp_path / "a.rpm", FILES)
    unpack(path, tmp_path / "tree", lambda name: name.parts[0] == "usr")
    assert read_tree(tmp_path / "tree") == {"usr/share/doc/readme": b"text"}


@pytest.mark.parametrize("payload", ["w2.xzdio", "w3.zstdio", "w9.gzdio", "w9.bzdio", "w.ufdio"])
def test_what_rpmbuild_makes_is_read(tmp_path: Path, payload: str) -> None:
    if not shutil.which("rpmbuild"):
        pytest.skip("no rpmbuild: install the package rpm")
    data = b"kernel" * 100_000
    (tmp_path / "vmlinuz").write_bytes(data)
    spec = tmp_path / "kernel.spec"
    spec.write_text(
        "Name: kernel-core\nVersion: 6.12.7\nRelease: 1\nSummary: s\nLicense: GPL\n"
        "Requires: kernel-modules-core-uname-r\n%description\nd\n"
        f"%install\ninstall -D {tmp_path}/vmlinuz %buildroot/lib/modules/6.12.7/vmlinuz\n"
        "ln -s vmlinuz %buildroot/lib/modules/6.12.7/link\n"
        "%files\n/lib/modules/6.12.7\n"
    )
    subprocess.run(
        ["rpmbuild", "-bb", "--quiet", "--target", "x86_64", "--define", f"_topdir {tmp_path}",
         "--define", f"_binary_payload {payload}", "--define", "__os_install_post %nil", spec],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = (tmp_path / "RPMS").rglob("*.rpm")
    found = tags(path)
    assert (str(found), found.architecture) == ("kernel-core 6.12.7-1", "x86_64")
    assert "kernel-modules-core-uname-r" in found.requires
    unpack(path, tmp_path / "tree", everything)
    assert read_tree(tmp_path / "tree") == {"lib/modules/6.12.7/vmlinuz": data}


def test_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = rpm(tmp_path / "a.rpm", {"../escaped": b"bad"})
    with pytest.raises(EnvironmentUnfit, match="a name that leads out of it"):
        unpack(path, tmp_path / "in" / "tree", everything)
    assert not (tmp_path / "in" / "escaped").exists()


def test_a_link_is_no_file(tmp_path: Path) -> None:
    path = rpm(tmp_path / "a.rpm", {}, pack=lambda _: cpio({"vmlinuz": b"/etc/passwd"}, 0o120777),
               compressor="")  # fmt: skip
    unpack(path, tmp_path / "tree", everything)
    assert not (tmp_path / "tree").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_package_that_is_cut_off_or_damaged_raises_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = rpm(tmp_path / "a.rpm", FILES)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    for read in (lambda: tags(path), lambda: unpack(path, tmp_path / "tree", everything)):
        with suppress(EnvironmentUnfit):
            read()


@pytest.mark.parametrize("lost", [1, 20, 100])
def test_a_package_that_lost_its_end_is_told_to_be_downloaded_again(
    tmp_path: Path, lost: int
) -> None:
    path = rpm(tmp_path / "a.rpm", FILES)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(EnvironmentUnfit, match=r"a\.rpm is not a complete RPM .*download it again"):
        unpack(path, tmp_path / "tree", everything)


@pytest.mark.parametrize("field", [96 + 8, 96 + 12])
def test_an_absurd_header_is_refused_before_it_is_read(tmp_path: Path, field: int) -> None:
    path = rpm(tmp_path / "a.rpm", FILES)
    content = bytearray(path.read_bytes())
    content[field : field + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(EnvironmentUnfit, match=r"a header of it has \d+ entries and \d+ MiB"):
        tags(path)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rpm(tmp_path / "a.rpm", FILES)
    monkeypatch.setitem(sys.modules, "rpmfile", None)
    with pytest.raises(EnvironmentUnfit, match=r"rpmfile.*pip install 'kvmtest\[lab\]'"):
        tags(path)
