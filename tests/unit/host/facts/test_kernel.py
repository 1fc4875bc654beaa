"""What is told of the running kernel, on stand-in trees and on this machine."""

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kvm_types import KvmTypes, fixed, vmlinux

from kvmtest.host.facts.kernel import (
    Config,
    FoundBtf,
    Kernel,
    fix_presence,
    module_btf,
    read_config,
    vmlinux_btf,
)
from kvmtest.host.tree import Tree
from kvmtest.kernels.fix import FixPresence
from kvmtest.missing import Missing

DEBIAN = (
    "Linux version 6.1.0-37-amd64 (debian-kernel@lists.debian.org) "
    "(gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) "
    "#1 SMP PREEMPT_DYNAMIC "
    "Debian 6.1.140-1 (2025-05-22)"
)
UBUNTU = (
    "Linux version 6.8.0-45-generic (buildd@lcy02-amd64-115) (x86_64-linux-gnu-gcc-13 (Ubuntu "
    "13.2.0-23ubuntu4) 13.2.0, GNU ld (GNU Binutils for Ubuntu) 2.42) #45-Ubuntu SMP "
    "PREEMPT_DYNAMIC Fri Aug 30 12:02:04 UTC 2024"
)
REPRODUCIBLE = "Linux version 6.18.44 (builder@host) (gcc (GCC) 15.3.0, GNU ld 2.46) #1 SMP @0"


def tree_of(root: Path, **files: str | bytes) -> Tree:
    """Write a stand-in tree; in a name ``__`` stands for a slash."""
    for name, content in files.items():
        write(root, name.replace("__", "/"), content)
    return Tree(root)


def write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def kernel_of(root: Path, version: str, **files: str | bytes) -> Kernel:
    release = version.split()[2]
    files |= {"proc__version": version + "\n", "proc__sys__kernel__osrelease": release + "\n"}
    kernel = Kernel.of(tree_of(root, **files))
    assert isinstance(kernel, Kernel)
    return kernel


def gzip(text: str) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(text.encode()) + packer.flush()


# Release and version


def test_a_debian_kernel_gives_the_upstream_version_it_is_built_from(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, DEBIAN)
    assert kernel.release == "6.1.0-37-amd64"
    assert kernel.version == (6, 1, 140)
    assert kernel.version_string == DEBIAN
    assert kernel.build_date == "2025-05-22"
    assert kernel.compiler == (
        "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40"
    )


def test_an_ubuntu_kernel_gives_the_upstream_version_of_its_signature(tmp_path: Path) -> None:
    signature = "Ubuntu 6.8.0-45.45-generic 6.8.12\n"
    kernel = kernel_of(tmp_path, UBUNTU, proc__version_signature=signature)
    assert kernel.version == (6, 8, 12)
    assert kernel.build_date == "Fri Aug 30 12:02:04 UTC 2024"


def test_a_kernel_of_its_own_has_the_version_of_its_release(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, REPRODUCIBLE)
    assert kernel.version == (6, 18, 44)
    assert kernel.compiler == "gcc (GCC) 15.3.0, GNU ld 2.46"
    assert kernel.build_date is None


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.17.0-rc3+", (6, 17, 0)), ("7.3-custom", (7, 3, 0)), ("custom", None)],
)
def test_the_version_is_the_release_s_numbers(
    tmp_path: Path, release: str, version: tuple[int, int, int] | None
) -> None:
    assert kernel_of(tmp_path, f"Linux version {release} (me) (cc) #1").version == version


def test_the_release_is_read_from_the_version_string_where_osrelease_is_absent(
    tmp_path: Path,
) -> None:
    kernel = Kernel.of(tree_of(tmp_path, proc__version=DEBIAN))
    assert isinstance(kernel, Kernel)
    assert kernel.release == "6.1.0-37-amd64"


def test_a_tree_without_proc_says_what_to_mount(tmp_path: Path) -> None:
    missing = Kernel.of(Tree(tmp_path))
    assert isinstance(missing, Missing)
    assert "mount procfs" in missing.remedy


@given(st.text())
def test_any_version_string_is_told_without_a_crash(version_string: str) -> None:
    class Proc(Tree):
        def read(self, name: str) -> str | None:
            return version_string if name == "/proc/version" else "6.1.0"

    kernel = Kernel.of(Proc(Path("/nonexistent")))
    assert isinstance(kernel, Kernel)
    assert kernel.version == (6, 1, 0)


# Configuration

