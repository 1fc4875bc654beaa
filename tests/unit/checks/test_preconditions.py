"""Each precondition is met by a host that has it, and says what is missing by one that has not."""

import contextlib
import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.stand_in import (
    BTF,
    KMSG,
    KNOB,
    UNFIXED,
    as_nobody,
    intel_host,
    let_everyone_in,
    need_root,
    write,
)

from kvmtest.checks import preconditions
from kvmtest.checks.preconditions import (
    PRECONDITIONS,
    answer,
    check_lab,
    lacking,
    witness_lacks,
)
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.facts.lab import LabFacts
from kvmtest.host.facts.msr import IA32_PERF_CAPABILITIES
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES, Property, find

PARAMETERS = "/sys/module/kvm_intel/parameters"
ONLINE = "/sys/devices/system/cpu/online"
CPU_1 = "/sys/devices/system/cpu/cpu1/online"
MEDIATED = f"{PARAMETERS}/enable_mediated_pmu"

Change = Callable[[Tree], object]


def remove(name: str) -> Change:
    def change(tree: Tree) -> None:
        path = tree.path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def put(name: str, text: str) -> Change:
    return lambda tree: write(tree, name, text)


def both(*changes: Change) -> Change:
    def change(tree: Tree) -> None:
        for each in changes:
            each(tree)

    return change


def in_use(tree: Tree) -> None:
    """Have a process hold /dev/kvm open."""
    write(tree, "/proc/77/comm", "qemu\n")
    tree.path("/proc/77/fd").mkdir()
    tree.path("/proc/77/fd/3").symlink_to("/dev/kvm")


# By precondition: what makes a stand-in Intel host have it, what takes it away, and what is said.
CASES: list[tuple[str, Change, Change, str]] = [
    ("kvm-intel", put(KMSG, ""), remove("/sys/module/kvm_intel"), "kvm_intel"),
    ("nested", put(KMSG, ""), put(f"{PARAMETERS}/nested", "N"), "nested virtualisation is off"),
    (
        "no-unrestricted-guest",
        put(f"{PARAMETERS}/unrestricted_guest", "N"),
        put(f"{PARAMETERS}/unrestricted_guest", "Y"),
        "unrestricted guest is on",
    ),
    ("tdx", put(f"{PARAMETERS}/tdx", "Y"), put(f"{PARAMETERS}/tdx", "N"), "the CPU has no SEAM"),
    ("tdx", put(f"{PARAMETERS}/tdx", "Y"), put(KMSG, ""), "this KVM has no TDX"),
    ("knob", put(KMSG, ""), remove(KNOB), "no freeze_on_smi"),
    ("msr", put(KMSG, ""), remove("/dev/cpu"), "msr"),
    (
        "freeze-bit",
        put(KMSG, ""),
        lambda tree: write(tree, "/dev/cpu/0/msr", bytes(IA32_PERF_CAPABILITIES + 8)),
        "IA32_PERF_CAPABILITIES bit 12 is 0",
    ),
    ("freeze-bit", put(KMSG, ""), remove("/dev/cpu"), "msr"),
    ("pmu", put(KMSG, ""), remove("/sys/bus/event_source/devices/cpu"), "PMU"),
    (
        "guest-pmu",
        put(KMSG, ""),
        put("/sys/module/kvm/parameters/enable_pmu", "N"),
        "KVM gives guests no PMU (parameter kvm.enable_pmu is N)",
    ),
    ("guest-pmu", remove("/sys/module/kvm/parameters/enable_pmu"), remove("/sys/module"), "KVM"),
    (
        "guest-events",
        both(put(MEDIATED, "N"), in_use),
        both(put(MEDIATED, "Y"), in_use),
        "while kvmtest counts guests, and others use KVM, or may: qemu (pid 77",
    ),
    (
        "guest-events",
        put(MEDIATED, "Y"),
        both(put(MEDIATED, "Y"), remove("/proc/mounts")),
        "unseen: processes can't be seen",
    ),
    ("second-cpu", put(KMSG, ""), put(ONLINE, "0"), "only one CPU"),
    (
        "cpu-hotplug",
        put(CPU_1, "1"),
        put(CPU_1, "0"),
        "no CPU can be taken offline",
    ),
    ("cpu-hotplug", put(CPU_1, "1"), put(ONLINE, "0"), "only one CPU is online"),
    (
        "smi-source",
        both(
            put("/sys/firmware/efi/config_table", ""), put("/sys/firmware/efi/efivars/Boot-1", "")
        ),
        put(KMSG, ""),
        "no SMI source",
    ),
    (
        "vmcs-dump",
        put(KMSG, ""),
        remove(f"{PARAMETERS}/dump_invalid_vmcs"),
        "kvm_intel has no parameter dump_invalid_vmcs",
    ),
    ("kernel-log", put(KMSG, ""), remove(KMSG), "there is no /dev/kmsg"),
    (
        "kprobes",
        put("/sys/kernel/tracing/kprobe_events", ""),
        put("/sys/kernel/tracing/README", ""),
        "/sys/kernel/tracing/kprobe_events is not visible",
    ),
    ("kprobes", put("/sys/kernel/tracing/kprobe_events", ""), put(KMSG, ""), "no tracefs"),
    ("btf", put(KMSG, ""), remove(BTF), "BTF"),
    ("run-flags", put(KMSG, ""), remove("/sys/kernel/btf/kvm_intel"), "has no BTF"),
    ("run-flags", put(KMSG, ""), lambda t: write(t, BTF, UNFIXED), "takes no run flags"),
]


