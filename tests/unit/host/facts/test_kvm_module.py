"""The KVM module in use is found, and each way of having none is told apart."""

import struct
from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing


def cpuinfo(flags: str, vendor: str = "GenuineIntel") -> dict[str, str]:
    return {"/proc/cpuinfo": f"processor: 0\nvendor_id: {vendor}\nflags: fpu {flags}\n"}


def built_in(name: str) -> dict[str, str]:
    return {f"/sys/module/{name}/parameters/nested": "1\n"}


INTEL = cpuinfo("vmx") | {
    "/dev/kvm": "",
    "/sys/module/kvm/parameters/enable_pmu": "Y\n",
    "/sys/module/kvm/initstate": "live\n",
    "/sys/module/kvm_intel/initstate": "live\n",
    "/sys/module/kvm_intel/refcnt": "2\n",
    "/sys/module/kvm_intel/parameters/nested": "Y\n",
    "/sys/module/kvm_intel/parameters/unrestricted_guest": "N\n",
    "/sys/module/kvm_intel/parameters/vmentry_l1d_flush": "cond\n",
}


def found(tree: Tree) -> KvmModule:
    module = KvmModule.of(tree)
    assert isinstance(module, KvmModule), module
    return module


def missing(tree: Tree) -> Missing:
    module = KvmModule.of(tree)
    assert isinstance(module, Missing)
    return module


def test_a_loaded_kvm_intel_is_found_with_its_parameters(tmp_path: Path) -> None:
    module = found(stand_in(tmp_path, INTEL))
    assert (module.name, module.built_in, module.users) == ("kvm_intel", False, 2)
    assert module.parameters["vmentry_l1d_flush"] == "cond"
    assert module.kvm_parameters == {"enable_pmu": "Y"}
    assert module.enabled("nested") is True
    assert module.enabled("unrestricted_guest") is False
    assert module.enabled("enable_pmu") is True


def test_a_parameter_that_is_no_switch_or_not_there_says_so(tmp_path: Path) -> None:
    module = found(stand_in(tmp_path, INTEL))
    assert module.enabled("npt") == Missing("kvm_intel has no parameter npt")
    odd = module.enabled("vmentry_l1d_flush")
    assert isinstance(odd, Missing)
    assert "'cond'" in odd.what


def test_an_unreadable_parameter_is_none_and_asks_for_root(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, INTEL)
    # A folder in a file's place can't be read by anyone, root included.
    (tmp_path / "sys/module/kvm_intel/parameters/ept").mkdir()
    module = found(tree)
    assert module.parameters["ept"] is None
    ept = module.enabled("ept")
    assert isinstance(ept, Missing)
    assert ept.remedy == "run as root"


@pytest.mark.parametrize(
    ("flag", "name"), [("vmx", "kvm_intel"), ("svm", "kvm_amd"), ("none", "kvm_pvm")]
)
def test_of_several_built_in_modules_the_cpu_decides(tmp_path: Path, flag: str, name: str) -> None:
    files = cpuinfo(flag) | {"/dev/kvm": ""}
    for module in ("kvm_amd", "kvm_intel", "kvm_pvm"):
        files |= built_in(module)
    module_in_use = found(stand_in(tmp_path, files))
    assert module_in_use.name == name
    assert module_in_use.built_in
    assert module_in_use.enabled("nested") is True
    assert module_in_use.users is None


def test_a_loaded_module_comes_before_built_in_ones(tmp_path: Path) -> None:
    files = INTEL | built_in("kvm_amd") | {"/sys/module/kvm_zz/initstate": "live\n"}
    del files["/sys/module/kvm_intel/initstate"]
    assert found(stand_in(tmp_path, files)).name == "kvm_zz"


def test_a_built_in_module_without_dev_kvm_refused_the_machine(tmp_path: Path) -> None:
    reason = missing(stand_in(tmp_path, cpuinfo("svm") | built_in("kvm_amd")))
    assert "kvm_amd is built into the kernel but made no /dev/kvm" in reason.what
    assert "firmware" in reason.remedy


