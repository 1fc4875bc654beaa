"""kernels/overlay.py: modules that were built alone come in place of the kernel's own."""

import lzma
import shutil
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest
from support.kernel_files import (
    RELEASE,
    bzimage,
    elf,
    kvm_modules,
    module,
    tree_files,
    vmlinux,
    write_tree,
)

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels.elf import section
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.modules import DEPENDENCIES
from kvmtest.kernels.overlay import Overlay
from kvmtest.kernels.resolve import resolve

zstandard = pytest.importorskip("zstandard")

KVM, INTEL = "kvm.ko", "kvm-intel.ko"
BUILT = {
    KVM: module("kvm", "irqbypass", body=b"changed"),
    INTEL: module("kvm_intel", "kvm", body=b"changed"),
}
FOLDER = f"lib/modules/{RELEASE}"


def kernel_of(root: Path, files: Mapping[str, bytes], needed: str = "kvm_intel") -> BootableKernel:
    tree = write_tree(root / "tree", files)
    return resolve(str(tree), None, Cache(root / "cache"), print, needed=(needed, "msr"))


@pytest.fixture
def kernel(tmp_path: Path) -> BootableKernel:
    return kernel_of(tmp_path, tree_files())


def over(folder: Path, kernel: BootableKernel, vendor: str = "kvm_intel") -> Overlay:
    return Overlay.of(folder, kernel, vendor)


def signed(data: bytes) -> bytes:
    info = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 6)
    return data + b"signed" + info + b"~Module signature appended~\n"


