"""MSRs are read through the device of each CPU, and each way of having no access is told apart."""

import errno
import gzip
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stand_in import stand_in

from kvmtest.host.changes.msr import write_msr
from kvmtest.host.facts import msr
from kvmtest.host.facts.msr import MsrAccess, MsrError
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

FREEZE = msr.IA32_DEBUGCTL_FREEZE_WHILE_SMM


def machine(root: Path, *debugctl: int) -> Tree:
    """A machine with a CPU for each value of IA32_DEBUGCTL."""
    cpuinfo = "".join(
        f"processor: {cpu}\nvendor_id: GenuineIntel\nflags: msr\n\n" for cpu in range(len(debugctl))
    )
    files: dict[str, str | bytes] = {"/proc/cpuinfo": cpuinfo}
    for cpu, value in enumerate(debugctl):
        files[f"/dev/cpu/{cpu}/msr"] = bytes(msr.IA32_DEBUGCTL) + value.to_bytes(8, "little")
    return stand_in(root, files)


def granted(tree: Tree) -> MsrAccess:
    msrs = msr.access(tree)
    assert isinstance(msrs, MsrAccess), msrs
    return msrs


def refused(tree: Tree, index: int = msr.IA32_DEBUGCTL) -> Missing:
    missing = msr.access(tree, index)
    assert isinstance(missing, Missing)
    return missing


def test_the_constants_are_those_of_the_sdm() -> None:
    assert (msr.MSR_SMI_COUNT, msr.IA32_DEBUGCTL, msr.IA32_PERF_CAPABILITIES) == (0x34, 473, 837)
    assert FREEZE == 0x4000
    assert msr.IA32_PERF_CAPABILITIES_FREEZE_WHILE_SMM == 0x1000


def test_one_msr_is_read_on_every_online_cpu(tmp_path: Path) -> None:
    msrs = granted(machine(tmp_path, FREEZE, 0, 1 << 63))
    assert msrs.cpus == (0, 1, 2)
    assert msrs.read_all(msr.IA32_DEBUGCTL) == {0: FREEZE, 1: 0, 2: 1 << 63}
    assert msrs.read(msr.IA32_DEBUGCTL, 0) == FREEZE
    assert msrs.write_refusal is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.integers(0, 4096), value=st.integers(0, 2**64 - 1))
def test_what_is_written_is_read_back(tmp_path: Path, index: int, value: int) -> None:
    msrs = MsrAccess(machine(tmp_path, 0), (0,), None)
    write_msr(msrs.tree, index, 0, value)
    assert msrs.read(index, 0) == value


def test_a_refused_msr_names_cpu_index_and_errno(tmp_path: Path) -> None:
    msrs = granted(machine(tmp_path, FREEZE))
    with pytest.raises(
        MsrError, match=r"MSR 0x345 \(IA32_PERF_CAPABILITIES\) on CPU 0 \(EIO\)"
    ) as e:
        msrs.read(msr.IA32_PERF_CAPABILITIES, 0)
    assert (e.value.cpu, e.value.index, e.value.errno) == (0, 0x345, errno.EIO)


def test_reading_and_writing_a_cpu_without_device_are_errors(tmp_path: Path) -> None:
    msrs = granted(machine(tmp_path, FREEZE))
    with pytest.raises(MsrError, match=r"can't read MSR 0x10 on CPU 7 \(ENOENT\)"):
        msrs.read(0x10, 7)
    with pytest.raises(MsrError, match=r"can't write MSR 0x10 on CPU 7 \(ENOENT\)"):
        write_msr(msrs.tree, 0x10, 7, 0)


def test_an_msr_that_one_cpu_refuses_is_missing(tmp_path: Path) -> None:
    tree = machine(tmp_path, FREEZE, FREEZE)
    tree.path("/dev/cpu/1/msr").write_bytes(b"")
    missing = refused(tree)
    assert missing.what.startswith("CPU 1 or the hypervisor above it refuses MSR 0x1d9")


CPUINFO: dict[str, str | bytes] = {
    "/proc/cpuinfo": "processor: 0\nvendor_id: GenuineIntel\nflags: msr\n",
    "/proc/sys/kernel/osrelease": "6.1.0-1-amd64\n",
}


DEP = "/lib/modules/6.1.0-1-amd64/modules.dep"
BUILT_IN = "/lib/modules/6.1.0-1-amd64/modules.builtin"


@pytest.mark.parametrize(
    ("files", "words", "remedy"),
    [
        ({}, "module msr is not loaded", "modprobe msr"),
        ({"/boot/config-6.1.0-1-amd64": "CONFIG_X86_MSR=m\n"}, "not loaded", "modprobe msr"),
        ({"/boot/config-6.1.0-1-amd64": "CONFIG_X86=y\n"}, "is off", "boot"),
        (
            {"/proc/config.gz": gzip.compress(b"CONFIG_X86=y\n# CONFIG_X86_MSR is not set\n")},
            "is off",
            "boot",
        ),
        ({"/proc/config.gz": b"damaged"}, "not loaded", "modprobe msr"),
        ({"/proc/config.gz": gzip.compress(b"CONFIG_X86_MSR=y\n")}, "driver is here", "run"),
        ({"/sys/module/msr/initstate": "live\n"}, "driver is here", "run"),
        ({DEP: "kernel/fs/ext4.ko:\n"}, "not shipped with this kernel", "install the package"),
        (
            {DEP: "kernel/fs/ext4.ko:\n", "/boot/config-6.1.0-1-amd64": "CONFIG_X86_MSR=m\n"},
            "not shipped with this kernel",
            "install the package",
        ),
        ({DEP: "kernel/arch/x86/kernel/msr.ko:\n"}, "not loaded", "modprobe msr"),
        ({BUILT_IN: "kernel/arch/x86/kernel/msr.ko\n"}, "driver is here", "run"),
    ],
)
def test_each_way_of_having_no_device_is_told_apart(
    tmp_path: Path, files: dict[str, str | bytes], words: str, remedy: str
) -> None:
    missing = refused(stand_in(tmp_path, CPUINFO | files))
    assert words in missing.what
    assert missing.remedy.startswith(remedy)


def test_no_permission_asks_for_root(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may open every file")
    tree = machine(tmp_path, FREEZE)
    tree.path("/dev/cpu/0/msr").chmod(0)
    assert refused(tree).remedy == "run as root"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"/sys/kernel/security/lockdown": "none [integrity] confidentiality"}, "(integrity)"),
        ({"/sys/module/msr/parameters/allow_writes": "off"}, "allow_writes is off"),
    ],
)
def test_what_refuses_writes_does_not_refuse_reads(
    tmp_path: Path, files: dict[str, str | bytes], words: str
) -> None:
    machine(tmp_path, FREEZE)
    refusal = granted(stand_in(tmp_path, files)).write_refusal
    assert refusal is not None
    assert words in refusal.what


def test_lockdown_that_is_off_refuses_nothing(tmp_path: Path) -> None:
    machine(tmp_path, FREEZE)
    off: dict[str, str | bytes] = {
        "/sys/kernel/security/lockdown": "[none] integrity confidentiality"
    }
    assert granted(stand_in(tmp_path, off)).write_refusal is None


def test_this_machine_gives_access_or_a_reason() -> None:
    msrs = msr.access(Tree())
    if isinstance(msrs, Missing):
        pytest.skip(f"no MSR access: {msrs}")
    assert set(msrs.read_all(msr.IA32_DEBUGCTL)) == set(msrs.cpus)