CONFIG = """\
# Linux/x86 6.1.140 Kernel Configuration
CONFIG_KVM=m
CONFIG_KVM_INTEL=m
# CONFIG_KVM_AMD is not set
CONFIG_DEBUG_INFO_BTF=y
CONFIG_LSM="landlock,lockdown"
CONFIG_NR_CPUS=8192
"""


def test_options_have_their_values(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, DEBIAN, **{"boot__config-6.1.0-37-amd64": CONFIG})
    options = ("KVM_INTEL", "CONFIG_KVM", "DEBUG_INFO_BTF", "LSM", "NR_CPUS")
    assert [kernel.config(o) for o in options] == ["m", "m", "y", "landlock,lockdown", "8192"]
    assert kernel.config("KVM_AMD") is None
    assert kernel.config("NO_SUCH_OPTION") is None


def test_the_running_kernel_s_own_configuration_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "/proc/config.gz", gzip("CONFIG_KVM=y\n"))
    write(tmp_path, "/boot/config-6.18.44", "CONFIG_KVM=m\n")
    kernel = kernel_of(tmp_path, REPRODUCIBLE)
    assert kernel.config("KVM") == "y"
    assert isinstance(kernel.configuration, Config)
    assert kernel.configuration.source == "/proc/config.gz"


@pytest.mark.parametrize(
    "place", ["/boot/config-6.1", "/lib/modules/6.1/config", "/lib/modules/6.1/build/.config"]
)
def test_every_usual_place_is_looked_at(tmp_path: Path, place: str) -> None:
    write(tmp_path, place, CONFIG)
    config = read_config(Tree(tmp_path), "6.1")
    assert isinstance(config, Config)
    assert (config.source, config.get("KVM")) == (place, "m")


def test_a_broken_config_gz_gives_way_to_the_next_place(tmp_path: Path) -> None:
    write(tmp_path, "/proc/config.gz", gzip(CONFIG)[:40])
    write(tmp_path, "/boot/config-6.1", CONFIG)
    config = read_config(Tree(tmp_path), "6.1")
    assert isinstance(config, Config)
    assert config.source == "/boot/config-6.1"


@pytest.mark.parametrize("data", [b"", b"not gzip", gzip(CONFIG)[:40]])
def test_a_broken_config_gz_alone_is_named(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, "/proc/config.gz", data)
    missing = read_config(Tree(tmp_path), "6.1")
    assert isinstance(missing, Missing)
    assert "can't be read from /proc/config.gz" in missing.what


def test_an_absent_configuration_says_where_to_put_one(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, DEBIAN)
    missing = kernel.config("KVM")
    assert isinstance(missing, Missing)
    assert missing.remedy == "copy the kernel's .config to /boot/config-6.1.0-37-amd64"


# BTF of KVM

VMLINUX = "sys__kernel__btf__vmlinux"
KVM_SPLIT = "sys__kernel__btf__kvm"


def test_a_kvm_module_is_described_by_split_btf(tmp_path: Path) -> None:
    base = vmlinux()
    split = fixed(KvmTypes(base))
    seen = fix_presence(tree_of(tmp_path, **{VMLINUX: base.bytes(), KVM_SPLIT: split.bytes()}))
    assert isinstance(seen, FixPresence)
    assert seen.where == "/sys/kernel/btf/kvm over /sys/kernel/btf/vmlinux"
    assert (seen.ops_copies_with_host_owned_debugctl > 0, seen.host_debugctl_offset) == (True, 528)


@pytest.mark.parametrize(
    "files",
    [
        {"sys__module__kvm__parameters__halt_poll_ns": "200000"},
        {"proc__version": REPRODUCIBLE, "boot__config-6.18.44": "CONFIG_KVM=y\n"},
    ],
)
def test_built_in_kvm_is_described_by_vmlinux(tmp_path: Path, files: dict[str, str]) -> None:
    seen = fix_presence(tree_of(tmp_path, **files, **{VMLINUX: fixed(vmlinux()).bytes()}))
    assert isinstance(seen, FixPresence)
    assert seen.where == "/sys/kernel/btf/vmlinux"
    assert seen.ops_copies_with_host_owned_debugctl


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        (
            {"sys__module__kvm__initstate": "live"},
            "module kvm is loaded and has no BTF",
            "CONFIG_DEBUG_INFO_BTF_MODULES=y",
        ),
        (
            {"boot__config-6.18.44": "CONFIG_KVM=m\n"},
            "module kvm is not loaded",
            "modprobe kvm",
        ),
        ({}, "module kvm is not loaded", "modprobe kvm"),
        (
            {"boot__config-6.18.44": "CONFIG_SMP=y\n# CONFIG_KVM is not set\n"},
            "built without CONFIG_KVM",
            "boot a kernel built with CONFIG_KVM",
        ),
    ],
)
def test_kvm_that_vmlinux_does_not_describe_is_missing(
    tmp_path: Path, files: dict[str, str], what: str, remedy: str
) -> None:
    btf: dict[str, str | bytes] = {VMLINUX: vmlinux().bytes(), "proc__version": REPRODUCIBLE}
    missing = fix_presence(tree_of(tmp_path, **btf, **files))
    assert isinstance(missing, Missing)
    assert what in missing.what
    assert remedy in missing.remedy


