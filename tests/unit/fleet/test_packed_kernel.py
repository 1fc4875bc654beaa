import hashlib
import tarfile
from pathlib import Path

import pytest
from support.kernel_files import BANNER, RELEASE, bzimage, deb, tree_files, vmlinux, write_tree

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.fleet.host import KernelKind, PlannedKernel
from kvmtest.fleet.packed_kernel import PackedKernel, pack

IMAGE = bzimage(vmlinux())
MODULES = f"modules/{RELEASE}"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def of_debs(cache: Cache, *paths: Path) -> PackedKernel:
    return pack(PlannedKernel("k", KernelKind.DEB, paths=paths), cache, print)


def of_tree(cache: Cache, root: Path) -> PackedKernel:
    return pack(PlannedKernel("k", KernelKind.TREE, paths=[root]), cache, print)


def members(kernel: PackedKernel) -> dict[str, bytes]:
    with tarfile.open(kernel.archive) as archive:
        return {
            each.name: found.read()
            for each in archive
            if (found := archive.extractfile(each)) is not None
        }


def without_dependencies(names: set[str]) -> set[str]:
    """Leave out what depmod(8) writes, where this machine has it."""
    lists = ("alias", "builtin.", "dep", "devname", "softdep", "symbols", "weakdep")
    return {
        name
        for name in names
        if not name.startswith(tuple(f"{MODULES}/modules.{each}" for each in lists))
    }


@pytest.mark.parametrize("folder", ["lib/modules", "usr/lib/modules"])
def test_a_package_is_packed_whole(cache: Cache, tmp_path: Path, folder: str) -> None:
    files = tree_files(modules=folder) | {
        f"boot/config-{RELEASE}": b"CONFIG_RD_GZIP=y\n",
        f"boot/System.map-{RELEASE}": b"map",
        "usr/share/doc/copyright": b"words",
    }
    made = of_debs(cache, deb(tmp_path / "k.deb", files))
    found = members(made)
    assert found["vmlinuz"] == IMAGE
    assert found["config"] == b"CONFIG_RD_GZIP=y\n"
    assert without_dependencies(set(found)) == {
        "vmlinuz",
        "config",
        *(f"{MODULES}/{name.partition(f'{RELEASE}/')[2]}" for name in files if ".ko" in name),
        f"{MODULES}/modules.builtin",
    }
    assert (made.release, made.banner, made.has_modules) == (RELEASE, BANNER, True)
    assert made.image_digest == hashlib.sha256(IMAGE).hexdigest()


def test_packages_that_share_a_kernel_are_packed_as_one(cache: Cache, tmp_path: Path) -> None:
    files = tree_files()
    image = {name: data for name, data in files.items() if name.startswith("boot")}
    rest = {name: data for name, data in files.items() if name not in image}
    folder = tmp_path / "debs"
    folder.mkdir()
    first = deb(folder / f"linux-image-{RELEASE}_1_amd64.deb", image)
    name = f"linux-modules-{RELEASE}"
    deb(folder / f"{name}_1_amd64.deb", rest, package=name)
    assert f"{MODULES}/modules.builtin" in members(of_debs(cache, first))


def test_a_kernel_is_packed_once(cache: Cache, tmp_path: Path) -> None:
    package = deb(tmp_path / "k.deb", tree_files())
    told: list[str] = []
    planned = PlannedKernel("k", KernelKind.DEB, paths=[package])
    first = pack(planned, cache, told.append)
    steps = list(told)
    assert pack(planned, cache, told.append) == first
    assert told == steps


def test_a_kernel_without_modules_is_one_too(cache: Cache, tmp_path: Path) -> None:
    made = of_debs(cache, deb(tmp_path / "k.deb", {f"boot/vmlinuz-{RELEASE}": IMAGE}))
    assert (made.has_modules, set(members(made))) == (False, {"vmlinuz"})


def test_packages_without_an_image_are_refused(cache: Cache, tmp_path: Path) -> None:
    files = {name: data for name, data in tree_files().items() if "vmlinuz" not in name}
    with pytest.raises(UsageError, match="0 kernel images"):
        of_debs(cache, deb(tmp_path / "k.deb", files))


def test_an_image_and_modules_of_two_releases_are_refused(cache: Cache, tmp_path: Path) -> None:
    files = {f"boot/vmlinuz-{RELEASE}": IMAGE, "lib/modules/6.1/kernel/a.ko": b"a"}
    with pytest.raises(
        UsageError, match=r"is of 6\.12\.7\+test-amd64, and the modules are of 6\.1"
    ):
        of_debs(cache, deb(tmp_path / "k.deb", files))


@pytest.mark.parametrize("release", ["..", "-rf", "a/../b", "a$x"])
def test_a_release_that_would_lead_elsewhere_is_refused(
    cache: Cache, tmp_path: Path, release: str
) -> None:
    image = bzimage(vmlinux(), banner=BANNER.replace(RELEASE, release))
    with pytest.raises(EnvironmentUnfit, match="says that its release is"):
        of_debs(cache, deb(tmp_path / "k.deb", {"boot/vmlinuz-x": image}))


MAKEFILE = f"""\
modules_install:
	test "$(INSTALL_MOD_STRIP)" = 1
	mkdir -p $(INSTALL_MOD_PATH)/lib/modules/{RELEASE}/kernel
	cp a.ko $(INSTALL_MOD_PATH)/lib/modules/{RELEASE}/kernel
	ln -s $(CURDIR) $(INSTALL_MOD_PATH)/lib/modules/{RELEASE}/build
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "arch/x86/boot/bzImage": IMAGE,
        ".config": b"CONFIG_RD_GZIP=y\n",
        "Makefile": MAKEFILE.encode(),
        "modules.order": b"a.ko\n",
        "a.ko": b"a module",
    }
    return write_tree(tmp_path / "linux", files)


def test_a_build_tree_installs_its_modules(cache: Cache, tree: Path) -> None:
    found = members(of_tree(cache, tree))
    assert found["vmlinuz"] == IMAGE
    assert found["config"] == b"CONFIG_RD_GZIP=y\n"
    assert found[f"{MODULES}/kernel/a.ko"] == b"a module"
    assert not any("build" in name for name in found)


def test_a_tree_that_was_built_again_is_another_kernel(cache: Cache, tree: Path) -> None:
    first = of_tree(cache, tree)
    assert of_tree(cache, tree) == first
    (tree / "a.ko").write_bytes(b"another")
    assert of_tree(cache, tree).digest != first.digest


def test_a_tree_that_is_not_built_is_refused(cache: Cache, tree: Path) -> None:
    (tree / "arch/x86/boot/bzImage").unlink()
    with pytest.raises(UsageError, match="name a kernel tree that is built"):
        of_tree(cache, tree)


def test_a_tree_that_can_t_install_its_modules_says_why(cache: Cache, tree: Path) -> None:
    (tree / "a.ko").unlink()
    with pytest.raises(EnvironmentUnfit, match=r"modules_install failed \(make: .*Error"):
        of_tree(cache, tree)


def test_the_own_kernel_of_a_host_is_not_packed(cache: Cache) -> None:
    with pytest.raises(ValueError, match="own"):
        pack(PlannedKernel("own"), cache, print)
