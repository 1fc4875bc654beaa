"""kernels/packages.py: the kernels of Debian, Ubuntu and Proxmox, and why others are none."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.kernel_files import bzimage, deb, module, tree_files, vmlinux, write_tree

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.resolve import resolve

pytest.importorskip("debian")
zstandard = pytest.importorskip("zstandard")

UBUNTU, UBUNTU_VERSION = "6.8.0-31-generic", "6.8.0-31.31"
PROXMOX, PROXMOX_VERSION = "6.8.12-1-pve", "6.8.12-1"
DEBIAN, DEBIAN_VERSION = "6.12.117+deb12-amd64", "6.12.117-1~deb12u1"
NAMES = ["irqbypass", "kvm", "kvm_intel", "msr"]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def take(cache: Cache, *named: Path, modules: Path | None = None) -> BootableKernel:
    return resolve([str(path) for path in named], modules, cache, lambda _: None)


def names(kernel: BootableKernel) -> list[str]:
    return [module.name for module in kernel.load_order("kvm_intel", "msr")]


def zst(data: bytes) -> bytes:
    packed: bytes = zstandard.ZstdCompressor().compress(data)
    return packed


def package(
    folder: Path, name: str, files: Mapping[str, bytes], version: str, depends: str = "",
    architecture: str = "amd64", pack: Callable[[bytes], bytes] = zst, suffix: str = ".zst",
) -> Path:  # fmt: skip
    folder.mkdir(exist_ok=True)
    return deb(
        folder / f"{name}_{version}_{architecture}.deb", files, package=name, version=version,
        depends=depends, architecture=architecture, pack=pack, suffix=suffix,
    )  # fmt: skip


def ubuntu(folder: Path, release: str = UBUNTU, version: str = UBUNTU_VERSION) -> dict[str, Path]:
    """Ubuntu's packages: image and modules apart, modules and members of the .debs in zstd."""
    files = tree_files(release, pack=zst, suffix=".zst")
    image = files.pop(f"boot/vmlinuz-{release}")
    boot, place = f"boot/vmlinuz-{release}", f"lib/modules/{release}"
    extra = {f"{place}/kernel/drivers/extra.ko.zst": zst(module("extra", release=release))}
    kmod, modules = "kmod, linux-base (>= 4.5ubuntu1)", f"linux-modules-{release}"
    contents: dict[str, tuple[dict[str, bytes], str]] = {
        "linux-image": ({boot: image}, f"{kmod}, {modules}"),
        "linux-image-unsigned": ({boot: image + b"x"}, f"{kmod}, {modules}"),
        "linux-modules": (files | {f"boot/config-{release}": b""}, "linux-base"),
        "linux-modules-extra": (extra, f"linux-image-{release} | linux-image-unsigned-{release}"),
    }
    return {
        kind: package(folder, f"{kind}-{release}", held, version, depends)
        for kind, (held, depends) in contents.items()
    }


def proxmox(folder: Path, suffix: str = "-signed") -> Path:
    return package(
        folder, f"proxmox-kernel-{PROXMOX}{suffix}", tree_files(PROXMOX), PROXMOX_VERSION,
        "busybox, initramfs-tools | linux-initramfs-tool",
    )  # fmt: skip


def metapackage(folder: Path, name: str, depends: str, architecture: str = "amd64") -> Path:
    return package(folder, name, {f"usr/share/doc/{name}/copyright": b""}, "1", depends,
                   architecture)  # fmt: skip


