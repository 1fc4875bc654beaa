"""kvmtest/kernels/targets.py: whatever a kernel comes in, the same parts come out."""

import gzip
import lzma
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.kernel_files import (
    BANNER,
    RELEASE,
    bzimage,
    deb,
    elf,
    module,
    rpm,
    source_files,
    tar,
    tree_files,
    vmlinux,
    write_tree,
)
from support.stand_in import FIXED, kvm_btf

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels.parts import KernelParts
from kvmtest.kernels.targets import grouped, opened

pytest.importorskip("debian")
pytest.importorskip("rpmfile")
zstandard = pytest.importorskip("zstandard")

VERSION = (6, 12, 7)
KVM = kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", over=FIXED)
FOLDER = "kernel/arch/x86/kvm"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def kernel_files(
    suffix: str = "", *, release: str = RELEASE, modules: str = "lib/modules"
) -> dict[str, bytes]:
    """The files of a kernel with types: image in /boot, KVM as three modules."""
    pack = PACKERS[suffix]
    found = tree_files(release, modules=modules, pack=pack, suffix=suffix)
    found[f"boot/vmlinuz-{release}"] = image(release)
    for name in ("kvm", "kvm_intel", "kvm_amd"):
        path = f"{modules}/{release}/{FOLDER}/{name.replace('_', '-')}.ko{suffix}"
        found[path] = pack(typed(name, release))
    return found


def image(release: str = RELEASE) -> bytes:
    return bzimage(vmlinux(types=FIXED), banner=BANNER.replace(RELEASE, release))


def typed(name: str, release: str = RELEASE) -> bytes:
    return module(name, release=release, sections={".BTF": KVM})


