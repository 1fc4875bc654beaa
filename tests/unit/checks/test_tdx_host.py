"""kvmtest/checks/tdx_host.py: each missing link of a TDX host is told by its own name."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stand_in import KMSG, intel_host, write

from kvmtest.checks.tdx_host import tdx
from kvmtest.host.facts.msr import IA32_PERF_CAPABILITIES
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

VENDOR, KVM = "/sys/module/kvm_intel/parameters", "/sys/module/kvm/parameters"
FEATURES = ("tdx_host_platform", "xsave", "movdir64b", "ss")
MTRRCAP, KEYIDS = 0xFE, 0x87
OPTIONS = ("CONFIG_INTEL_TDX_HOST", "CONFIG_KVM_INTEL_TDX")
MODULE_OK = "virt/tdx: TDX-Module initialized"

Change = Callable[[Tree], None]


def put(name: str, content: str) -> Change:
    return lambda tree: write(tree, name, f"{content}\n") and None


def config(*options: str) -> Change:
    text = "".join(f"{option}=y\n" for option in options)
    return lambda tree: write(tree, "/proc/config.gz", gzip.compress(text.encode())) and None


def log(*lines: str) -> Change:
    records = (f"6,{at},{at},-;{line}" for at, line in enumerate(lines, 1))
    return put(KMSG, "\n".join(records))


def without(*features: str) -> Change:
    def change(tree: Tree) -> None:
        cpus = tree.path("/proc/cpuinfo")
        text = cpus.read_text()
        for feature in features:
            text = text.replace(f" {feature}", "", text.count("processor"))
        cpus.write_text(text)

    return change


def with_feature(feature: str) -> Change:
    def change(tree: Tree) -> None:
        cpus = tree.path("/proc/cpuinfo")
        lines = cpus.read_text().splitlines(keepends=True)
        flags = (f"{x.rstrip()} {feature}\n" if x.startswith("flags") else x for x in lines)
        cpus.write_text("".join(flags))

    return change


def msrs(mtrrcap: int, keyids: int) -> Change:
    content = bytearray(IA32_PERF_CAPABILITIES + 8)
    content[MTRRCAP : MTRRCAP + 8] = mtrrcap.to_bytes(8, "little")
    content[KEYIDS : KEYIDS + 8] = (keyids << 32 | 63).to_bytes(8, "little")
    return lambda tree: write(tree, "/dev/cpu/0/msr", bytes(content)) and None


def no_msrs(tree: Tree) -> None:
    for device in tree.path("/dev/cpu").iterdir():
        if device.is_symlink():
            device.unlink()
    tree.path("/dev/cpu/0/msr").unlink()


def no_parameter(tree: Tree) -> None:
    tree.path(f"{VENDOR}/tdx").unlink()


@pytest.fixture
def host(tmp_path: Path) -> Tree:
    """An Intel host with every link, where nobody asked for TDX."""
    tree = intel_host(tmp_path / "host")
    for feature in FEATURES:
        with_feature(feature)(tree)
    for name in ("ept", "eptad", "enable_apicv"):
        write(tree, f"{VENDOR}/{name}", "Y\n")
    for name in ("tdp_mmu", "mmio_caching"):
        write(tree, f"{KVM}/{name}", "Y\n")
    write(tree, f"{VENDOR}/tdx", "N\n")
    write(tree, "/sys/power/disk", "[disabled]\n")
    msrs(1 << 15, 32)(tree)
    config(*OPTIONS)(tree)
    log("virt/tdx: BIOS enabled: private KeyID range [64, 128)", MODULE_OK)(tree)
    return tree


def missing(tree: Tree, *changes: Change) -> Missing:
    for change in changes:
        change(tree)
    found = tdx(Machine(tree))
    assert found is not None
    return found


def test_a_host_with_tdx_on_lacks_nothing(host: Tree) -> None:
    write(host, f"{VENDOR}/tdx", "Y\n")
    assert tdx(Machine(host)) is None


def test_where_only_the_parameter_is_off_the_remedy_is_to_set_it(host: Tree) -> None:
    assert missing(host) == Missing("TDX is off (kvm_intel.tdx=N)", "load kvm_intel with tdx=1")


NO_PLATFORM = without("tdx_host_platform")
LINKS: dict[str, tuple[Change, ...]] = {
    "this kernel is built without CONFIG_INTEL_TDX_HOST": (no_parameter, config(OPTIONS[1])),
    "this kernel is built without CONFIG_KVM_INTEL_TDX": (no_parameter, config(OPTIONS[0])),
    "this KVM has no TDX (no parameter kvm_intel.tdx)": (no_parameter,),
    "the hypervisor above shows no TDX": (NO_PLATFORM, with_feature("hypervisor")),
    "the CPU has no SEAM, which TDX needs (IA32_MTRRCAP bit 15 is 0)": (NO_PLATFORM, msrs(0, 0)),
    "the firmware gives TDX too few private KeyIDs (0 of 2)": (NO_PLATFORM, msrs(1 << 15, 0)),
    "the firmware gives TDX too few private KeyIDs (1 of 2)": (NO_PLATFORM, msrs(1 << 15, 1)),
    "hibernation is possible, and Linux uses TDX only without it": (
        NO_PLATFORM,
        put("/sys/power/disk", "[platform] shutdown reboot"),
    ),
    "the kernel did not take TDX into use at boot, though CPU and firmware have it": (NO_PLATFORM,),
    "the kernel shows no XSAVE (CPU flag xsave), which TDX needs": (without("xsave"),),
    "the kernel shows no MOVDIR64B (CPU flag movdir64b), which TDX needs": (without("movdir64b"),),
    "EPT: off (ept=N), and TDX needs it": (put(f"{VENDOR}/ept", "N"),),
    "the TDP MMU: off (tdp_mmu=N), and TDX needs it": (put(f"{KVM}/tdp_mmu", "N"),),
    "MMIO caching: off (mmio_caching=N), and TDX needs it": (put(f"{KVM}/mmio_caching", "N"),),
    "EPT's accessed and dirty bits: off (eptad=N), and TDX needs it": (
        put(f"{VENDOR}/eptad", "N"),
    ),
    "APICv: off (enable_apicv=N), and TDX needs it": (put(f"{VENDOR}/enable_apicv", "0"),),
    "the TDX module does not serve: module not loaded": (log("virt/tdx: module not loaded"),),
    "the TDX module does not serve: module not loaded; TDX-Module initialization failed (-19)": (
        log("virt/tdx: module not loaded", "virt/tdx: TDX-Module initialization failed (-19)"),
    ),
}


@pytest.mark.parametrize("what", LINKS)
def test_a_missing_link_is_told_by_its_name_with_a_remedy(host: Tree, what: str) -> None:
    found = missing(host, *LINKS[what])
    assert found.what == what
    assert found.remedy


def test_a_parameter_of_kvm_itself_is_set_there(host: Tree) -> None:
    found = missing(host, put(f"{KVM}/tdp_mmu", "N"))
    assert found.remedy == "load kvm with tdp_mmu=1"


def test_without_msrs_it_says_how_to_tell_cpu_from_firmware(host: Tree) -> None:
    found = missing(host, NO_PLATFORM, no_msrs)
    assert found.what.startswith("the kernel found no TDX (no CPU flag tdx_host_platform), and")
    assert found.remedy


def test_a_module_that_came_up_after_a_failure_is_not_blamed(host: Tree) -> None:
    """Trouble counts only where nothing says that the module came up afterwards."""
    found = missing(host, log("virt/tdx: TDX-Module initialization failed (-16)", MODULE_OK))
    assert found.what == "TDX is off (kvm_intel.tdx=N)"