class TestProxmox:
    @pytest.mark.parametrize("suffix", ["-signed", ""])
    def test_its_one_package_has_all(self, cache: Cache, tmp_path: Path, suffix: str) -> None:
        kernel = take(cache, proxmox(tmp_path, suffix))
        assert kernel.release == PROXMOX
        assert kernel.origin == (
            f"the Debian package proxmox-kernel-{PROXMOX}{suffix} {PROXMOX_VERSION}"
        )
        assert names(kernel) == NAMES

    def test_it_was_called_pve_kernel_before(self, cache: Cache, tmp_path: Path) -> None:
        path = package(tmp_path, "pve-kernel-5.15.30-2-pve", tree_files("5.15.30-2-pve"), "5.15.30")
        assert names(take(cache, path)) == NAMES

    @pytest.mark.parametrize(
        ("name", "depends", "said"),
        [
            (
                "proxmox-kernel-6.8",
                f"proxmox-kernel-{PROXMOX}-signed | proxmox-kernel-{PROXMOX}, pve-firmware",
                f"depends on proxmox-kernel-{PROXMOX}-signed or proxmox-kernel-{PROXMOX}: give",
            ),
            ("proxmox-default-kernel", "proxmox-kernel-6.8", "depends on proxmox-kernel-6.8: give"),
        ],
    )
    def test_its_metapackages_are_told_from_it(
        self, cache: Cache, tmp_path: Path, name: str, depends: str, said: str
    ) -> None:
        with pytest.raises(UsageError, match="a metapackage") as caught:
            take(cache, metapackage(tmp_path, name, depends, "all"))
        assert said in str(caught.value)


class TestUbuntu:
    @pytest.mark.parametrize("kind", ["linux-image", "linux-image-unsigned", "linux-modules"])
    def test_the_other_packages_are_found_beside_one(
        self, cache: Cache, tmp_path: Path, kind: str
    ) -> None:
        kernel = take(cache, ubuntu(tmp_path / "debs")[kind])
        assert kernel.release == UBUNTU
        assert names(kernel) == NAMES

    @pytest.mark.parametrize("image", ["linux-image", "linux-image-unsigned"])
    def test_image_and_modules_can_be_named(self, cache: Cache, tmp_path: Path, image: str) -> None:
        parts = ubuntu(tmp_path / "debs")
        apart = tmp_path / "apart"
        apart.mkdir()
        moved = parts["linux-modules"].rename(apart / "modules.deb")
        for order in ((parts[image], moved), (moved, parts[image])):
            assert names(take(cache, *order)) == NAMES

    def test_a_folder_of_packages_will_do(self, cache: Cache, tmp_path: Path) -> None:
        folder = tmp_path / "debs"
        ubuntu(folder)
        package(folder, f"linux-headers-{UBUNTU}", {}, UBUNTU_VERSION)
        package(folder, "linux-headers-6.8.0-31", {}, UBUNTU_VERSION, architecture="all")
        metapackage(folder, "linux-image-generic", f"linux-image-{UBUNTU}")
        package(folder, "bash", {}, "5.2")
        kernel = take(cache, folder)
        assert names(kernel) == NAMES
        assert "bash" not in kernel.origin
        assert "headers" not in kernel.origin

    def test_of_two_images_that_differ_in_their_signature_one_is_taken(
        self, cache: Cache, tmp_path: Path
    ) -> None:
        folder = tmp_path / "debs"
        ubuntu(folder)
        origin = take(cache, folder).origin
        assert f"linux-image-{UBUNTU}" in origin
        assert "unsigned" not in origin

    @pytest.mark.parametrize("pack", [zst, bytes], ids=["zstd", "plain"])
    def test_members_may_be_packed_or_not(
        self, cache: Cache, tmp_path: Path, pack: Callable[[bytes], bytes]
    ) -> None:
        files = tree_files(UBUNTU, pack=zst, suffix=".zst")
        path = package(tmp_path, f"linux-image-{UBUNTU}", files, UBUNTU_VERSION, pack=pack,
                       suffix=".zst" if pack is zst else "")  # fmt: skip
        assert names(take(cache, path)) == NAMES

    @pytest.mark.parametrize("more", ["+1", "+b1"])
    def test_an_image_that_was_built_again_belongs_to_the_modules(
        self, cache: Cache, tmp_path: Path, more: str
    ) -> None:
        parts = ubuntu(tmp_path / "debs")
        image = {f"boot/vmlinuz-{UBUNTU}": tree_files(UBUNTU)[f"boot/vmlinuz-{UBUNTU}"]}
        for kind in ("linux-image", "linux-image-unsigned"):
            parts[kind].unlink()
        name = f"linux-image-{UBUNTU}"
        again = package(tmp_path / "debs", name, image, UBUNTU_VERSION + more)
        for named in (again, parts["linux-modules"], tmp_path / "debs"):
            assert names(take(cache, named)) == NAMES

    def test_an_image_alone_says_which_modules_it_lacks(self, cache: Cache, tmp_path: Path) -> None:
        parts = ubuntu(tmp_path / "debs")
        parts["linux-modules"].unlink()
        parts["linux-modules-extra"].unlink()
        with pytest.raises(EnvironmentUnfit, match="no matching modules") as caught:
            take(cache, parts["linux-image-unsigned"])
        assert f"put linux-modules-{UBUNTU} {UBUNTU_VERSION} beside it" in str(caught.value)

    def test_modules_alone_say_which_image_they_lack(self, cache: Cache, tmp_path: Path) -> None:
        parts = ubuntu(tmp_path / "debs")
        for kind in ("linux-image", "linux-image-unsigned"):
            parts[kind].unlink()
        with pytest.raises(EnvironmentUnfit, match="no kernel image") as caught:
            take(cache, parts["linux-modules"])
        assert f"linux-image-{UBUNTU} {UBUNTU_VERSION} beside it" in str(caught.value)

    def test_modules_of_another_version_do_not_belong_to_it(
        self, cache: Cache, tmp_path: Path
    ) -> None:
        parts = ubuntu(tmp_path / "debs")
        parts["linux-modules"].unlink()
        parts["linux-modules-extra"].unlink()
        files = tree_files(UBUNTU)
        del files[f"boot/vmlinuz-{UBUNTU}"]
        package(tmp_path / "debs", f"linux-modules-{UBUNTU}", files, "6.8.0-31.32")
        with pytest.raises(EnvironmentUnfit, match="no matching modules"):
            take(cache, parts["linux-image"])

    def test_its_modules_may_be_a_folder(self, cache: Cache, tmp_path: Path) -> None:
        image = ubuntu(tmp_path / "debs")["linux-image"]
        for path in (tmp_path / "debs").glob("linux-modules*"):
            path.unlink()
        folder = write_tree(tmp_path / "modules", tree_files(UBUNTU))
        assert names(take(cache, image, modules=folder)) == NAMES