@pytest.mark.parametrize(
    ("config", "what", "remedy"),
    [
        ("CONFIG_KVM=y\n", "built without CONFIG_DEBUG_INFO_BTF", "boot a kernel"),
        ("CONFIG_KVM=y\nCONFIG_DEBUG_INFO_BTF=y\n", "absent although", "mount sysfs"),
        ("", "shows no BTF", "CONFIG_DEBUG_INFO_BTF=y"),
    ],
)
def test_absent_btf_says_why(tmp_path: Path, config: str, what: str, remedy: str) -> None:
    files = {
        "proc__version": REPRODUCIBLE,
        "boot__config-6.18.44": config,
        "sys__module__kvm__parameters__halt_poll_ns": "0",
    }
    missing = fix_presence(tree_of(tmp_path, **files))
    assert isinstance(missing, Missing)
    assert what in missing.what
    assert remedy in missing.remedy


@pytest.mark.parametrize("name", ["vmlinux", "kvm"])
def test_btf_that_can_t_be_read_is_named(tmp_path: Path, name: str) -> None:
    tree = tree_of(tmp_path, **{VMLINUX: vmlinux().bytes(), KVM_SPLIT: b"-"})
    path = tmp_path / "sys/kernel/btf" / name
    path.unlink()
    # A directory is as unreadable to root as a file without permission is to others.
    path.mkdir()
    missing = fix_presence(tree)
    assert missing == Missing(f"/sys/kernel/btf/{name} can't be read", "run as root")


@pytest.mark.parametrize("name", ["vmlinux", "kvm"])
def test_corrupt_btf_is_named(tmp_path: Path, name: str) -> None:
    base = vmlinux()
    tree = tree_of(tmp_path, **{VMLINUX: base.bytes(), KVM_SPLIT: fixed(KvmTypes(base)).bytes()})
    write(tmp_path, f"sys/kernel/btf/{name}", b"\x7fELF" + bytes(40))
    missing = fix_presence(tree)
    assert isinstance(missing, Missing)
    assert f"the BTF in /sys/kernel/btf/{name} can't be understood (not BTF" in missing.what


def test_types_cut_short_are_missing_and_no_crash(tmp_path: Path) -> None:
    base = vmlinux()
    split = fixed(KvmTypes(base))
    split.types = split.types[:-4]
    missing = fix_presence(tree_of(tmp_path, **{VMLINUX: base.bytes(), KVM_SPLIT: split.bytes()}))
    assert isinstance(missing, Missing)
    assert "truncated" in missing.what


def test_other_modules_have_btf_of_their_own(tmp_path: Path) -> None:
    base = vmlinux()
    split = KvmTypes(base)
    split.record("vcpu_vmx", ("exit_reason", 1, 0))
    files = {VMLINUX: base.bytes(), "sys__kernel__btf__kvm_intel": split.bytes()}
    found = module_btf(tree_of(tmp_path, **files), "kvm_intel")
    assert isinstance(found, FoundBtf)
    assert found.btf.offsets("vcpu_vmx", "exit_reason")


# This machine


def test_this_machine_s_kernel_has_release_and_version() -> None:
    kernel = Kernel.of(Tree())
    assert isinstance(kernel, Kernel)
    assert kernel.version_string.startswith(f"Linux version {kernel.release} ")
    assert kernel.version is not None
    assert kernel.version > (2, 6, 0)


def test_this_machine_s_kernel_shows_what_its_version_has() -> None:
    kernel, seen = Kernel.of(Tree()), fix_presence(Tree())
    if isinstance(seen, Missing):
        pytest.skip(str(seen))
    assert isinstance(kernel, Kernel)
    assert seen.has_control
    if kernel.version and kernel.version >= (6, 17, 0):
        assert seen.ops_copies_with_host_owned_debugctl
        assert seen.load_debugctl
        assert seen.host_debugctl_offset


def test_this_machine_s_vmlinux_btf_can_be_read() -> None:
    btf = vmlinux_btf(Tree())
    if isinstance(btf, Missing):
        pytest.skip(str(btf))
    assert btf.structs("task_struct")
