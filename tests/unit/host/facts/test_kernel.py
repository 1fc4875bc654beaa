"""What is told of the running kernel, on stand-in trees and on this machine."""

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.host.facts.kernel import (
    Config,
    FixPresence,
    FoundBtf,
    Kernel,
    build_date,
    fix_presence,
    module_btf,
    observe_fix,
    parse_config,
    read_config,
    upstream_version,
    vmlinux_btf,
)
from kvmtest.host.tree import Tree
from kvmtest.kernels.btf import Btf, Kind
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


# A build as the distributions' kernels say it, and its date.
BUILDS = {
    "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-20)": "2026-11-20",
    "#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1~bpo12+1 (2025-09-06)": "2025-09-06",
    "#1 SMP PREEMPT_RT Debian 6.1.170-3 (2026-05-08)": "2026-05-08",
    "#1 SMP PREEMPT Debian 1:6.6.31-1+rpt1 (2024-05-29)": "2024-05-29",
    "#1 SMP PREEMPT_DYNAMIC Kali 6.11.2-1kali1 (2024-10-15)": "2024-10-15",
    "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-1 (2024-08-05T16:17Z)": "2024-08-05",
    "#1 SMP PVE 5.15.30-3 (Fri, 22 Apr 2022 18:08:27 +0200)": "Fri, 22 Apr 2022 18:08:27 +0200",
    "#31-Ubuntu SMP PREEMPT_DYNAMIC Sat Apr 20 00:40:06 UTC 2024": "Sat Apr 20 00:40:06 UTC 2024",
    "#202411220723 SMP PREEMPT_DYNAMIC Fri Nov 22 12:34:56 UTC 2024": (
        "Fri Nov 22 12:34:56 UTC 2024"
    ),
    "#1 SMP PREEMPT_DYNAMIC Thu Oct 24 12:00:00 UTC 2024 (4d9e7fe)": "Thu Oct 24 12:00:00 UTC 2024",
    "#1 SMP PREEMPT_DYNAMIC Wed Oct  2 05:43:48 EDT 2024": "Wed Oct  2 05:43:48 EDT 2024",
    "#2 SMP Tue Nov 5 01:02:03 2024": "Tue Nov 5 01:02:03 2024",
    "#1 SMP PREEMPT_DYNAMIC Mon Jun 3 10:00:00 +03 2024": "Mon Jun 3 10:00:00 +03 2024",
    "#1 SMP PREEMPT_DYNAMIC Fri, 08 Nov 2024 17:02:33 +0000": "Fri, 08 Nov 2024 17:02:33 +0000",
    "#1 SMP PREEMPT Fri, 8 Nov 2024 17:02:33 -0800": "Fri, 8 Nov 2024 17:02:33 -0800",
    "#1-Alpine SMP PREEMPT_DYNAMIC 2024-11-14 09:26:52": "2024-11-14",
    "#1-NixOS SMP PREEMPT_DYNAMIC Tue Jan  1 00:00:00 UTC 1980": "Tue Jan  1 00:00:00 UTC 1980",
    # kbuild cuts them at 64 characters: the year is lost, and no other is made of what is left.
    "#28~24.04.1-Ubuntu SMP PREEMPT_DYNAMIC Wed Jul  1 15:50:57 UTC 2": None,
    "#40~22.04.3-Ubuntu SMP PREEMPT_DYNAMIC Tue Jul 30 17:30:19 UTC 202": None,
    "#0~20241108.g1b28b3d SMP PREEMPT_DYNAMIC Fri Nov  8 17:22:22 UTC": None,
    "#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1~bpo12+1~longer (2025-09-0": None,
    "#1 SMP @0": None,
    "#1": None,
    "": None,
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "before",
    [
        "",
        "6.1.0 (me@host) ",
        "Linux version 6.1.0 (me@host) (gcc (GCC) 14.2.1 20240910, GNU ld 2.43) ",
        "Linux version 6.1.0 (me@host) (clang version 18.1.8 (tag 2024-01-01), LLD 18.1.8) ",
    ],
    ids=["uname -v", "bzImage", "gcc", "clang"],
)
def test_a_build_s_date_is_taken_as_each_distribution_writes_it(build: str, before: str) -> None:
    assert build_date(before + build) == BUILDS[build]