class TestMetapackages:
    def test_the_package_that_it_depends_on_is_named(self, cache: Cache, tmp_path: Path) -> None:
        path = metapackage(tmp_path, "linux-image-amd64", f"linux-image-{DEBIAN} (= 6.12.117-1)")
        with pytest.raises(UsageError, match="linux-image-amd64, a metapackage") as caught:
            take(cache, path)
        assert f"depends on linux-image-{DEBIAN}: give that package" in str(caught.value)

    def test_a_series_has_one_too(self, cache: Cache, tmp_path: Path) -> None:
        path = metapackage(tmp_path, "linux-image-6.12-amd64", f"linux-image-{DEBIAN} (= 1)")
        with pytest.raises(UsageError, match="a metapackage") as caught:
            take(cache, path)
        assert f"linux-image-{DEBIAN}" in str(caught.value)

    def test_ubuntu_s_names_the_image(self, cache: Cache, tmp_path: Path) -> None:
        depends = f"linux-image-{UBUNTU}, linux-modules-extra-{UBUNTU}, linux-firmware"
        path = metapackage(tmp_path, "linux-image-generic", depends)
        with pytest.raises(UsageError, match="a metapackage") as caught:
            take(cache, path)
        assert f"depends on linux-image-{UBUNTU}: give" in str(caught.value)

    def test_an_empty_part_of_a_split_kernel_is_none(self, cache: Cache, tmp_path: Path) -> None:
        depends = f"linux-binary-{DEBIAN} (= 1), linux-modules-{DEBIAN} (= 1)"
        path = metapackage(tmp_path, f"linux-image-{DEBIAN}", depends)
        with pytest.raises(KvmtestError, match=r"has no kernel image.*put linux-binary-6\.12"):
            take(cache, path)


