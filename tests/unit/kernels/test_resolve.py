"""kvmtest/kernels/resolve.py: --kernel gives the same kernel in any form, or says why not."""

import gzip
import lzma
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from support.kernel_files import (
    BANNER,
    RELEASE,
    bzimage,
    deb,
    elf,
    kvm_modules,
    module,
    tree_files,
    vmlinux,
    write_tree,
)

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.resolve import resolve

pytest.importorskip("debian")

ANOTHER = "6.1.0-1-amd64"
NAMES = ["irqbypass", "kvm", "kvm_intel", "msr"]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def told() -> list[str]:
    return []


def take(
    cache: Cache, spec: Path | str, modules: Path | None = None, told: list[str] | None = None
) -> BootableKernel:
    return resolve(str(spec), modules, cache, (told if told is not None else []).append)


def names(kernel: BootableKernel) -> list[str]:
    return [module.name for module in kernel.load_order("kvm_intel", "msr")]


def split_packages(folder: Path) -> dict[str, Path]:
    """The three packages that late kernels come in."""
    files = tree_files(modules="usr/lib/modules")
    image = files.pop(f"boot/vmlinuz-{RELEASE}")
    builtin = f"usr/lib/modules/{RELEASE}/modules.builtin"
    parts = {
        "image": {},
        "binary": {f"usr/lib/modules/{RELEASE}/vmlinuz": image},
        "base": {builtin: files.pop(builtin)},
        "modules": files,
    }
    return {
        kind: deb(
            folder / f"linux-{kind}-{RELEASE}_6.12.7-1_amd64.deb",
            contents,
            package=f"linux-{kind}-{RELEASE}",
        )
        for kind, contents in parts.items()
    }


def build_tree(root: Path, release: str = RELEASE) -> Path:
    return write_tree(
        root,
        {
            "arch/x86/boot/bzImage": bzimage(vmlinux()),
            "include/config/kernel.release": f"{release}\n".encode(),
            "modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
            "arch/x86/kvm/kvm.ko": module("kvm", "irqbypass"),
            "arch/x86/kvm/kvm-intel.ko": module("kvm_intel", "kvm"),
            "arch/x86/kernel/msr.ko": module("msr"),
            "virt/lib/irqbypass.ko": module("irqbypass"),
        },
    )