def split(files: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Image and modules apart, as Ubuntu and Fedora pack them."""
    images = {name: data for name, data in files.items() if "vmlinuz" in name}
    return images, {name: data for name, data in files.items() if name not in images}


def open_one(*names: object) -> KernelParts:
    (parts,) = opened([str(name) for name in names])
    return parts


def is_whole(parts: KernelParts) -> bool:
    names = {"vmlinux", "kvm", "kvm_intel", "kvm_amd"}
    return (
        (parts.release, parts.version, parts.lacks) == (RELEASE, VERSION, ())
        and set(parts.btf) == set(parts.code) == names
        and has_fix(parts)
    )


def has_fix(parts: KernelParts) -> bool:
    types = parts.types("kvm")
    return types is not None and types.structs("kvm_x86_ops")[0].has("HOST_OWNED_DEBUGCTL")


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("kind", ["linux-image-{}", "linux-image-{}-unsigned"])
def test_a_debian_package_is_opened(tmp_path: Path, suffix: str, kind: str) -> None:
    path = deb(tmp_path / "k.deb", kernel_files(suffix), package=kind.format(RELEASE))
    parts = open_one(path)
    assert is_whole(parts)
    assert parts.package == f"{kind.format(RELEASE)} 6.12.7-1"
    assert parts.origin == f"the package {path}"


def test_a_proxmox_package_is_opened(tmp_path: Path) -> None:
    files = kernel_files(release="6.12.7-4-pve")
    path = deb(tmp_path / "k.deb", files, package="proxmox-kernel-6.12.7-4-pve-signed")
    parts = open_one(path)
    assert (parts.release, parts.version, has_fix(parts)) == ("6.12.7-4-pve", VERSION, True)


def test_ubuntu_s_two_packages_are_one_kernel_named_or_beside(tmp_path: Path) -> None:
    images, modules = split(kernel_files(".zst"))
    one = deb(tmp_path / f"linux-image-{RELEASE}_1_amd64.deb", images,
              depends=f"kmod, linux-modules-{RELEASE}")  # fmt: skip
    alone = open_one(one)
    assert set(alone.code) == {"vmlinux"}
    assert alone.lacks == (
        f"{one} has no matching modules: it is one part of its kernel; put linux-modules-{RELEASE} "
        "6.12.7-1 beside it, or name both",
    )
    other = deb(tmp_path / f"linux-modules-{RELEASE}_1_amd64.deb", modules,
                package=f"linux-modules-{RELEASE}")  # fmt: skip
    assert is_whole(open_one(one))
    assert is_whole(open_one(other))
    elsewhere = tmp_path / "elsewhere" / other.name
    elsewhere.parent.mkdir()
    other.rename(elsewhere)
    assert grouped([str(one), "x", str(elsewhere)]) == [[str(one), str(elsewhere)], ["x"]]
    assert is_whole(open_one(one, elsewhere))


def test_modules_without_their_image_say_which_package_has_it(tmp_path: Path) -> None:
    path = deb(tmp_path / "m.deb", split(kernel_files())[1], package=f"linux-modules-{RELEASE}")
    parts = open_one(path)
    assert parts.types("kvm") is None
    assert parts.lacks[-1].startswith(f"{path} has no kernel image")


@pytest.mark.parametrize(
    ("package", "why"),
    [
        (f"linux-headers-{RELEASE}", "what modules are built with: give linux-image-6.12.7"),
        ("linux-image-amd64", "a metapackage.*depends on linux-image-6.12: give that package"),
        ("bash", "which is no kernel; give a linux-image .deb"),
    ],
)
def test_a_package_without_a_kernel_says_what_to_give(
    tmp_path: Path, package: str, why: str
) -> None:
    path = deb(tmp_path / "k.deb", {"usr/x": b""}, package=package,
               depends="linux-image-6.12" if "image" in package else "")  # fmt: skip
    with pytest.raises(UsageError, match=why):
        open_one(path)


@pytest.mark.parametrize("compressor", [".xz", ".zst", ".gz"])
def test_opensuse_s_one_package_is_opened(tmp_path: Path, compressor: str) -> None:
    files = kernel_files(".zst", modules="usr/lib/modules")
    files[f"usr/lib/modules/{RELEASE}/vmlinuz"] = files.pop(f"boot/vmlinuz-{RELEASE}")
    path = rpm(tmp_path / "k.rpm", files, name="kernel-default", pack=PACKERS[compressor],
               compressor={".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[compressor])  # fmt: skip
    parts = open_one(path)
    assert is_whole(parts)
    assert parts.package == "kernel-default 6.12.7-200.fc41"


def test_fedora_s_two_packages_are_one_kernel_named_or_beside(tmp_path: Path) -> None:
    images, modules = split(kernel_files(".xz"))
    images = {f"lib/modules/{RELEASE}/vmlinuz": data for data in images.values()}
    core = rpm(tmp_path / "kernel-core.rpm", images)
    alone = open_one(core)
    assert alone.lacks == (
        f"{core} has no modules of KVM: it is one part of its kernel; put kernel-modules-core "
        "6.12.7-200.fc41 beside it, or name both",
    )
    rpm(tmp_path / "kernel-devel.rpm", {}, name="kernel-devel")
    rpm(tmp_path / "kernel-old.rpm", split(kernel_files(release="6.1.0-old"))[1],
        name="kernel-modules-core", release="1", source="kernel-old.src.rpm")  # fmt: skip
    assert open_one(core).package == "kernel-core 6.12.7-200.fc41"
    other = rpm(tmp_path / "kernel-modules-core.rpm", modules, name="kernel-modules-core")
    assert is_whole(open_one(core))
    assert is_whole(open_one(other))
    elsewhere = tmp_path / "elsewhere" / other.name
    elsewhere.parent.mkdir()
    other.rename(elsewhere)
    assert grouped([str(core), str(elsewhere)]) == [[str(core), str(elsewhere)]]
    assert is_whole(open_one(core, elsewhere))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"source": ""}, "source package kernel-core .* patches are not applied"),
        ({"architecture": "aarch64"}, "is kernel-core for aarch64"),
        ({"name": "kernel-devel"}, "is kernel-devel, which has no kernel: give kernel-core"),
        ({"name": "bash"}, "is bash, which has no kernel"),
        ({"name": "kernel", "requires": ["kernel-core-uname-r"]}, "give kernel-core and"),
    ],
)
def test_an_rpm_without_a_kernel_says_what_to_give(
    tmp_path: Path, values: dict[str, str], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        open_one(rpm(tmp_path / "k.rpm", {}, **values))  # type: ignore[arg-type]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=list(PACKERS))
def test_a_tarball_of_a_kernel_s_files_is_opened(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tar(tmp_path / "linux.pkg", {".PKGINFO": b"", **kernel_files(".zst")}, pack)
    assert is_whole(open_one(path))


def test_a_root_with_several_kernels_gives_each(tmp_path: Path) -> None:
    write_tree(tmp_path, kernel_files())
    write_tree(tmp_path, kernel_files(".xz", release="6.9.1-old"))
    (tmp_path / "lib/modules/5.10.0-leftover").mkdir()
    found = list(opened([str(tmp_path)]))
    assert [each.release for each in found] == ["6.9.1-old", RELEASE]
    assert all(map(has_fix, found))
    assert is_whole(open_one(tmp_path / "lib/modules" / RELEASE))


def test_a_folder_of_packages_gives_each_kernel(tmp_path: Path) -> None:
    deb(tmp_path / "a.deb", kernel_files())
    deb(tmp_path / "h.deb", {}, package=f"linux-headers-{RELEASE}")
    rpm(tmp_path / "kernel-default.rpm", kernel_files(), name="kernel-default")
    assert [is_whole(each) for each in opened([str(tmp_path)])] == [True, True]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_module_is_opened_with_its_neighbours_and_its_image(tmp_path: Path, suffix: str) -> None:
    write_tree(tmp_path, kernel_files(suffix))
    path = tmp_path / f"lib/modules/{RELEASE}/{FOLDER}/kvm-intel.ko{suffix}"
    parts = open_one(path)
    assert is_whole(parts)
    assert parts.origin.endswith(f"with vmlinuz-{RELEASE}, kvm.ko{suffix}, kvm-amd.ko{suffix}")


@pytest.mark.parametrize("name", ["vmlinuz", f"vmlinuz-{RELEASE}", "bzImage"])
def test_modules_in_a_folder_have_the_types_of_the_image_beside_them(
    tmp_path: Path, name: str
) -> None:
    for path, data in kernel_files().items():
        is_module = Path(path).name.startswith("kvm")
        if is_module or "vmlinuz" in path:
            (tmp_path / (Path(path).name if is_module else name)).write_bytes(data)
    assert is_whole(open_one(tmp_path))


def test_a_module_alone_has_code_and_no_types_to_read(tmp_path: Path) -> None:
    path = tmp_path / "renamed.ko"
    path.write_bytes(typed("kvm_intel"))
    (tmp_path / "kvm.ko").write_bytes(typed("kvm", "5.10.0-other"))
    parts = open_one(path)
    assert (parts.release, set(parts.code), parts.types("kvm_intel")) == (
        RELEASE,
        {"kvm_intel"},
        None,
    )


def test_types_over_a_base_of_their_own_need_no_image(tmp_path: Path) -> None:
    path = tmp_path / "kvm.ko"
    path.write_bytes(module("kvm", sections={".BTF": KVM, ".BTF.base": FIXED}))
    assert has_fix(open_one(path))


def test_another_module_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "msr.ko"
    path.write_bytes(module("msr"))
    with pytest.raises(EnvironmentUnfit, match="is the module msr; name kvm, kvm_intel, kvm_amd"):
        open_one(path)


def test_an_image_takes_its_modules_from_where_they_are_installed(tmp_path: Path) -> None:
    write_tree(tmp_path, kernel_files())
    assert is_whole(open_one(tmp_path / f"boot/vmlinuz-{RELEASE}"))
    alone = tmp_path / "bzImage"
    alone.write_bytes(image())
    assert (open_one(alone).version, set(open_one(alone).code)) == (VERSION, {"vmlinux"})


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_vmlinux_is_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vmlinux{suffix}"
    data = elf({".BTF": FIXED, ".rodata": f"\0Linux version {BANNER}\n\0".encode()})
    path.write_bytes(PACKERS[suffix](data))
    parts = open_one(path)
    assert (parts.release, parts.version, set(parts.btf)) == (RELEASE, VERSION, {"vmlinux"})


def test_ubuntu_s_signature_gives_the_upstream_version(tmp_path: Path) -> None:
    said = "Linux version 6.8.0-31-generic (a) (b) #31-Ubuntu SMP"
    path = tmp_path / "vmlinux"
    path.write_bytes(
        elf({".BTF": FIXED, ".rodata": f"\0{said}\n\0Ubuntu 6.8.0-31.31-generic 6.8.1\0".encode()})
    )
    assert open_one(path).version == (6, 8, 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xed\xab\xee\xdb", "is not a complete RPM package"),
        (b"", "its header lacks the boot flag or HdrS"),
        (elf(machine=183), "it is built for arm64, kvmtest is for x86-64"),
        (b"\x7fELF", "its ELF file is damaged"),
        (bytes(56) + b"ARM\x64", "a kernel for arm64"),
        (lzma.compress(b"text"), "can't be examined: its ELF file is damaged"),
        (image()[:2620], "can't be examined: .*(damaged|cut off)"),
    ],
)  # fmt: skip
def test_what_is_no_kernel_is_told_in_one_line(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(EnvironmentUnfit, match=why):
        open_one(path)


@pytest.mark.parametrize(("name", "data"), [("k.deb", b""), ("k", b"\xed\xab\xee\xdb")])
def test_a_package_that_can_not_be_read_is_alone_and_told_when_it_is_opened(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert grouped([str(path), "x"]) == [[str(path)], ["x"]]
    with pytest.raises(EnvironmentUnfit, match=r"is not a complete .* package"):
        open_one(path)


def test_a_target_that_is_not_there_says_what_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*/nowhere: name a package"):
        open_one(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="there is no target ''"):
        open_one("")
    with pytest.raises(UsageError, match="holds no kernel"):
        open_one(tmp_path)


def test_a_damaged_module_costs_only_itself(tmp_path: Path) -> None:
    write_tree(tmp_path, kernel_files())
    broken = tmp_path / f"lib/modules/{RELEASE}/{FOLDER}/kvm-amd.ko"
    broken.write_bytes(b"\x7fELF")
    parts = open_one(tmp_path)
    assert set(parts.code) == {"vmlinux", "kvm", "kvm_intel"}
    (line,) = parts.lacks
    assert line.startswith(f"the module {broken} can't be examined")


def test_a_module_of_another_build_is_left_out(tmp_path: Path) -> None:
    write_tree(tmp_path, kernel_files())
    stray = tmp_path / f"lib/modules/{RELEASE}/{FOLDER}/kvm-amd.ko"
    stray.write_bytes(typed("kvm_amd", "5.10.0-other"))
    (line,) = open_one(tmp_path).lacks
    assert line == f"{stray} is built for 5.10.0-other, not for {RELEASE}: it was left out"


def test_an_image_of_another_build_is_left_out(tmp_path: Path) -> None:
    files = kernel_files()
    files[f"boot/vmlinuz-{RELEASE}"] = image("5.10.0-other")
    (line,) = open_one(write_tree(tmp_path, files)).lacks
    path = tmp_path / f"boot/vmlinuz-{RELEASE}"
    assert line == f"{path} is of 5.10.0-other, not of {RELEASE}: it was left out"


def test_an_image_that_is_not_named_by_its_release_is_of_the_kernel_that_it_says(
    tmp_path: Path,
) -> None:
    files = kernel_files(".zst")
    files["boot/vmlinuz-linux"] = files.pop(f"boot/vmlinuz-{RELEASE}")
    assert is_whole(open_one(write_tree(tmp_path, files)))


def test_of_two_modules_the_one_that_modprobe_loads_counts(tmp_path: Path) -> None:
    folder = tmp_path / "lib/modules" / RELEASE
    write_tree(tmp_path, kernel_files())
    write_tree(folder, {"updates/kvm-intel.ko": module("kvm_intel", body=b"newer"),
                        "modules.dep": b"updates/kvm-intel.ko:\n"})  # fmt: skip
    assert b"newer" in open_one(folder).code["kvm_intel"]


def test_built_in_modules_are_named(tmp_path: Path) -> None:
    folder = f"lib/modules/{RELEASE}"
    names = (
        b"kernel/arch/x86/kvm/kvm.ko\nkernel/arch/x86/kvm/kvm-intel.ko\nkernel/fs/ext4/ext4.ko\n"
    )
    write_tree(tmp_path, {f"boot/vmlinuz-{RELEASE}": image(), f"{folder}/modules.builtin": names})
    parts = open_one(tmp_path)
    assert (parts.builtin, parts.lacks) == ({"kvm", "kvm_intel"}, ())


def test_a_package_of_a_kernel_with_kvm_built_in_lacks_nothing(tmp_path: Path) -> None:
    files = {
        f"boot/vmlinuz-{RELEASE}": image(),
        f"lib/modules/{RELEASE}/modules.builtin": b"kernel/arch/x86/kvm/kvm.ko\n",
    }
    assert open_one(deb(tmp_path / "k.deb", files)).lacks == ()


def test_a_source_tree_is_read_file_by_file(tmp_path: Path) -> None:
    parts = open_one(write_tree(tmp_path, source_files()))
    assert (parts.release, parts.version, parts.commit) == ("6.12.7", VERSION, "")
    assert parts.source
    assert parts.source("arch/x86/kvm/vmx/vmx.c") == "int vmx;"
    assert parts.source("arch/x86/kvm/none.c") is None
    assert parts.source("arch/x86/kvm") is None


@pytest.mark.parametrize("image_name", ["arch/x86/boot/bzImage", "vmlinux"])
def test_a_build_tree_has_source_and_what_was_built_of_it(tmp_path: Path, image_name: str) -> None:
    write_tree(tmp_path, source_files())
    write_tree(tmp_path, {"include/config/kernel.release": f"{RELEASE}\n".encode(),
                          image_name: image()})  # fmt: skip
    write_tree(tmp_path / "arch/x86/kvm", {f"{n}.ko": typed(n) for n in ("kvm", "kvm_intel")})
    parts = open_one(tmp_path)
    assert (parts.release, set(parts.code)) == (RELEASE, {"vmlinux", "kvm", "kvm_intel"})
    assert parts.source
    assert parts.source("arch/x86/kvm/x86.c") == "int x86;"
    assert has_fix(open_one(tmp_path / "arch/x86/kvm/kvm.ko"))
    assert has_fix(open_one(tmp_path / image_name))


def test_a_folder_of_modules_alone_is_opened_by_release(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a/kvm.ko": typed("kvm"), "b/kvm.ko": typed("kvm", "6.1.0-other")})
    assert [each.release for each in opened([str(tmp_path)])] == ["6.1.0-other", RELEASE]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=list(PACKERS))
def test_a_source_tarball_is_read(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    files = {f"linux-6.12.7/{name}": data for name, data in source_files().items()}
    parts = open_one(tar(tmp_path / "linux.tar", files, pack))
    assert (parts.version, parts.code) == (VERSION, {})
    assert parts.source
    assert parts.source("arch/x86/include/uapi/asm/kvm.h") == "/* quirks */"


def test_nothing_is_read_behind_the_part_of_a_source_tarball_that_counts(tmp_path: Path) -> None:
    files = {f"linux/{name}": data for name, data in source_files().items()}
    path = tar(tmp_path / "linux.tar", {**files, "linux/virt/large": os.urandom(1 << 22)})
    path.write_bytes(path.read_bytes()[: -(1 << 21)])
    assert open_one(path).version == VERSION


def test_a_source_package_is_read_without_unpacking_it(tmp_path: Path) -> None:
    files = {f"linux-source-6.12/{name}": data for name, data in source_files().items()}
    inner = tar(tmp_path / "inner", files, lzma.compress).read_bytes()
    path = deb(tmp_path / "s.deb", {"usr/src/linux-source-6.12.tar.xz": inner},
               package="linux-source-6.12", architecture="all")  # fmt: skip
    parts = open_one(path)
    assert (parts.package, parts.version) == ("linux-source-6.12 6.12.7-1", VERSION)
    empty = deb(tmp_path / "e.deb", {}, package="linux-source", architecture="all")
    with pytest.raises(UsageError, match="has no source in it"):
        open_one(empty)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, "-C", folder, *words], capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


def test_a_git_repository_is_read_at_a_revision(tmp_path: Path) -> None:
    work = write_tree(tmp_path / "linux", source_files())
    git(tmp_path, "init", "-q", "-b", "main", "linux")
    git(work, "add", ".")
    git(work, "commit", "-qm", "old")
    git(work, "tag", "v6.12.7")
    first = git(work, "rev-parse", "--short=12", "HEAD")
    write_tree(work, source_files("6.12.8") | {"arch/x86/kvm/x86.c": b"int newer;"})
    git(work, "commit", "-qam", "new")
    (work / "arch/x86/kvm/x86.c").write_text("int edited;")

    here = open_one(work)
    newest = git(work, "rev-parse", "--short=12", "HEAD")
    assert (here.commit, here.origin) == ("", f"the source tree {work}, a work tree on {newest}")
    assert here.source
    assert here.source("arch/x86/kvm/x86.c") == "int edited;"
    for revision in ("v6.12.7", "HEAD~1", "HEAD@{0}~1", first):
        old = open_one(f"{work}@{revision}")
        assert (old.version, old.commit, old.release) == (VERSION, first, "6.12.7")
        assert old.source
        assert old.source("arch/x86/kvm/x86.c") == "int x86;"
        assert old.source("arch/x86/kvm/none.c") is None
    git(tmp_path, "clone", "-q", "--bare", "linux", "bare@home.git")
    assert open_one(tmp_path / "bare@home.git").version == (6, 12, 8)
    assert open_one(f"{tmp_path}/bare@home.git@v6.12.7").commit == first
    for wrong in ("v9.9", "--output=/tmp/x", "HEAD:Makefile"):
        with pytest.raises(UsageError, match="has no revision"):
            open_one(f"{work}@{wrong}")


def test_the_repository_of_a_hook_s_environment_is_not_the_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = write_tree(tmp_path / "linux", source_files())
    git(tmp_path, "init", "-q", "-b", "main", "linux")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    assert open_one(f"{work}@HEAD").version == VERSION


def test_a_repository_of_something_else_is_no_kernel(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "other")
    write_tree(tmp_path / "other", {"README": b""})
    git(tmp_path / "other", "add", ".")
    git(tmp_path / "other", "commit", "-qm", "one")
    for target in (tmp_path / "other", f"{tmp_path}/other@HEAD"):
        with pytest.raises(UsageError, match="is no kernel's source: it lacks arch/x86/kvm"):
            open_one(target)


def test_nothing_of_a_repository_s_configuration_is_run(tmp_path: Path) -> None:
    work = write_tree(
        tmp_path / "linux", {**source_files(), ".gitattributes": b"* filter=f diff=f\n"}
    )
    git(tmp_path, "init", "-q", "-b", "main", "linux")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    trap = f"touch {tmp_path}/ran"
    for key in ("core.fsmonitor", "core.pager", "filter.f.smudge", "filter.f.clean",
                "diff.f.textconv", "core.sshCommand", "core.alternateRefsCommand"):  # fmt: skip
        git(work, "config", key, trap)
    (tmp_path / "ran").unlink(missing_ok=True)
    assert "a work tree on" in open_one(work).origin
    assert open_one(f"{work}@HEAD").commit
    assert not (tmp_path / "ran").exists()