OTHERS = {
    f"linux-image-{DEBIAN}-dbg": ("debug information", f"give linux-image-{DEBIAN}"),
    f"linux-image-unsigned-{UBUNTU}-dbgsym": ("debug information", f"unsigned-{UBUNTU}"),
    "linux-image-amd64-dbg": ("debug information", "give its linux-image package"),
    f"linux-headers-{DEBIAN}": ("what modules are built with", f"give linux-image-{DEBIAN}"),
    f"proxmox-headers-{PROXMOX}": ("built with", f"give proxmox-kernel-{PROXMOX}"),
    "linux-kbuild-6.12": ("what modules are built with", "its linux-image package"),
    "linux-source-6.12": ("the source of a kernel", "its linux-image package"),
    f"linux-tools-{UBUNTU}": ("what goes with a kernel", "linux-image"),
    "linux-libc-dev": ("what goes with a kernel", "its linux-image package"),
    "linux-image-amd64-signed-template": ("to be signed", "its linux-image package"),
}


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", OTHERS)
    def test_what_goes_with_a_kernel(self, cache: Cache, tmp_path: Path, name: str) -> None:
        path = package(tmp_path, name, {"usr/lib/debug/boot/vmlinux": b""}, "1", architecture="all")
        with pytest.raises(UsageError) as caught:
            take(cache, path)
        contents, instead = OTHERS[name]
        assert f"{path} is {name}, which has" in str(caught.value)
        assert contents in str(caught.value)
        assert instead in str(caught.value)
        assert not (cache.root / "kernel").exists(), "nothing is unpacked"

    @pytest.mark.parametrize("architecture", ["i386", "arm64", "riscv64"])
    def test_another_architecture(self, cache: Cache, tmp_path: Path, architecture: str) -> None:
        name = "linux-image-6.1.0-47-686-pae"
        path = package(tmp_path, name, tree_files(), "6.1.170-3", architecture=architecture)
        for named in (path, tmp_path):
            with pytest.raises(UsageError) as caught:
                take(cache, named)
            said = f"{name} for {architecture}, and kvmtest is for x86-64"
            assert said in str(caught.value)
        assert not (cache.root / "kernel").exists(), "nothing is unpacked"

    def test_a_package_by_any_name(self, cache: Cache, tmp_path: Path) -> None:
        name = f"linux-image-unsigned-{UBUNTU}-dbgsym"
        path = package(tmp_path, name, {}, "1").rename(tmp_path / "symbols.ddeb")
        with pytest.raises(UsageError, match="debug information"):
            take(cache, path)
        path = proxmox(tmp_path).rename(tmp_path / "download")
        assert names(take(cache, path)) == NAMES

    def test_the_parts_of_two_kernels(self, cache: Cache, tmp_path: Path) -> None:
        one = ubuntu(tmp_path / "one")["linux-image"]
        other = ubuntu(tmp_path / "other", "6.8.0-32-generic", "6.8.0-32.32")["linux-modules"]
        with pytest.raises(UsageError, match=f"more than one kernel .{UBUNTU}, 6.8.0-32-generic"):
            take(cache, one, other)

    def test_the_parts_of_two_versions(self, cache: Cache, tmp_path: Path) -> None:
        image = ubuntu(tmp_path / "debs")["linux-image"]
        modules = ubuntu(tmp_path / "newer", version="6.8.0-31.32")["linux-modules"]
        said = rf"of {UBUNTU} in more than one version .6\.8\.0-31\.31, 6\.8\.0-31\.32"
        with pytest.raises(UsageError, match=said):
            take(cache, image, modules)
        modules.rename(image.parent / modules.name)
        with pytest.raises(UsageError, match=said):
            take(cache, image.parent)

    def test_a_folder_of_two_kernels(self, cache: Cache, tmp_path: Path) -> None:
        ubuntu(tmp_path / "debs")
        proxmox(tmp_path / "debs")
        with pytest.raises(UsageError, match="more than one kernel"):
            take(cache, tmp_path / "debs")

    def test_a_folder_of_other_packages(self, cache: Cache, tmp_path: Path) -> None:
        package(tmp_path, "bash", {}, "5.2")
        with pytest.raises(UsageError, match=r"no package of a kernel: bash 5\.2 is none"):
            take(cache, tmp_path)

    def test_several_of_which_one_is_no_package(self, cache: Cache, tmp_path: Path) -> None:
        image = write_tree(tmp_path, {"bzImage": bzimage(vmlinux())}) / "bzImage"
        with pytest.raises(UsageError, match="of one kernel several packages"):
            take(cache, proxmox(tmp_path), image)

    def test_a_fifo_by_the_name_of_a_package(self, cache: Cache, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "linux-image-1.deb")
        with pytest.raises(EnvironmentUnfit, match="this is a FIFO"):
            take(cache, tmp_path / "linux-image-1.deb")