class TestPackage:
    def test_it_is_unpacked_and_named(self, cache: Cache, tmp_path: Path) -> None:
        kernel = take(cache, deb(tmp_path / "any-name.deb", tree_files()))
        assert kernel.release == RELEASE
        assert kernel.version == "6.12.7"
        assert kernel.banner == BANNER
        assert kernel.date == "2026-01-02"
        assert kernel.debian_version == "6.12.7-1"
        assert kernel.origin == f"the Debian package linux-image-{RELEASE} 6.12.7-1"
        assert kernel.image.read_bytes() == bzimage(vmlinux())
        assert names(kernel) == NAMES

    def test_it_is_unpacked_once(self, cache: Cache, tmp_path: Path, told: list[str]) -> None:
        path = deb(tmp_path / "a.deb", tree_files())
        first = take(cache, path, told=told)
        assert told == ["unpacking a.deb"]
        assert take(cache, shutil.copy(path, tmp_path / "b.deb"), told=told).image == first.image
        assert told == ["unpacking a.deb"]

    def test_only_what_the_lab_needs_is_kept(self, cache: Cache, tmp_path: Path) -> None:
        extra = {f"lib/modules/{RELEASE}/kernel/other.ko": module("other"), "usr/share/doc/x": b""}
        kernel = take(cache, deb(tmp_path / "a.deb", {**tree_files(), **extra}))
        kept = {path.name for path in cache.root.rglob("*") if path.is_file()}
        assert kept == {
            f"vmlinuz-{RELEASE}", "modules.builtin", "kvm.ko", "kvm-intel.ko", "irqbypass.ko",
            "msr.ko",
        }  # fmt: skip
        with pytest.raises(EnvironmentUnfit, match="lacks other"):
            kernel.load_order("other")

    def test_what_its_kvm_depends_on_besides_is_kept_too(
        self, cache: Cache, tmp_path: Path
    ) -> None:
        folder = f"lib/modules/{RELEASE}/kernel"
        files = tree_files() | {
            f"{folder}/virt/lib/irqbypass.ko": module("irqbypass", "deep"),
            f"{folder}/deep.ko": module("deep", "deeper"),
            f"{folder}/deeper.ko": module("deeper"),
        }
        kernel = take(cache, deb(tmp_path / "a.deb", files))
        assert names(kernel) == ["deeper", "deep", *NAMES]

    @pytest.mark.parametrize("kind", ["image", "binary", "modules"])
    def test_the_parts_of_a_split_one_are_found_beside_it(
        self, cache: Cache, tmp_path: Path, kind: str
    ) -> None:
        kernel = take(cache, split_packages(tmp_path)[kind])
        assert names(kernel) == NAMES
        assert "ext4" in kernel.folder.builtin

    def test_the_modules_of_a_split_one_can_be_given(self, cache: Cache, tmp_path: Path) -> None:
        parts = split_packages(tmp_path)
        apart = shutil.move(parts["modules"], tmp_path / "apart.deb")
        assert names(take(cache, parts["binary"], Path(apart))) == NAMES

    def test_parts_of_another_version_do_not_belong_to_it(
        self, cache: Cache, tmp_path: Path
    ) -> None:
        parts = split_packages(tmp_path)
        package = f"linux-modules-{RELEASE}"
        deb(parts["modules"], tree_files(), package=package, version="6.12.7-2")
        with pytest.raises(
            EnvironmentUnfit,
            match=r"no matching modules.*put linux-modules-6\.12\.7\+test-amd64 6\.12\.7-1 beside",
        ):
            take(cache, parts["binary"])

    def test_modules_alone_are_no_kernel(self, cache: Cache, tmp_path: Path) -> None:
        parts = split_packages(tmp_path)
        parts["binary"].unlink()
        with pytest.raises(EnvironmentUnfit, match=r"no kernel image.*put linux-binary-"):
            take(cache, parts["modules"])

    def test_other_modules_can_be_taken_instead(self, cache: Cache, tmp_path: Path) -> None:
        changed = kvm_modules() | {
            "kernel/arch/x86/kvm/kvm.ko": module("kvm", "irqbypass", body=b"changed")
        }
        path = deb(tmp_path / "a.deb", tree_files())
        kernel = take(cache, path, write_tree(tmp_path / "changed", changed))
        assert names(kernel) == NAMES
        assert kernel.digest != take(cache, path).digest

    def test_another_package_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is bash, which is no kernel"):
            take(cache, deb(tmp_path / "a.deb", {}, package="bash"))

    def test_no_package_at_all_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        (tmp_path / "a.deb").write_text("hello")
        with pytest.raises(EnvironmentUnfit, match="not a complete Debian package"):
            take(cache, tmp_path / "a.deb")

    def test_a_kernel_without_kvm_intel_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        files = tree_files()
        del files[f"lib/modules/{RELEASE}/kernel/arch/x86/kvm/kvm-intel.ko"]
        with pytest.raises(EnvironmentUnfit, match="lacks kvm_intel"):
            take(cache, deb(tmp_path / "a.deb", files))


