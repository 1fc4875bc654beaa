"""kernels/files.py, and who reads by it: regular files, none without end, none too large."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.kernel_files import RELEASE, deb, kvm_modules, tree_files, write_tree

from kvmtest.cache import Cache
from kvmtest.cli import main
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.kernels import deb as debs
from kvmtest.kernels import files
from kvmtest.kernels.compression import Corrupt, decompress
from kvmtest.kernels.modules import ModuleFolder
from kvmtest.kernels.resolve import resolve

MIB = 1 << 20


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("reader", [files.read, files.digest])
class TestReading:
    def test_a_file_of_the_largest_size_is_read(
        self, tmp_path: Path, reader: Callable[[Path, int], object]
    ) -> None:
        assert reader(sparse(tmp_path / "file", MIB), MIB)

    def test_a_larger_one_is_not(
        self, tmp_path: Path, reader: Callable[[Path, int], object]
    ) -> None:
        with pytest.raises(EnvironmentUnfit, match="more than 1 MiB"):
            reader(sparse(tmp_path / "file", 5 * MIB), MIB)

    @pytest.mark.parametrize(
        ("make", "kind"), [(os.mkfifo, "a FIFO"), (os.mkdir, "Is a directory")]
    )
    def test_what_is_no_regular_file_is_not(
        self,
        tmp_path: Path,
        reader: Callable[[Path, int], object],
        make: Callable[[Path], None],
        kind: str,
    ) -> None:
        make(tmp_path / "it")
        with pytest.raises(EnvironmentUnfit, match=kind):
            reader(tmp_path / "it", MIB)

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
    def test_a_device_is_not(self, reader: Callable[[Path, int], object], device: str) -> None:
        with pytest.raises(EnvironmentUnfit, match=f"{device}: this is a device"):
            reader(Path(device), MIB)

    def test_what_can_not_be_opened_is_told(
        self, tmp_path: Path, reader: Callable[[Path, int], object]
    ) -> None:
        with pytest.raises(EnvironmentUnfit, match=r"can't read .*nowhere: No such file"):
            reader(tmp_path / "nowhere", MIB)


@pytest.mark.parametrize("kernel", ["/dev/zero", "/dev/null", "fifo", "fifo.deb"])
def test_no_kernel_is_read_from_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fifo", "fifo.deb"):
        os.mkfifo(name)
    with pytest.raises(KvmtestError) as caught:
        resolve(kernel, None, Cache(tmp_path), print)
    assert "a device" in str(caught.value) or "a FIFO" in str(caught.value)


@pytest.mark.parametrize("modules", ["/dev/zero", "fifo", "file"])
def test_no_modules_are_read_from_what_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("file").touch()
    tree = write_tree(tmp_path / "tree", tree_files())
    with pytest.raises(KvmtestError, match="is not a folder"):
        resolve(str(tree), Path(modules), Cache(tmp_path), print)


def test_a_fifo_or_a_device_by_the_name_of_a_module_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, kvm_modules())
    kvm = root / "kernel/arch/x86/kvm/kvm.ko"
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        kvm.unlink()
        make(kvm)
        with pytest.raises(EnvironmentUnfit, match="not a file"):
            ModuleFolder(root, RELEASE).load_order("kvm")


def test_a_module_and_an_image_that_are_too_large_are_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", tree_files())
    sparse(tree / f"lib/modules/{RELEASE}/kernel/arch/x86/kvm/kvm.ko", files.MODULE + MIB)
    with pytest.raises(EnvironmentUnfit, match=r"kvm\.ko: this has more than 256 MiB"):
        resolve(str(tree), None, Cache(tmp_path), print)
    sparse(tree / f"boot/vmlinuz-{RELEASE}", files.IMAGE + MIB)
    with pytest.raises(EnvironmentUnfit, match="more than 1024 MiB"):
        resolve(str(tree), None, Cache(tmp_path), print)


def test_a_package_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.deb", files.PACKAGE + MIB)
    with pytest.raises(EnvironmentUnfit, match="more than 4096 MiB"):
        debs.control(path)


def test_a_file_in_a_package_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("debian")
    path = deb(tmp_path / "a.deb", {"boot/vmlinuz": bytes(2 * MIB)})
    monkeypatch.setattr(files, "IMAGE", MIB)
    with pytest.raises(EnvironmentUnfit, match="boot/vmlinuz in it has 2 MiB"):
        debs.unpack(path, tmp_path / "out", lambda _: True)


def packers() -> dict[str, Callable[[bytes], bytes]]:
    import bz2
    import lzma

    made: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
        "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    }  # fmt: skip
    try:
        import lz4.block
        import zstandard
    except ImportError:
        return made
    made["zstd"] = zstandard.ZstdCompressor().compress
    made["zstd without size"] = lambda data: (
        (stream := zstandard.ZstdCompressor(write_content_size=False).compressobj()).compress(data)
        + stream.flush()
    )
    made["lz4"] = lambda data: (
        b"\x02\x21\x4c\x18"
        + len(block := lz4.block.compress(data, store_size=False)).to_bytes(4, "little")
        + block
        + len(data).to_bytes(4, "little")
    )
    return made


@pytest.mark.parametrize("pack", packers().values(), ids=packers())
def test_what_would_become_too_large_is_not_decompressed(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(4 * MIB))
    assert len(packed) < MIB
    assert decompress(packed, 4 * MIB) == bytes(4 * MIB)
    with pytest.raises(Corrupt, match="it holds more than 3 MiB"):
        decompress(packed, 3 * MIB)


@pytest.mark.parametrize("words", [["--kernel", "/dev/zero"], ["--kernel", "/dev/full"]])
def test_the_command_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("kvmtest.lab.target.MACHINES", {"intel": lambda _: _Found()})
    assert main(["lab", "run", *words]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "this is a device" in line


class _Found:
    """An emulator that is there."""

    cpus = 1
    modules = ("kvm_intel",)

    def check(self, hardware: object) -> None:
        """Take any hardware."""
