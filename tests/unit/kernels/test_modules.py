"""kvmtest/kernels/modules.py: which modules there are, for which kernel, and what to load first."""

import gzip
import lzma
import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kernel_files import RELEASE, elf, kvm_modules, module, write_tree

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.elf import ElfError
from kvmtest.kernels.modules import (
    Module,
    ModuleFolder,
    NoSuchModule,
    module_name,
    parse_modinfo,
    parse_module,
)

zstandard = pytest.importorskip("zstandard")

KVM = "kernel/arch/x86/kvm"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / RELEASE, kvm_modules())


def loaded(root: Path, *names: str) -> list[str]:
    return [module.name for module in ModuleFolder(root, RELEASE).load_order(*names)]


def test_each_module_comes_after_those_it_depends_on(root: Path) -> None:
    assert loaded(root, "kvm_intel") == ["irqbypass", "kvm", "kvm_intel"]


def test_a_module_is_loaded_once_for_all_that_need_it(root: Path) -> None:
    assert loaded(root, "kvm", "kvm_intel", "irqbypass", "msr") == [
        "irqbypass", "kvm", "kvm_intel", "msr"
    ]  # fmt: skip


def test_dash_and_underscore_are_one(root: Path) -> None:
    assert loaded(root, "kvm-intel") == loaded(root, "kvm_intel")


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".xz", lzma.compress),
        (".gz", gzip.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_a_compressed_module_comes_out_as_elf(root: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    path = root / KVM / "kvm.ko"
    data = path.read_bytes()
    path.with_name(f"kvm.ko{suffix}").write_bytes(pack(data))
    path.unlink()
    _, kvm = ModuleFolder(root, RELEASE).load_order("kvm")
    assert kvm == Module("kvm", data, ("irqbypass",))


def test_what_is_built_in_is_not_loaded(root: Path) -> None:
    (root / "kernel/virt/lib/irqbypass.ko").unlink()
    (root / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/virt/lib/irqbypass.ko\n")
    assert loaded(root, "kvm_intel") == ["kvm", "kvm_intel"]


def test_a_kernel_with_all_of_kvm_built_in_needs_no_files(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text(f"{KVM}/kvm.ko\n{KVM}/kvm-intel.ko\n")
    assert loaded(tmp_path, "kvm_intel") == []


@pytest.mark.parametrize("folder", ["other", "6.1.0-other", "a/b/lib/modules/6.99"])
def test_what_another_kernel_has_built_in_is_not_built_into_this_one(
    root: Path, folder: str
) -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "modules.builtin").write_text(f"{KVM}/kvm.ko\n{KVM}/kvm-intel.ko\n")
    assert loaded(root, "kvm_intel") == ["irqbypass", "kvm", "kvm_intel"]


def test_a_folder_of_several_kernels_has_this_one_s_built_in(tmp_path: Path) -> None:
    for release, builtin in {RELEASE: "kvm-intel", "6.1.0-other": "kvm"}.items():
        (tmp_path / release).mkdir()
        (tmp_path / release / "modules.builtin").write_text(f"{KVM}/{builtin}.ko\n")
    assert ModuleFolder(tmp_path, RELEASE).builtin == {"kvm_intel"}


def test_a_kernel_without_kvm_intel_lacks_it_in_one_line(root: Path) -> None:
    (root / KVM / "kvm-intel.ko").unlink()
    with pytest.raises(
        NoSuchModule, match=f"lacks kvm_intel.*below {re.escape(str(root))}"
    ) as caught:
        loaded(root, "kvm_intel")
    assert caught.value.name == "kvm_intel"
    assert caught.value.exit_status == 3


def test_a_missing_dependency_is_named(root: Path) -> None:
    (root / "kernel/virt/lib/irqbypass.ko").unlink()
    with pytest.raises(NoSuchModule, match="lacks irqbypass"):
        loaded(root, "kvm_intel")


def test_modules_of_another_kernel_do_not_match(tmp_path: Path) -> None:
    write_tree(tmp_path, kvm_modules("6.1.0-1-amd64"))
    with pytest.raises(
        NoSuchModule, match=r"no matching modules for kernel 6\.12.*built for 6\.1\.0-1-amd64;"
    ):
        loaded(tmp_path, "kvm")


def test_a_folder_without_modules_has_none_that_match(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModule, match=r"no matching modules .*no \.ko file"):
        loaded(tmp_path, "kvm")


def test_among_several_kernels_modules_those_of_this_one_are_taken(tmp_path: Path) -> None:
    write_tree(tmp_path / "another", kvm_modules("6.1.0-1-amd64"))
    write_tree(tmp_path / RELEASE, kvm_modules())
    assert all(
        RELEASE.encode() in module.data
        for module in ModuleFolder(tmp_path, RELEASE).load_order("kvm_intel")
    )


def test_two_different_modules_of_one_name_are_not_chosen_between(root: Path) -> None:
    write_tree(root, {"updates/kvm.ko": module("kvm", "irqbypass", body=b"another")})
    with pytest.raises(EnvironmentUnfit, match=r"more than one kvm .*updates/kvm\.ko"):
        loaded(root, "kvm")


def test_two_copies_of_one_module_are_one(root: Path) -> None:
    write_tree(root, {"copy/kvm.ko.xz": lzma.compress((root / KVM / "kvm.ko").read_bytes())})
    assert loaded(root, "kvm") == ["irqbypass", "kvm"]


def test_modules_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.ko": module("a", "b"), "b.ko": module("b", "a")})
    with pytest.raises(EnvironmentUnfit, match=r"a, b in .* depend on each other"):
        loaded(tmp_path, "a")


def test_a_module_without_vermagic_is_no_match(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.ko": elf({".modinfo": b"depends=\0"})})
    with pytest.raises(EnvironmentUnfit, match="it has no vermagic"):
        loaded(tmp_path, "a")


@given(st.data())
def test_a_module_that_is_cut_off_or_damaged_is_told_in_one_line(data: st.DataObject) -> None:
    whole = module("a", body=b"code")
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
        content[at : at + 1] = data.draw(st.binary(max_size=1))
    try:
        parse_module("a", bytes(content))
    except EnvironmentUnfit as caught:
        error = caught
    else:
        return
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/arch/x86/kvm/kvm-intel.ko", "kvm_intel"),
        ("kvm.ko.xz", "kvm"),
        ("a/b.ko.zst", "b"),
        ("a/b.ko.gz", "b"),
        ("kvm.ko.debug", None),
        ("kvm.kobold", None),
        ("kvm.o", None),
        ("modules.order", None),
        ("", None),
    ],
)
def test_a_module_is_told_by_its_name(path: str, name: str | None) -> None:
    assert module_name(path) == name


@given(st.binary())
def test_any_modinfo_is_parsed(modinfo: bytes) -> None:
    assert all("=" not in key for key in parse_modinfo(modinfo))


def test_the_first_of_two_values_counts() -> None:
    assert parse_modinfo(b"a=1\0b\0a=2\0c=x=y\0") == {"a": "1", "c": "x=y"}


@pytest.mark.parametrize("body", [b"", b"\x7fELF and so on"])
def test_a_signature_is_cut_off_where_there_is_one(body: bytes) -> None:
    signature = b"signed"
    info = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(signature))
    signed = body + signature + info + b"~Module signature appended~\n"
    assert Module("kvm", signed).unsigned == body
    assert Module("kvm", body).unsigned == body


@pytest.mark.parametrize("ahead", [b"", b"\0\0", b"ELF" + bytes(8) + (1 << 30).to_bytes(4, "big")])
def test_what_is_no_whole_signature_is_left_to_the_kernel(ahead: bytes) -> None:
    file = ahead + b"~Module signature appended~\n"
    assert Module("kvm", file).unsigned == file


def test_a_compressed_section_is_refused_whatever_would_come_out() -> None:
    bomb = zlib.compress(bytes(100 << 20), 9)
    file = bytearray(elf({".modinfo": struct.pack("<IIQQ", 1, 0, 100 << 20, 1) + bomb}))
    (headers,) = struct.unpack_from("<Q", file, 40)
    for number in range(3):
        struct.pack_into("<Q", file, headers + 64 * number + 8, 0x800)  # SHF_COMPRESSED
    with pytest.raises(ElfError, match=r"section \.modinfo is compressed"):
        parse_module("kvm", bytes(file))