class TestTree:
    @pytest.mark.parametrize("place", ["lib/modules", "usr/lib/modules"])
    def test_an_unpacked_package_will_do(self, cache: Cache, tmp_path: Path, place: str) -> None:
        root = write_tree(tmp_path / "tree", tree_files(modules=place))
        kernel = take(cache, root)
        assert kernel.modules == root / place / RELEASE
        assert kernel.origin == f"the folder {root}"
        assert names(kernel) == NAMES

    def test_two_kernels_are_not_chosen_between(self, cache: Cache, tmp_path: Path) -> None:
        root = write_tree(tmp_path / "tree", tree_files() | tree_files(ANOTHER))
        with pytest.raises(UsageError, match=f"more than one kernel .{ANOTHER}, "):
            take(cache, root)

    def test_a_folder_without_a_kernel_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentUnfit, match="holds no kernel image"):
            take(cache, tmp_path)

    def test_one_without_modules_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        root = write_tree(tmp_path / "tree", {f"boot/vmlinuz-{RELEASE}": bzimage(vmlinux())})
        with pytest.raises(EnvironmentUnfit, match="has no matching modules"):
            take(cache, root)


class TestImage:
    def test_an_image_and_its_modules_will_do(self, cache: Cache, tmp_path: Path) -> None:
        write_tree(tmp_path, {"bzImage": bzimage(vmlinux())})
        modules = write_tree(tmp_path / "modules", kvm_modules())
        kernel = take(cache, tmp_path / "bzImage", modules)
        assert kernel.image == tmp_path / "bzImage"
        assert names(kernel) == NAMES

    def test_of_a_folder_of_many_kernels_its_own_is_taken(
        self, cache: Cache, tmp_path: Path
    ) -> None:
        builtin = {f"{ANOTHER}/modules.builtin": b"kernel/arch/x86/kvm/kvm-intel.ko\n"}
        write_tree(tmp_path / "modules", builtin)
        write_tree(tmp_path / "modules" / RELEASE, kvm_modules())
        write_tree(tmp_path, {"bzImage": bzimage(vmlinux())})
        kernel = take(cache, tmp_path / "bzImage", tmp_path / "modules")
        assert kernel.modules == tmp_path / "modules" / RELEASE
        assert names(kernel) == NAMES

    def test_alone_it_asks_for_modules(self, cache: Cache, tmp_path: Path) -> None:
        write_tree(tmp_path, {"bzImage": bzimage(vmlinux())})
        with pytest.raises(UsageError, match="with --modules"):
            take(cache, tmp_path / "bzImage")

    def test_modules_of_another_kernel_are_refused(self, cache: Cache, tmp_path: Path) -> None:
        write_tree(tmp_path, {"bzImage": bzimage(vmlinux())})
        modules = write_tree(tmp_path / "modules", kvm_modules(ANOTHER))
        with pytest.raises(EnvironmentUnfit, match=f"no matching modules .* {ANOTHER}"):
            take(cache, tmp_path / "bzImage", modules)

    def test_a_file_that_is_no_kernel_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        write_tree(tmp_path, {"x": elf()})
        with pytest.raises(EnvironmentUnfit, match="not a bzImage"):
            take(cache, tmp_path / "x", tmp_path)

    def test_a_32_bit_kernel_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        image = bytearray(bzimage(vmlinux()))
        image[0x236:0x238] = bytes(2)  # xloadflags
        root = write_tree(tmp_path / "tree", tree_files() | {f"boot/vmlinuz-{RELEASE}": image})
        for spec in (root, root / f"boot/vmlinuz-{RELEASE}"):
            with pytest.raises(EnvironmentUnfit, match="32-bit x86 kernel"):
                take(cache, spec, root)

    def test_modules_that_are_not_there_are_refused(self, cache: Cache, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"there is no .*nowhere; --modules"):
            take(cache, tmp_path / "x", tmp_path / "nowhere")