def test_a_built_in_module_whose_device_the_container_lacks_runs(tmp_path: Path) -> None:
    files = cpuinfo("vmx") | built_in("kvm_intel") | {"/sys/class/misc/kvm/dev": "10:232\n"}
    assert found(stand_in(tmp_path, files)).name == "kvm_intel"


RELEASE = {"/proc/sys/kernel/osrelease": "6.12.1\n"}
CONFIG, MODULES = "/boot/config-6.12.1", "/lib/modules/6.12.1"


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        (
            {CONFIG: "CONFIG_MODULES=y\n"},
            "this kernel (6.12.1) is built without CONFIG_KVM",
            "boot a kernel built with CONFIG_KVM_INTEL",
        ),
        (
            {CONFIG: "CONFIG_MODULES=y\nCONFIG_KVM=m\nCONFIG_KVM_AMD=m\n"},
            "this kernel (6.12.1) is built without CONFIG_KVM_INTEL",
            "boot a kernel built with CONFIG_KVM_INTEL",
        ),
        (
            {CONFIG: "CONFIG_SMP=y\n"},
            "this kernel (6.12.1) is built without CONFIG_KVM",
            "boot a kernel built with CONFIG_KVM_INTEL=y",
        ),
        (
            {CONFIG: "CONFIG_MODULES=y\nCONFIG_KVM=m\nCONFIG_KVM_INTEL=m\n"},
            "KVM is not loaded (neither kvm nor kvm_intel), though the CPU has vmx",
            "modprobe kvm_intel",
        ),
        (
            {
                CONFIG: "CONFIG_MODULES=y\nCONFIG_KVM=m\nCONFIG_KVM_INTEL=m\n",
                f"{MODULES}/modules.dep": "kernel/fs/ext4.ko:\n",
            },
            "no kvm_intel built in or installed",
            "boot a kernel with CONFIG_KVM_INTEL or install its modules",
        ),
        (
            {f"{MODULES}/modules.builtin": "kernel/arch/x86/kvm/kvm-intel.ko\n"},
            "kvm_intel is built into the kernel, but /sys/module does not show it",
            "mount /sys",
        ),
        (
            {
                CONFIG: "CONFIG_MODULES=y\nCONFIG_KVM=y\nCONFIG_KVM_INTEL=y\n",
                f"{MODULES}/modules.dep": "kernel/fs/ext4.ko:\n",
            },
            "kvm_intel is built into the kernel, but /sys/module does not show it",
            "mount /sys",
        ),
        (
            {"/proc/sys/kernel/modules_disabled": "1\n"},
            "KVM is not loaded",
            "reboot, and modprobe kvm_intel before kernel.modules_disabled is set",
        ),
        (
            {
                CONFIG: "CONFIG_SMP=y\n",
                f"{MODULES}/modules.dep": "kernel/arch/x86/kvm/kvm-intel.ko:\n",
            },
            "KVM is not loaded",
            "modprobe kvm_intel",
        ),
    ],
    ids=[
        "no KVM", "no KVM_INTEL", "no modules", "installed by its configuration", "not shipped",
        "built in and hidden", "built in by its configuration",
        "no more modules", "a configuration that the module list belies",
    ],
)  # fmt: skip
def test_a_kernel_is_asked_for_what_it_can_give(
    tmp_path: Path, files: dict[str, str], what: str, remedy: str
) -> None:
    reason = missing(stand_in(tmp_path, cpuinfo("vmx") | RELEASE | files))
    assert what in reason.what
    assert reason.remedy == remedy


def test_kvm_not_loaded_at_all_is_mended_by_modprobe(tmp_path: Path) -> None:
    reason = missing(stand_in(tmp_path, cpuinfo("vmx")))
    assert "neither kvm nor kvm_intel" in reason.what
    assert reason.remedy == "modprobe kvm_intel"