def refusal(folder: Path, kernel: BootableKernel, vendor: str = "kvm_intel") -> str:
    with pytest.raises((UsageError, EnvironmentUnfit)) as caught:
        over(folder, kernel, vendor)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestWhatIsLoaded:
    def test_both_modules_come_in_place_of_both(
        self, tmp_path: Path, kernel: BootableKernel
    ) -> None:
        overlay = over(write_tree(tmp_path / "built", BUILT), kernel)
        assert {name: overlay.files[name] for name in (KVM, INTEL)} == BUILT
        assert overlay.commands(["nested=1"]) == [
            ["rmmod", "kvm_intel"],
            ["rmmod", "kvm"],
            ["cp", KVM, INTEL, DEPENDENCIES, f"/lib/modules/{RELEASE}/"],
            ["modprobe", "kvm_intel", "nested=1"],
        ]

    @pytest.mark.parametrize(
        ("name", "removed"), [(KVM, ["kvm_intel", "kvm"]), (INTEL, ["kvm_intel"])]
    )
    def test_one_comes_alone_and_the_kernel_s_other_is_loaded_with_it(
        self, tmp_path: Path, kernel: BootableKernel, name: str, removed: list[str]
    ) -> None:
        overlay = over(write_tree(tmp_path / "built", {name: BUILT[name]}), kernel)
        assert set(overlay.files) == {name, DEPENDENCIES}
        assert overlay.commands()[: len(removed)] == [["rmmod", each] for each in removed]
        assert overlay.commands()[len(removed)][0] == "cp"

    def test_what_lies_beside_them_is_left_alone(
        self, tmp_path: Path, kernel: BootableKernel
    ) -> None:
        others = {
            "kvm-amd.ko": module("kvm_amd", "kvm", "ccp"),
            "kvm.o": b"\x7fELF", "vmx/vmx.o": b"", ".kvm.ko.cmd": b"", "modules.order": b"",
            "kvm-intel.mod": b"", "sub/other.ko": module("other", release="6.1.0"),
        }  # fmt: skip
        folder = write_tree(tmp_path / "arch/x86/kvm", {**BUILT, **others})
        assert set(over(folder, kernel).files) == {KVM, INTEL, DEPENDENCIES}

    def test_the_amd_machine_takes_the_other_vendor_s(self, tmp_path: Path) -> None:
        place = f"{FOLDER}/kernel/drivers"
        amd = {
            f"{place}/kvm-amd.ko": module("kvm_amd", "kvm", "ccp"),
            f"{place}/ccp.ko": module("ccp"),
        }
        kernel = kernel_of(tmp_path, tree_files() | amd, "kvm_amd")
        built = {**BUILT, "kvm-amd.ko": module("kvm_amd", "kvm", "ccp", body=b"changed")}
        overlay = over(write_tree(tmp_path / "built", built), kernel, "kvm_amd")
        assert set(overlay.files) == {KVM, "kvm-amd.ko", DEPENDENCIES}
        assert overlay.commands()[-1] == ["modprobe", "kvm_amd"]
        alone = {"kvm-intel.ko": BUILT[INTEL]}
        said = refusal(write_tree(tmp_path / "intel", alone), kernel, "kvm_amd")
        assert "loads kvm-amd.ko, ccp.ko, kvm.ko, irqbypass.ko, and there is kvm-intel.ko" in said

    def test_a_module_that_others_need_takes_them_out_of_the_kernel_too(
        self, tmp_path: Path, kernel: BootableKernel
    ) -> None:
        built = {"irqbypass.ko": module("irqbypass", body=b"changed")}
        overlay = over(write_tree(tmp_path / "built", built), kernel)
        assert overlay.removed == ("kvm_intel", "kvm", "irqbypass")
        assert set(overlay.files) == {"irqbypass.ko", DEPENDENCIES}

    def test_modprobe_is_told_of_what_the_new_ones_need(
        self, tmp_path: Path, kernel: BootableKernel
    ) -> None:
        built = {KVM: module("kvm", "kvm_part"), "kvm-part.ko": module("kvm_part")}
        overlay = over(write_tree(tmp_path / "built", built), kernel)
        assert set(overlay.files) == {KVM, "kvm-part.ko", DEPENDENCIES}
        lines = overlay.files[DEPENDENCIES].decode().splitlines()
        assert "kvm-intel.ko: kvm.ko kvm-part.ko" in lines
        assert "msr.ko:" in lines
        assert overlay.removed == ("kvm_intel", "kvm")

    def test_what_the_kernel_has_and_its_own_modules_did_without_comes_too(
        self, tmp_path: Path
    ) -> None:
        files = tree_files() | {f"{FOLDER}/kernel/lib/part.ko": module("part", body=b"own")}
        kernel = kernel_of(tmp_path, files)
        overlay = over(write_tree(tmp_path / "built", {KVM: module("kvm", "part")}), kernel)
        assert overlay.files["part.ko"] == files[f"{FOLDER}/kernel/lib/part.ko"]
        assert list(overlay.digests) == [KVM]

    def test_a_signature_stays_outside(self, tmp_path: Path, kernel: BootableKernel) -> None:
        overlay = over(write_tree(tmp_path / "built", {INTEL: signed(BUILT[INTEL])}), kernel)
        assert overlay.files[INTEL] == BUILT[INTEL]
        digest = sha256(signed(BUILT[INTEL])).hexdigest()
        assert overlay.digests == {INTEL: digest}, "of the file as it is"

    @pytest.mark.parametrize(
        ("suffix", "pack"),
        [(".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress)],
    )
    def test_compressed_ones_come_as_the_kernel_loads_them(
        self, tmp_path: Path, kernel: BootableKernel, suffix: str, pack: object
    ) -> None:
        assert callable(pack)
        packed = {f"{name}{suffix}": pack(data) for name, data in BUILT.items()}
        overlay = over(write_tree(tmp_path / "built", packed), kernel)
        assert {name: overlay.files[name] for name in (KVM, INTEL)} == BUILT

    def test_links_lead_to_them(self, tmp_path: Path, kernel: BootableKernel) -> None:
        real = write_tree(tmp_path / "real", BUILT)
        links = tmp_path / "links"
        links.mkdir()
        for name in BUILT:
            (links / name).symlink_to(real / name)
        (tmp_path / "built").symlink_to(links)
        assert set(over(tmp_path / "built", kernel).files) == {KVM, INTEL, DEPENDENCIES}

    def test_the_release_s_own_folder_is_taken_where_there_is_one(
        self, tmp_path: Path, kernel: BootableKernel
    ) -> None:
        files = {f"{FOLDER}/updates/{name}": data for name, data in BUILT.items()}
        others = {
            "lib/modules/6.1.0/kvm.ko": module("kvm", release="6.1.0"),
            "backup/kvm.ko": module("kvm", "irqbypass", body=b"older"),
        }
        folder = write_tree(tmp_path / "installed", files | others)
        assert set(over(folder, kernel).files) == {KVM, INTEL, DEPENDENCIES}

    def test_debug_info_stays_outside(self, tmp_path: Path, kernel: BootableKernel) -> None:
        if not shutil.which("strip"):
            pytest.skip("needs strip, of binutils")
        modinfo = section(BUILT[INTEL], ".modinfo")
        large = elf({".modinfo": modinfo, ".BTF": b"types", ".debug_info": bytes(1 << 20)})
        overlay = over(write_tree(tmp_path / "built", {INTEL: signed(large)}), kernel)
        data = overlay.files[INTEL]
        assert len(data) < 10_000
        assert section(data, ".modinfo") == modinfo
        assert section(data, ".BTF") == b"types"


class TestWhatIsRefused:
    def test_modules_of_another_kernel(self, tmp_path: Path, kernel: BootableKernel) -> None:
        built = {INTEL: module("kvm_intel", "kvm", release="6.12.8")}
        said = refusal(write_tree(tmp_path / "built", built), kernel)
        assert f"no matching modules for kernel {RELEASE}" in said
        assert "kvm_intel is built for 6.12.8" in said

    def test_modules_of_another_configuration(self, tmp_path: Path, kernel: BootableKernel) -> None:
        other = BUILT[INTEL].replace(b"SMP mod_unload", b"SMP preempt   ")
        said = refusal(write_tree(tmp_path / "built", {INTEL: other}), kernel)
        assert f'built for "{RELEASE} SMP preempt"' in said
        assert f'the kernel is "{RELEASE} SMP mod_unload"' in said

    def test_modules_of_another_architecture(self, tmp_path: Path, kernel: BootableKernel) -> None:
        modinfo = section(BUILT[KVM], ".modinfo")
        built = {KVM: elf({".modinfo": modinfo}, machine=183)}
        assert "built for arm64" in refusal(write_tree(tmp_path / "built", built), kernel)

    def test_a_folder_without_a_module_of_use(self, tmp_path: Path, kernel: BootableKernel) -> None:
        folder = write_tree(tmp_path / "built", {"nvme.ko": module("nvme")})
        assert "and there is nvme.ko" in refusal(folder, kernel)

    def test_two_different_ones_of_a_name(self, tmp_path: Path, kernel: BootableKernel) -> None:
        both = {KVM: BUILT[KVM], "old/kvm.ko": module("kvm", "irqbypass")}
        assert "more than one kvm" in refusal(write_tree(tmp_path / "built", both), kernel)

    def test_a_kernel_with_kvm_built_in(self, tmp_path: Path) -> None:
        files = tree_files()
        for name in ("kvm", "kvm-intel"):
            del files[f"{FOLDER}/kernel/arch/x86/kvm/{name}.ko"]
        files[f"{FOLDER}/modules.builtin"] = (
            b"kernel/arch/x86/kvm/kvm.ko\nkernel/arch/x86/kvm/kvm-intel.ko\n"
        )
        kernel = kernel_of(tmp_path, files)
        said = refusal(write_tree(tmp_path / "built", BUILT), kernel)
        assert f"kvm_intel is built into kernel {RELEASE}" in said

    @pytest.mark.parametrize("content", [b"", b"\x7fELF", b"hello", BUILT[KVM][:100]])
    def test_a_damaged_one(self, tmp_path: Path, kernel: BootableKernel, content: bytes) -> None:
        assert "kvm.ko can't be taken" in refusal(
            write_tree(tmp_path / "built", {KVM: content}), kernel
        )

    def test_a_link_that_leads_nowhere(self, tmp_path: Path, kernel: BootableKernel) -> None:
        (tmp_path / "built").mkdir()
        (tmp_path / "built" / KVM).symlink_to("gone.ko")
        assert "kvm.ko: No such file" in refusal(tmp_path / "built", kernel)


class TestWhichFolderIsWhich:
    """What --modules names is laid over the kernel's own, or takes the place of all of them."""

    def take(self, tmp_path: Path, modules: Mapping[str, bytes]) -> BootableKernel:
        tree = write_tree(tmp_path / "tree", tree_files())
        folder = write_tree(tmp_path / "modules", modules)
        return resolve(str(tree), folder, Cache(tmp_path / "cache"), print)

    @pytest.mark.parametrize("names", [[KVM], [INTEL], [KVM, INTEL]])
    def test_some_of_kvm_s_are_laid_over(self, tmp_path: Path, names: list[str]) -> None:
        kernel = self.take(tmp_path, {name: BUILT[name] for name in names})
        assert kernel.over == tmp_path / "modules"
        assert kernel.modules == tmp_path / "tree" / FOLDER

    def test_all_that_are_needed_take_their_place(self, tmp_path: Path) -> None:
        kernel = self.take(tmp_path, kvm_modules())
        assert kernel.over is None
        assert kernel.modules == tmp_path / "modules"

    def test_one_that_has_others_alone_is_laid_over_and_then_refused(self, tmp_path: Path) -> None:
        kernel = self.take(tmp_path, {"nvme.ko": module("nvme")})
        assert kernel.over
        assert "nothing to lay over" in refusal(kernel.over, kernel)

    def test_one_that_has_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentUnfit, match=r"there is no \.ko file below it"):
            self.take(tmp_path, {"kvm.o": b""})

    def test_with_an_image_alone_they_must_be_all(self, tmp_path: Path) -> None:
        write_tree(tmp_path, {"bzImage": bzimage(vmlinux())})
        folder = write_tree(tmp_path / "modules", BUILT)
        with pytest.raises(EnvironmentUnfit, match="lacks irqbypass"):
            resolve(str(tmp_path / "bzImage"), folder, Cache(tmp_path / "cache"), print)