class TestBuildTree:
    def test_its_modules_are_taken_in_place(self, cache: Cache, tmp_path: Path) -> None:
        kernel = take(cache, build_tree(tmp_path / "linux"))
        assert kernel.origin == f"the build tree {tmp_path / 'linux'}"
        assert names(kernel) == NAMES

    def test_one_that_is_half_built_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentUnfit, match="build it again"):
            take(cache, build_tree(tmp_path / "linux", "6.12.8"))

    def test_kvm_intel_may_be_built_in(self, cache: Cache, tmp_path: Path) -> None:
        root = build_tree(tmp_path / "linux")
        shutil.rmtree(root / "arch/x86/kvm")
        (root / "modules.builtin").write_text(
            "kernel/arch/x86/kvm/kvm.ko\nkernel/arch/x86/kvm/kvm-intel.ko\n"
        )
        assert names(take(cache, root)) == ["msr"]


class TestOptions:
    """Those that a kernel was built with, where something says."""

    TEXT = b"CONFIG_KVM=m\n"
    READ: ClassVar = {"KVM": "m"}

    def test_a_build_tree_has_those_of_its_last_build(self, cache: Cache, tmp_path: Path) -> None:
        root = build_tree(tmp_path / "linux")
        write_tree(root, {"include/config/auto.conf": self.TEXT, ".config": b"CONFIG_NEW=y\n"})
        assert take(cache, root).options == self.READ

    @pytest.mark.parametrize(
        "place",
        [f"boot/config-{RELEASE}", f"lib/modules/{RELEASE}/config"],
        ids=["boot", "modules"],
    )
    def test_a_folder_may_have_them(self, cache: Cache, tmp_path: Path, place: str) -> None:
        assert take(cache, write_tree(tmp_path, tree_files())).options is None
        write_tree(tmp_path, {place: self.TEXT})
        assert take(cache, tmp_path).options == self.READ

    def test_an_image_may_hold_them(self, cache: Cache, tmp_path: Path) -> None:
        kernel = vmlinux() + b"IKCFG_ST" + gzip.compress(self.TEXT)
        write_tree(tmp_path, {"bzImage": bzimage(kernel), **kvm_modules()})
        assert take(cache, tmp_path / "bzImage", tmp_path).options == self.READ

    def test_they_may_be_beside_an_image(self, cache: Cache, tmp_path: Path) -> None:
        files = {"bzImage": bzimage(vmlinux()), f"config-{RELEASE}": self.TEXT}
        write_tree(tmp_path, {**files, **kvm_modules()})
        assert take(cache, tmp_path / "bzImage", tmp_path).options == self.READ

    def test_an_image_that_is_not_unpacked_here_does_not_say(
        self, cache: Cache, tmp_path: Path
    ) -> None:
        write_tree(tmp_path, {"bzImage": bzimage(vmlinux(), lambda _: b"new"), **kvm_modules()})
        assert take(cache, tmp_path / "bzImage", tmp_path).options is None


def test_the_digest_is_the_same_however_it_came(cache: Cache, tmp_path: Path) -> None:
    packed = {
        f"{name}.xz": lzma.compress(data) for name, data in kvm_modules().items()
    }  # fmt: skip
    write_tree(tmp_path, {"bzImage": bzimage(vmlinux())})
    kernels = [
        take(cache, deb(tmp_path / "a.deb", tree_files())),
        take(cache, tmp_path / "bzImage", write_tree(tmp_path / "modules", packed)),
        take(cache, build_tree(tmp_path / "linux")),
    ]
    assert len({kernel.digest for kernel in kernels}) == 1


def test_the_digest_tells_images_apart(cache: Cache, tmp_path: Path) -> None:
    modules = write_tree(tmp_path / "modules", kvm_modules())
    write_tree(tmp_path, {"a": bzimage(vmlinux()), "b": bzimage(vmlinux(b"\x90\xf4"))})
    assert (
        take(cache, tmp_path / "a", modules).digest != take(cache, tmp_path / "b", modules).digest
    )


@pytest.mark.parametrize("spec", ["nowhere", "/nowhere/vmlinuz", "v6.12", ""])
def test_what_is_neither_file_nor_version_is_refused(cache: Cache, spec: str) -> None:
    with pytest.raises(UsageError, match="there is no kernel"):
        take(cache, spec)
