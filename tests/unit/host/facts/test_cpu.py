"""Facts about the CPUs come out of /proc/cpuinfo and sysfs as the kernel wrote them."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.cpu import Cpu, CpuListError, cpu_list, cpuid, parse_cpu_list, parse_cpuinfo
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

XEON = """\
processor\t: {n}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Gold 6430
stepping\t: 8
microcode\t: 0x2b000603
flags\t\t: fpu vme msr arch_perfmon vmx {more}
vmx flags\t: vnmi ept unrestricted_guest
power management:

"""


def machine(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root)


def read(tree: Tree) -> Cpu:
    cpu = Cpu.of(tree)
    assert isinstance(cpu, Cpu)
    return cpu


def test_a_xeon_is_read_whole(tmp_path: Path) -> None:
    cpu = read(
        machine(
            tmp_path,
            {
                "/proc/cpuinfo": XEON.format(n=0, more="tsc") + XEON.format(n=1, more="tsc"),
                "/sys/devices/system/cpu/online": "0-1\n",
                "/sys/devices/system/cpu/possible": "0-3\n",
            },
        )
    )
    assert (cpu.vendor, cpu.family, cpu.model, cpu.stepping) == ("intel", 6, 143, 8)
    assert cpu.model_name == "Intel(R) Xeon(R) Gold 6430"
    assert cpu.microcode == 0x2B000603
    assert cpu.features == {"fpu", "vme", "msr", "arch_perfmon", "vmx", "tsc"}
    assert "unrestricted_guest" in cpu.vmx_features
    assert (cpu.online, cpu.possible) == ((0, 1), (0, 1, 2, 3))
    assert not cpu.under_hypervisor


def test_only_features_of_every_cpu_count(tmp_path: Path) -> None:
    text = XEON.format(n=0, more="rtm") + XEON.format(n=1, more="hypervisor")
    cpu = read(machine(tmp_path, {"/proc/cpuinfo": text}))
    assert "vmx" in cpu.features
    assert not {"rtm", "hypervisor"} & cpu.features


def test_without_sysfs_the_cpus_of_cpuinfo_are_the_online_ones(tmp_path: Path) -> None:
    text = XEON.format(n=0, more="") + XEON.format(n=4, more="")
    cpu = read(machine(tmp_path, {"/proc/cpuinfo": text}))
    assert cpu.online == cpu.possible == (0, 4)


@pytest.mark.parametrize(
    ("vendor", "name"),
    [("AuthenticAMD", "amd"), ("GenuineIntel", "intel"), ("HygonGenuine", "HygonGenuine")],
)
def test_vendors_have_short_names(tmp_path: Path, vendor: str, name: str) -> None:
    text = f"processor: 0\nvendor_id: {vendor}\nmicrocode: unknown\nstepping: unknown\n"
    cpu = read(machine(tmp_path, {"/proc/cpuinfo": text}))
    assert cpu.vendor == name
    assert cpu.microcode is None
    assert cpu.stepping == 0
    assert cpu.features == frozenset()


@pytest.mark.parametrize("text", ["", "processor : 0\nBogoMIPS : 50.00\nCPU part : 0xd0c\n"])
def test_a_file_that_describes_no_x86_cpu_is_missing(tmp_path: Path, text: str) -> None:
    missing = Cpu.of(machine(tmp_path, {"/proc/cpuinfo": text}))
    assert isinstance(missing, Missing)
    assert "x86" in missing.what


def test_no_cpuinfo_is_missing(tmp_path: Path) -> None:
    assert isinstance(Cpu.of(Tree(tmp_path)), Missing)


def test_this_machine_is_read() -> None:
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("/proc/cpuinfo is absent")
    cpu = read(Tree())
    assert cpu.online
    assert set(cpu.online) <= set(cpu.possible)
    assert "tsc" in cpu.features


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("0", (0,)), ("\n", ()), ("", ()), ("8,0-1\n", (0, 1, 8))],
)
def test_cpu_lists(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", ",", "1,,2", "0-99999999", "²", "1-2-3"])
def test_what_is_no_cpu_list_is_refused(text: str) -> None:
    with pytest.raises(CpuListError, match="not a CPU list"):
        parse_cpu_list(text)


@given(st.sets(st.integers(0, 8191), max_size=50))
def test_a_list_of_single_cpus_reads_back(cpus: set[int]) -> None:
    assert parse_cpu_list(",".join(map(str, cpus))) == tuple(sorted(cpus))


@given(st.integers(0, 8000), st.integers(0, 191))
def test_a_range_holds_both_its_ends(first: int, more: int) -> None:
    assert parse_cpu_list(f"{first}-{first + more}") == tuple(range(first, first + more + 1))


@given(
    st.sets(st.integers(0, 8191), max_size=50)
    | st.builds(set, st.builds(range, st.integers(0, 99)))
)
def test_a_written_list_reads_back(cpus: set[int]) -> None:
    assert parse_cpu_list(cpu_list(cpus)) == tuple(sorted(cpus))


def test_a_written_list_has_ranges() -> None:
    assert cpu_list([8, 1, 0, 2, 10, 9]) == "0-2,8-10"
    assert cpu_list([3]) == "3"


@given(st.text(alphabet="0123456789-, \nx²"))
def test_any_text_is_a_cpu_list_or_an_error(text: str) -> None:
    try:
        cpus = parse_cpu_list(text)
    except KvmtestError:
        return
    assert list(cpus) == sorted(set(cpus))


@given(st.text())
def test_any_text_is_parsed_as_cpuinfo(text: str) -> None:
    assert all("vendor_id" in cpu for cpu in parse_cpuinfo(text))


def test_a_cpuid_leaf_is_read_at_its_number(tmp_path: Path) -> None:
    device = tmp_path / "dev/cpu/0/cpuid"
    device.parent.mkdir(parents=True)
    with device.open("wb") as file:
        file.seek(0x40000000)
        file.write(struct.pack("<4I", 1, 2, 3, 4))
    leaf = cpuid(Tree(tmp_path), 0x40000000)
    assert leaf == (1, 2, 3, 4)
    assert isinstance(cpuid(Tree(tmp_path), 0x40000010), Missing)


def test_no_cpuid_device_names_the_module(tmp_path: Path) -> None:
    missing = cpuid(Tree(tmp_path), 0)
    assert isinstance(missing, Missing)
    assert missing.remedy == "modprobe cpuid"


def test_the_cpuid_device_agrees_with_cpuinfo() -> None:
    if not os.access("/dev/cpu/0/cpuid", os.R_OK):
        pytest.skip("/dev/cpu/0/cpuid can't be read")
    leaf = cpuid(Tree(), 0)
    assert not isinstance(leaf, Missing)
    vendor = struct.pack("<3I", leaf.ebx, leaf.edx, leaf.ecx).decode()
    assert f"vendor_id\t: {vendor}\n" in Path("/proc/cpuinfo").read_text()