def test_an_epoch_is_no_part_of_the_version() -> None:
    banner = "6.6.31+rpt-rpi-v8 (me@host) #1 SMP PREEMPT Debian 1:6.6.31-1+rpt1 (2024-05-29)"
    assert upstream_version("6.6.0-rpt", banner) == (6, 6, 31)


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


@given(st.text())
def test_any_text_is_parsed_as_configuration(text: str) -> None:
    assert all(name.isascii() for name in parse_config(text))


# BTF of KVM


class Blob:
    """Builds the few types that KVM's BTF is asked for."""

    def __init__(self, base: "Blob | None" = None) -> None:
        self.types = b""
        self.strings = b"" if base else b"\0"
        self.start: int = base.start + len(base.strings) if base else 0
        self.id: int = base.id if base else 0

    def string(self, text: str) -> int:
        self.strings += text.encode() + b"\0"
        return self.start + len(self.strings) - len(text) - 1

    def add(self, kind: Kind, name: str, size: int, words: list[int], vlen: int) -> int:
        record = [self.string(name), kind << 24 | vlen, size, *words]
        self.types += struct.pack(f"={len(record)}I", *record)
        self.id += 1
        return self.id

    def struct_(self, name: str, *members: tuple[str, int, int]) -> int:
        words = [w for key, of, at in members for w in (self.string(key), of, at * 8)]
        return self.add(Kind.STRUCT, name, 8, words, len(members))

    def ops(self, *members: str) -> int:
        return self.struct_("kvm_x86_ops", *((name, 1, 8 * i) for i, name in enumerate(members)))

    def flags(self, **values: int) -> int:
        words = [word for key, value in values.items() for word in (self.string(key), value)]
        return self.add(Kind.ENUM, "kvm_x86_run_flags", 4, words, len(values))

    def vcpu(self, at: int) -> None:
        arch = self.struct_("kvm_vcpu_arch", ("host_debugctl", 1, 28))
        self.struct_("kvm_vcpu", ("arch", arch, at))

    def bytes(self) -> bytes:
        types, strings = len(self.types), len(self.strings)
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, types, types, strings)
        return header + self.types + self.strings


def vmlinux() -> Blob:
    blob = Blob()
    blob.add(Kind.INT, "u64", 8, [64], 0)
    return blob


def fixed(blob: Blob) -> Blob:
    blob.ops("vcpu_run", "HOST_OWNED_DEBUGCTL")
    blob.flags(KVM_RUN_FORCE_IMMEDIATE_EXIT=1, KVM_RUN_LOAD_DEBUGCTL=4)
    blob.vcpu(500)
    return blob


def observe(blob: Blob) -> FixPresence:
    return observe_fix(Btf(blob.bytes()), "a blob")


def test_a_fixed_kernel_shows_the_member_the_flags_and_the_offset() -> None:
    seen = observe(fixed(vmlinux()))
    assert (seen.has_host_owned_debugctl, seen.has_run_flags_enum, seen.has_control) == (True,) * 3
    assert (seen.load_debugctl, seen.host_debugctl_offset) == (4, 528)
    assert (seen.ops_copies, seen.control_members, seen.where) == (1, ("vcpu_run",), "a blob")


@pytest.mark.parametrize("run", ["vcpu_run", "run"])
def test_an_unfixed_kernel_shows_the_control_alone(run: str) -> None:
    blob = vmlinux()
    blob.ops("vcpu_create", run)
    seen = observe(blob)
    assert (seen.has_host_owned_debugctl, seen.has_run_flags_enum) == (False, False)
    assert (seen.has_control, seen.control_members) == (True, (run,))
    assert (seen.load_debugctl, seen.host_debugctl_offset) == (None, None)