@pytest.mark.parametrize(("name", "give", "take", "said"), CASES)
def test_a_precondition_is_met_and_missed(
    tmp_path: Path, name: str, give: Change, take: Change, said: str
) -> None:
    with_it, without_it = intel_host(tmp_path / "with"), intel_host(tmp_path / "without")
    give(with_it)
    take(without_it)
    assert PRECONDITIONS[name](Machine(with_it, allow_hotplug=True)) is None
    missing = PRECONDITIONS[name](Machine(without_it))
    assert missing is not None
    assert said in missing.what


def test_no_cpu_is_taken_offline_unasked(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, CPU_1, "1")
    missing = PRECONDITIONS["cpu-hotplug"](Machine(tree))
    assert missing == Missing("no CPU may be taken offline unasked", "use --hotplug")


def test_a_cpu_whose_file_can_not_be_written_is_not_taken_offline(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, CPU_1, "1").chmod(0o444)
    let_everyone_in(tmp_path)
    with as_nobody():
        missing = PRECONDITIONS["cpu-hotplug"](Machine(tree, allow_hotplug=True))
    assert missing is not None
    assert missing.what == f"{CPU_1} can't be written"


ENABLE_PMU = "/sys/module/kvm/parameters/enable_pmu"
DEVICES = "/sys/bus/event_source/devices"


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        (put("/sys/module/kvm/initstate", "live"), "enable_pmu is N)", "load it with enable_pmu=1"),
        (put(KMSG, ""), "enable_pmu is N)", "boot with kvm.enable_pmu=1"),
        (
            both(
                remove(f"{DEVICES}/cpu"),
                put(f"{DEVICES}/cpu_core/type", "4"), put(f"{DEVICES}/cpu_core/cpus", "0"),
                put(f"{DEVICES}/cpu_atom/type", "10"), put(f"{DEVICES}/cpu_atom/cpus", "1"),
            ),
            "as on every hybrid CPU",
            "run on a CPU with cores of one kind",
        ),
        (
            lambda tree: write(
                tree, "/dev/cpu/0/cpuid", bytes(7) + struct.pack("<4I", 0, 0, 0, 1 << 15)
            ),
            "as on every hybrid CPU",
            "run on a CPU with cores of one kind",
        ),
        (remove(f"{DEVICES}/cpu"), "the kernel drives no PMU of this CPU", "kernel log"),
    ],
    ids=["kvm is a module", "kvm is built in", "hybrid", "hybrid by CPUID", "no PMU at all"],
)  # fmt: skip
def test_why_guests_get_no_pmu(tmp_path: Path, change: Change, what: str, remedy: str) -> None:
    tree = intel_host(tmp_path)
    write(tree, ENABLE_PMU, "N")
    change(tree)
    missing = PRECONDITIONS["guest-pmu"](Machine(tree))
    assert missing is not None
    assert what in missing.what
    assert remedy in missing.remedy
    assert missing in lacking(Machine(tree), find("vmx.leak.guest-pmu"))


def test_a_hybrid_cpu_has_no_guest_pmu_whatever_the_parameter_says(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, f"{DEVICES}/cpu_lowpower/type", "11")
    write(tree, f"{DEVICES}/cpu_lowpower/cpus", "1")
    missing = PRECONDITIONS["guest-pmu"](Machine(tree))
    assert missing == Missing(
        "KVM gives guests no PMU that fits a hybrid CPU", "run on a CPU with cores of one kind"
    )