def test_kvm_without_its_vendor_module_is_mended_by_modprobe(tmp_path: Path) -> None:
    files = cpuinfo("svm", "AuthenticAMD") | {"/sys/module/kvm/initstate": "live\n"}
    reason = missing(stand_in(tmp_path, files))
    assert reason.what == "kvm_amd is not loaded, though kvm is and the CPU has svm"
    assert reason.remedy == "modprobe kvm_amd"


@pytest.mark.parametrize("has_kvm", [True, False])
def test_a_kernel_without_kvm_is_told_from_an_unloaded_module(
    tmp_path: Path, has_kvm: bool
) -> None:
    modules = "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko\n"
    if has_kvm:
        modules += "kernel/arch/x86/kvm/kvm-intel.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz\n"
    files = cpuinfo("vmx") | {
        "/proc/sys/kernel/osrelease": "6.1.0-1-amd64\n",
        "/lib/modules/6.1.0-1-amd64/modules.dep": modules,
    }
    reason = missing(stand_in(tmp_path, files))
    assert (reason.remedy == "modprobe kvm_intel") is has_kvm
    assert ("CONFIG_KVM_INTEL" in reason.remedy) is not has_kvm


def test_a_cpu_without_the_flag_names_the_firmware(tmp_path: Path) -> None:
    reason = missing(stand_in(tmp_path, cpuinfo("")))
    assert "no vmx: it has none, or the firmware disables it" in reason.what
    assert "VT-x" in reason.remedy


def test_a_flag_that_only_cpuid_shows_was_disabled(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, cpuinfo("", "AuthenticAMD"))
    device = tmp_path / "dev/cpu/0/cpuid"
    device.parent.mkdir(parents=True)
    with device.open("wb") as file:
        file.seek(0x80000001)
        file.write(struct.pack("<4I", 0, 0, 1 << 2, 0))
    reason = missing(tree)
    assert reason.what.startswith("the CPU has svm, but the firmware")
    assert "AMD SVM" in reason.remedy


def test_a_virtual_machine_without_the_flag_names_the_hypervisor(tmp_path: Path) -> None:
    reason = missing(stand_in(tmp_path, cpuinfo("hypervisor")))
    assert "the hypervisor above gives this virtual machine no vmx" in reason.what
    assert "nested" in reason.remedy


def test_built_in_modules_that_the_cpu_can_not_use_do_not_count(tmp_path: Path) -> None:
    files = cpuinfo("") | built_in("kvm_intel") | built_in("kvm_amd")
    assert "no vmx" in missing(stand_in(tmp_path, files)).what


@pytest.mark.parametrize(
    ("vendor", "flag", "module"),
    [
        ("HygonGenuine", "svm", "kvm_amd"),
        ("  Shanghai  ", "vmx", "kvm_intel"),
        ("CentaurHauls", "vmx", "kvm_intel"),
    ],
)
def test_other_makers_cpus_have_intel_s_or_amd_s_module(
    tmp_path: Path, vendor: str, flag: str, module: str
) -> None:
    reason = missing(stand_in(tmp_path / "unloaded", cpuinfo(flag, vendor)))
    assert reason.remedy == f"modprobe {module}"
    files = cpuinfo(flag, vendor) | built_in("kvm_amd") | built_in("kvm_intel") | {"/dev/kvm": ""}
    assert found(stand_in(tmp_path / "built-in", files)).name == module
    off = missing(stand_in(tmp_path / "off", cpuinfo("", vendor)))
    assert off.remedy == f"turn on virtualisation ({flag.upper()}) in the firmware setup"


def test_a_vendor_that_kvm_does_not_know_is_named(tmp_path: Path) -> None:
    reason = missing(stand_in(tmp_path, cpuinfo("", "Vortex86 SoC")))
    assert "Vortex86 SoC" in reason.what


def test_no_cpuinfo_is_its_own_reason(tmp_path: Path) -> None:
    assert "/proc/cpuinfo" in missing(Tree(tmp_path)).what


def test_this_machine_gives_a_module_or_a_reason() -> None:
    module = KvmModule.of(Tree())
    if isinstance(module, Missing):
        assert module.what
    else:
        assert Path(f"/sys/module/{module.name}").is_dir()