def test_the_run_flags_alone_are_told_apart_from_the_fix() -> None:
    blob = vmlinux()
    blob.ops("vcpu_run")
    blob.flags(KVM_RUN_FORCE_IMMEDIATE_EXIT=1)
    seen = observe(blob)
    assert (seen.has_run_flags_enum, seen.load_debugctl) == (True, None)
    assert not seen.has_host_owned_debugctl


def test_btf_of_something_else_shows_no_control() -> None:
    seen = observe(vmlinux())
    assert (seen.ops_copies, seen.has_control, seen.has_host_owned_debugctl) == (0, False, False)


def test_a_stripped_struct_shows_no_control() -> None:
    blob = vmlinux()
    blob.ops("name")
    assert not observe(blob).has_control


def test_all_copies_are_counted() -> None:
    blob = fixed(fixed(vmlinux()))
    blob.ops("vcpu_run")
    blob.vcpu(508)
    seen = observe(blob)
    assert (seen.ops_copies, seen.ops_copies_with_host_owned_debugctl) == (3, 2)
    assert (seen.host_debugctl_offsets, seen.host_debugctl_offset) == ((528, 536), None)
    assert (seen.has_host_owned_debugctl, seen.has_control) == (True, True)


def test_one_stripped_copy_spoils_the_control() -> None:
    blob = fixed(vmlinux())
    blob.ops("name")
    seen = observe(blob)
    assert (seen.ops_copies_with_control, seen.has_control) == (1, False)


# Finding it

VMLINUX = "sys__kernel__btf__vmlinux"
KVM_SPLIT = "sys__kernel__btf__kvm"


def test_a_kvm_module_is_described_by_split_btf(tmp_path: Path) -> None:
    base = vmlinux()
    split = fixed(Blob(base))
    seen = fix_presence(tree_of(tmp_path, **{VMLINUX: base.bytes(), KVM_SPLIT: split.bytes()}))
    assert isinstance(seen, FixPresence)
    assert seen.where == "/sys/kernel/btf/kvm over /sys/kernel/btf/vmlinux"
    assert (seen.has_host_owned_debugctl, seen.host_debugctl_offset) == (True, 528)


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
    assert seen.has_host_owned_debugctl


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
    tree = tree_of(tmp_path, **{VMLINUX: base.bytes(), KVM_SPLIT: fixed(Blob(base)).bytes()})
    write(tmp_path, f"sys/kernel/btf/{name}", b"\x7fELF" + bytes(40))
    missing = fix_presence(tree)
    assert isinstance(missing, Missing)
    assert f"the BTF in /sys/kernel/btf/{name} can't be understood (not BTF" in missing.what


def test_types_cut_short_are_missing_and_no_crash(tmp_path: Path) -> None:
    base = vmlinux()
    split = fixed(Blob(base))
    split.types = split.types[:-4]
    missing = fix_presence(tree_of(tmp_path, **{VMLINUX: base.bytes(), KVM_SPLIT: split.bytes()}))
    assert isinstance(missing, Missing)
    assert "truncated" in missing.what


def test_other_modules_have_btf_of_their_own(tmp_path: Path) -> None:
    base = vmlinux()
    split = Blob(base)
    split.struct_("vcpu_vmx", ("exit_reason", 1, 0))
    files = {VMLINUX: base.bytes(), "sys__kernel__btf__kvm_intel": split.bytes()}
    found = module_btf(tree_of(tmp_path, **files), "kvm_intel")
    assert isinstance(found, FoundBtf)
    assert found.btf.has_member("vcpu_vmx", "exit_reason")


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
        assert seen.has_host_owned_debugctl
        assert seen.load_debugctl
        assert seen.host_debugctl_offset


def test_this_machine_s_vmlinux_btf_can_be_read() -> None:
    btf = vmlinux_btf(Tree())
    if isinstance(btf, Missing):
        pytest.skip(str(btf))
    assert btf.structs("task_struct")