def test_a_kernel_without_the_dump_is_mended_by_another_kernel_and_amd_by_intel(
    tmp_path: Path,
) -> None:
    tree = intel_host(tmp_path / "intel")
    remove(f"{PARAMETERS}/dump_invalid_vmcs")(tree)
    missing = PRECONDITIONS["vmcs-dump"](Machine(tree))
    assert missing is not None
    assert missing.remedy == "boot Linux 5.2 or later"
    amd = amd_host(tmp_path / "amd")
    remove("/sys/module/kvm_amd/parameters/dump_invalid_vmcs")(amd)
    missing = PRECONDITIONS["vmcs-dump"](Machine(amd))
    assert missing is not None
    assert missing.remedy == "run on Intel with Linux 5.2 or later"


def test_the_cases_are_all_preconditions_that_a_stand_in_can_have() -> None:
    # debugctl-switch is met by everything but labs that say otherwise: see below.
    others = {"kvm", "kvm-amd", "kvm-stats", "vmcs12-quirk", "debugctl-switch"}
    assert {name for name, *_ in CASES} == set(PRECONDITIONS) - others


def test_guests_are_counted_beside_others_where_the_user_allows_that(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    both(put(MEDIATED, "Y"), in_use)(tree)
    assert PRECONDITIONS["guest-events"](Machine(tree, allow_other_vms=True)) is None


def test_who_came_after_the_first_look_is_seen(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    put(MEDIATED, "Y")(tree)
    machine = Machine(tree)
    assert machine.census.processes == ()
    assert PRECONDITIONS["guest-events"](machine) is None
    in_use(tree)
    assert PRECONDITIONS["guest-events"](machine) is not None


def test_a_property_that_counts_guests_itself_needs_that_nobody_is_hindered() -> None:
    counting = {p.id for p in PROPERTIES if p.witnesses == ("leak",)} - {"vmx.leak.guest-pmu"}
    assert {p.id for p in PROPERTIES if "guest-events" in p.needs} == counting


def test_a_stand_in_tree_has_no_dev_kvm_whatever_is_in_it(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, "/dev/kvm", "")
    missing = PRECONDITIONS["kvm"](Machine(tree))
    assert missing == Missing("a stand-in tree has no /dev/kvm", "run on the machine itself")


def amd_host(root: Path) -> Tree:
    """A stand-in Intel host whose CPU and KVM module are AMD's."""
    tree = intel_host(root)
    tree.path("/sys/module/kvm_intel").rename(tree.path("/sys/module/kvm_amd"))
    cpuinfo = tree.path("/proc/cpuinfo")
    text = cpuinfo.read_text().replace("GenuineIntel", "AuthenticAMD").replace("vmx", "svm")
    cpuinfo.write_text(text)
    return tree


def test_amd_is_told_from_intel(tmp_path: Path) -> None:
    missing = PRECONDITIONS["kvm-amd"](Machine(intel_host(tmp_path / "intel")))
    assert missing == Missing("KVM here is kvm_intel, not kvm_amd", "run on an AMD host")
    tree = amd_host(tmp_path / "amd")
    assert PRECONDITIONS["kvm-amd"](Machine(tree)) is None
    assert PRECONDITIONS["kvm-intel"](Machine(tree)) is not None


def offer(monkeypatch: pytest.MonkeyPatch, **capabilities: int) -> None:
    """Have this machine's KVM offer these capabilities, whether there is a KVM or not."""

    class Offering(contextlib.nullcontext[Any]):
        check_extension = capabilities.__getitem__

        def __enter__(self) -> Any:
            return self

    monkeypatch.setattr(preconditions, "kvm", lambda _: None)
    monkeypatch.setattr(preconditions, "System", Offering)


@pytest.mark.parametrize("offers", [0, 1])
def test_a_kvm_that_does_not_count_exits_is_too_old_for_leaks(
    monkeypatch: pytest.MonkeyPatch, offers: int
) -> None:
    offer(monkeypatch, KVM_CAP_BINARY_STATS_FD=offers)
    missing = PRECONDITIONS["kvm-stats"](Machine(Tree()))
    old = Missing("this KVM has no KVM_CAP_BINARY_STATS_FD", "boot Linux 5.14 or later")
    assert missing == (None if offers else old)
    assert (old in witness_lacks(Machine(Tree()), "leak")) is not bool(offers)


@pytest.mark.parametrize(("quirks", "is_there"), [(0, False), (0x3FF, False), (0x7FF, True)])
def test_the_quirk_about_vmcs12_is_there_as_kvms_capability_says(
    monkeypatch: pytest.MonkeyPatch, quirks: int, is_there: bool
) -> None:
    offer(monkeypatch, KVM_CAP_DISABLE_QUIRKS2=quirks)
    missing = PRECONDITIONS["vmcs12-quirk"](Machine(Tree()))
    assert (missing is None) is is_there
    assert missing is None or missing.what.endswith("KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM")


def test_a_knob_that_may_not_be_written_is_missing(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    let_everyone_in(tmp_path)
    with as_nobody():
        missing = PRECONDITIONS["knob"](Machine(tree))
    assert missing == Missing(f"no permission to write {KNOB}", "run as root")
    assert PRECONDITIONS["knob"](Machine(tree)) is None


def test_a_knob_in_a_container_s_read_only_sysfs_is_missing(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    sysfs = tree.path("/sys")
    need_root()
    for options in (["--bind", str(sysfs)], ["-o", "remount,bind,ro"]):
        done = subprocess.run(["mount", *options, str(sysfs)], capture_output=True, text=True)
        if done.returncode:
            subprocess.run(["umount", str(sysfs)], capture_output=True)
            pytest.skip(f"needs to mount: {done.stderr.strip()}")
    try:
        missing = PRECONDITIONS["knob"](Machine(tree))
    finally:
        subprocess.run(["umount", str(sysfs)], check=True)
    assert missing is not None
    assert "/sys is mounted read-only, as in a container" in missing.what


def test_a_kernel_log_that_may_not_be_read_is_missing(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path(KMSG).chmod(0o600)
    let_everyone_in(tmp_path)
    with as_nobody():
        missing = PRECONDITIONS["kernel-log"](Machine(tree))
    assert missing == Missing("no permission for /dev/kmsg", "run as root")


def test_a_kernel_log_that_opens_for_nobody_else_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = intel_host(tmp_path)
    write(tree, "/proc/sys/kernel/dmesg_restrict", "1\n")
    opened = os.open

    def restricted(path: str | Path, *arguments: int) -> int:
        if str(path).endswith(KMSG):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", restricted)
    missing = PRECONDITIONS["kernel-log"](Machine(tree))
    assert missing is not None
    assert "kernel.dmesg_restrict is 1 and CAP_SYSLOG is missing" in missing.what


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (put(KMSG, ""), "use a machine with two"),
        (
            put("/sys/devices/system/cpu/cpu1/online", "0"),
            "bring another online: echo 1 > /sys/devices/system/cpu/cpu1/online",
        ),
    ],
)
def test_a_second_cpu_is_bought_only_where_none_is_offline(
    tmp_path: Path, change: Change, remedy: str
) -> None:
    tree = intel_host(tmp_path, cpus=1)
    change(tree)
    assert PRECONDITIONS["second-cpu"](Machine(tree)) == Missing("only one CPU is online", remedy)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("nested", "{how} kvm_intel{joint}nested=1"),
        ("no-unrestricted-guest", "{reload}{how} kvm_intel{joint}unrestricted_guest=0"),
    ],
)
@pytest.mark.parametrize("built_in", [False, True])
def test_a_parameter_of_a_built_in_module_is_given_at_boot(
    tmp_path: Path, name: str, remedy: str, built_in: bool
) -> None:
    tree = intel_host(tmp_path)
    write(tree, f"{PARAMETERS}/nested", "N")
    write(tree, f"{PARAMETERS}/tdx", "N")
    words = {"how": "load", "joint": " with ", "reload": "use --reload-modules, or "}
    if built_in:
        remove("/sys/module/kvm_intel/initstate")(tree)
        write(tree, "/sys/class/misc/kvm/dev", "10:232")
        words = {"how": "boot with", "joint": ".", "reload": ""}
    missing = PRECONDITIONS[name](Machine(tree))
    assert missing is not None
    assert missing.remedy == remedy.format(**words)


@pytest.mark.parametrize(
    "name",
    sorted(set(PRECONDITIONS) - {"kvm-stats", "vmcs12-quirk", "debugctl-switch", "guest-events"}),
)
def test_an_empty_tree_lacks_everything_and_says_so_in_one_line(tmp_path: Path, name: str) -> None:
    missing = PRECONDITIONS[name](Machine(Tree(tmp_path)))
    assert missing is not None
    assert missing.what
    assert "\n" not in str(missing)


@pytest.mark.parametrize("name", PRECONDITIONS)
def test_this_machine_answers_every_question(name: str) -> None:
    missing = PRECONDITIONS[name](Machine(Tree()))
    assert missing is None or missing.what


# Labs


def in_lab(machine: Machine, **lacks: str) -> Machine:
    vars(machine)["lab"] = LabFacts("Bochs", "corei7_skylake_x", "2.7", lacks)
    return machine


@pytest.mark.parametrize("name", PRECONDITIONS)
def test_what_a_lab_lacks_is_missing_whatever_the_machine_looks_like(
    tmp_path: Path, name: str
) -> None:
    machine = in_lab(Machine(intel_host(tmp_path)), **{name: "the emulator has none"})
    assert answer(machine, name) == Missing("the emulator has none", "run on a real machine")


def test_a_lab_has_what_it_does_not_lack_as_any_machine_has_it(tmp_path: Path) -> None:
    machine = in_lab(Machine(intel_host(tmp_path)), pmu="no counters")
    assert answer(machine, "knob") is None
    assert answer(machine, "nested") is None
    assert answer(machine, "smi-source") == PRECONDITIONS["smi-source"](machine)


def test_the_smi_source_that_the_user_named_is_the_one_asked_for(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    assert answer(Machine(tree), "smi-source") is not None
    assert answer(Machine(tree, "command:true"), "smi-source") is None
    missing = answer(Machine(tree, "efivar"), "smi-source")
    assert missing is not None
    assert missing.what.startswith("this system was not booted by UEFI")


def test_only_a_lab_does_not_switch_debugctl(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path))
    assert answer(machine, "debugctl-switch") is None
    lab = in_lab(machine, **{"debugctl-switch": "Bochs does not switch it"})
    assert "Bochs does not switch it" in [m.what for m in witness_lacks(lab, "leak")]
    assert "Bochs does not switch it" in [m.what for m in lacking(lab, find("host.msr-survives"))]


def test_a_lab_that_lacks_what_nobody_asks_for_is_refused() -> None:
    check_lab(None)
    check_lab(LabFacts("Bochs", "m", "2.7", {"pmu": "none"}))
    with pytest.raises(EnvironmentUnfit, match="KVMTEST_LAB: lacks pmuu; it takes kvm, kvm-intel"):
        check_lab(LabFacts("Bochs", "m", "2.7", {"pmuu": "none"}))


# What keeps a property from being decided


def test_a_property_lacks_everything_that_is_missing_and_each_once(tmp_path: Path) -> None:
    machine = Machine(Tree(tmp_path))
    for prop in PROPERTIES:
        missing = lacking(machine, prop)
        assert len(set(missing)) == len(missing)
        for need in prop.needs:
            assert PRECONDITIONS[need](machine) in (*missing, None)


BY_VENDOR = Property(
    "any.x", "c", (), (), ("klog",), "s",
    vendors=(("kvm-intel", "knob"), ("kvm-amd", "kprobes", "run-flags")),
)  # fmt: skip


def test_only_the_needs_of_this_vendor_s_kvm_count(tmp_path: Path) -> None:
    assert lacking(Machine(intel_host(tmp_path / "intel")), BY_VENDOR) == []
    without_knob = intel_host(tmp_path / "without")
    remove(KNOB)(without_knob)
    (missing,) = lacking(Machine(without_knob), BY_VENDOR)
    assert "freeze_on_smi" in missing.what
    amd = Machine(amd_host(tmp_path / "amd"))
    expected = [PRECONDITIONS[need](amd) for need in ("kprobes", "run-flags")]
    assert lacking(amd, BY_VENDOR) == expected
    assert None not in expected


def test_a_kvm_of_no_vendor_in_the_table_is_told_by_its_name(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path("/sys/module/kvm_intel").rename(tree.path("/sys/module/kvm_pvm"))
    missing = lacking(Machine(tree), BY_VENDOR)
    assert [each.remedy for each in missing] == ["run on an Intel host", "run on an AMD host"]
    assert all("KVM here is kvm_pvm" in each.what for each in missing)


def test_one_witness_that_can_look_is_enough(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path))
    assert witness_lacks(machine, "vmcs") == []
    assert witness_lacks(machine, "runflags") != []
    prop = Property("vmx.entry.x", "c", (), (), ("vmcs", "runflags"), "s")
    assert lacking(machine, prop) == []


def test_where_no_witness_can_look_all_that_they_lack_is_told(tmp_path: Path) -> None:
    machine = Machine(Tree(tmp_path))
    expected = [m for w in ("vmcs", "runflags") for m in witness_lacks(machine, w)]
    assert set(expected) <= set(lacking(machine, find("vmx.entry.fresh")))


def test_a_property_without_a_check_says_so_where_nothing_else_is_missing(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path))
    (missing,) = lacking(
        machine, Property("vmx.entry.x", "c", (), (), ("vmcs",), "s", has_check=False)
    )
    assert "has no check for it yet" in missing.what


def test_every_witness_can_be_asked_for_what_it_lacks(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path))
    assert {w for w in WITNESSES if not witness_lacks(machine, w)} == {
        "vmcs",
        "btf",
        "hostmsr",
        "klog",
    }
