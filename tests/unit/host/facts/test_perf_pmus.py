"""The PMUs are read from sysfs, and a machine without a hardware PMU says why."""

from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.facts.perf_pmus import (
    Pmu,
    core_pmu,
    hardware_pmu,
    is_hybrid,
    nmi_watchdog,
    perf_event_paranoid,
    pmu_names,
    smi_event,
    watchdog_counts,
)
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

DEVICES = "/sys/bus/event_source/devices"
CPU = {
    f"{DEVICES}/cpu/type": "4\n",
    f"{DEVICES}/cpu/format/event": "config:0-7\n",
    f"{DEVICES}/cpu/format/umask": "config:8-15\n",
    f"{DEVICES}/cpu/events/instructions": "event=0xc0\n",
}
MSR = {
    f"{DEVICES}/msr/type": "9\n",
    f"{DEVICES}/msr/format/event": "config:0-63\n",
    f"{DEVICES}/msr/events/tsc": "event=0x00\n",
}
UNCORE = {
    f"{DEVICES}/power/type": "11\n",
    f"{DEVICES}/power/cpumask": "0,28\n",
    f"{DEVICES}/power/events/energy-pkg": "event=0x02\n",
    f"{DEVICES}/power/events/energy-pkg.unit": "Joules\n",
    f"{DEVICES}/power/events/energy-pkg.scale": "2.3283064365386962890625e-10\n",
}


def test_a_cpu_pmu_is_read_whole(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, CPU | MSR)
    pmus = hardware_pmu(tree)
    assert not isinstance(pmus, Missing)
    (pmu,) = pmus
    assert (pmu.name, pmu.type, pmu.cpus) == ("cpu", 4, None)
    assert pmu.format == {"event": "config:0-7", "umask": "config:8-15"}
    assert pmu.events == {"instructions": "event=0xc0"}
    assert pmu.is_hardware
    assert pmu_names(tree) == ("cpu", "msr")


def test_a_hybrid_part_has_a_pmu_for_each_kind_of_core(tmp_path: Path) -> None:
    files = {
        f"{DEVICES}/cpu_core/type": "4\n",
        f"{DEVICES}/cpu_core/cpus": "0-15\n",
        f"{DEVICES}/cpu_atom/type": "10\n",
        f"{DEVICES}/cpu_atom/cpus": "16-23\n",
    }
    pmus = hardware_pmu(stand_in(tmp_path, files))
    assert not isinstance(pmus, Missing)
    assert [(pmu.name, pmu.type) for pmu in pmus] == [("cpu_core", 4), ("cpu_atom", 10)]
    assert pmus[1].cpus == tuple(range(16, 24))


ARROW_LAKE_H = {
    f"{DEVICES}/cpu_core/type": "4\n",
    f"{DEVICES}/cpu_core/cpus": "0-5\n",
    f"{DEVICES}/cpu_atom/type": "10\n",
    f"{DEVICES}/cpu_atom/cpus": "6-13\n",
    f"{DEVICES}/cpu_lowpower/type": "11\n",
    f"{DEVICES}/cpu_lowpower/cpus": "14-15\n",
    f"{DEVICES}/cpu_clock/type": "8\n",
    f"{DEVICES}/uncore_imc/type": "20\n",
    f"{DEVICES}/uncore_imc/cpumask": "0\n",
    f"{DEVICES}/cstate_core/type": "21\n",
    f"{DEVICES}/cstate_core/cpumask": "0-15\n",
    f"{DEVICES}/intel_pt/type": "12\n",
    f"{DEVICES}/intel_bts/type": "13\n",
}


def cores(tree: Tree) -> tuple[Pmu, ...]:
    pmus = hardware_pmu(tree)
    assert not isinstance(pmus, Missing), pmus
    return pmus


def test_kinds_of_core_are_known_by_their_cpus_and_not_by_their_names(tmp_path: Path) -> None:
    pmus = cores(stand_in(tmp_path, ARROW_LAKE_H))
    assert [pmu.name for pmu in pmus] == ["cpu_core", "cpu_atom", "cpu_lowpower"]
    by_cpu = {cpu: core_pmu(pmus, cpu) for cpu in (0, 5, 6, 13, 14, 15)}
    names = [pmu.name for pmu in by_cpu.values() if isinstance(pmu, Pmu)]
    assert names == [pmu.name for pmu in pmus for _ in range(2)]


def test_a_kind_of_core_that_nobody_has_named_yet_is_found(tmp_path: Path) -> None:
    files = {
        f"{DEVICES}/cpu_core/type": "4\n",
        f"{DEVICES}/cpu_core/cpus": "0-3\n",
        f"{DEVICES}/neutrino/type": "30\n",
        f"{DEVICES}/neutrino/cpus": "4-5\n",
    }
    pmus = cores(stand_in(tmp_path, files))
    pmu = core_pmu(pmus, 4)
    assert isinstance(pmu, Pmu)
    assert (pmu.name, pmu.is_hardware, pmu.is_kind_of_core) == ("neutrino", True, True)
    assert is_hybrid(Tree(tmp_path), pmus)


def test_cores_that_are_all_alike_are_no_kinds(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, CPU | UNCORE)
    assert not is_hybrid(tree, cores(tree))
    pmu = core_pmu(cores(tree), 4095)
    assert isinstance(pmu, Pmu)
    assert pmu.name == "cpu"


@pytest.mark.parametrize("online", ["", "\n", "many\n"])
def test_a_kind_of_which_no_cpu_is_known_counts_on_none(tmp_path: Path, online: str) -> None:
    files = ARROW_LAKE_H | {f"{DEVICES}/cpu_lowpower/cpus": online}
    pmus = cores(stand_in(tmp_path, files))
    assert pmus[2].cpus == ()
    missing = core_pmu(pmus, 15)
    assert isinstance(missing, Missing)
    assert missing.what == "no PMU counts on CPU 15 (there are cpu_core, cpu_atom, cpu_lowpower)"


def test_an_uncore_pmu_has_its_cpumask_and_only_real_events(tmp_path: Path) -> None:
    power = Pmu.of(stand_in(tmp_path, UNCORE), "power")
    assert isinstance(power, Pmu)
    assert power.cpus == (0, 28)
    assert list(power.events) == ["energy-pkg"]
    assert not power.is_hardware


def test_a_damaged_type_is_missing(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, {f"{DEVICES}/cpu/type": "four\n"})
    assert isinstance(Pmu.of(tree, "cpu"), Missing)


@pytest.mark.parametrize(
    ("flags", "words"),
    [("hypervisor", "virtual machine has no PMU"), ("vmx", "drives no PMU of this CPU")],
)
def test_no_hardware_pmu_says_why(tmp_path: Path, flags: str, words: str) -> None:
    cpuinfo = f"processor: 0\nvendor_id: GenuineIntel\nflags: {flags}\n"
    missing = hardware_pmu(stand_in(tmp_path, MSR | {"/proc/cpuinfo": cpuinfo}))
    assert isinstance(missing, Missing)
    assert words in missing.what
    assert missing.remedy


def test_no_event_sources_at_all_means_no_perf(tmp_path: Path) -> None:
    cpuinfo = "processor: 0\nvendor_id: GenuineIntel\nflags: hypervisor\n"
    tree = stand_in(tmp_path, {"/proc/cpuinfo": cpuinfo})
    missing = hardware_pmu(tree)
    assert isinstance(missing, Missing)
    assert "perf is not in this kernel" in missing.what
    assert pmu_names(tree) == ()


def test_the_smi_event_is_found_where_there_is_one(tmp_path: Path) -> None:
    files = MSR | {f"{DEVICES}/msr/events/smi": "event=0x04\n"}
    assert smi_event(stand_in(tmp_path, files)) == "event=0x04"


def test_no_smi_event_is_told_from_no_msr_pmu(tmp_path: Path) -> None:
    no_event = smi_event(stand_in(tmp_path, MSR))
    no_pmu = smi_event(Tree(tmp_path / "empty"))
    assert isinstance(no_event, Missing)
    assert isinstance(no_pmu, Missing)
    assert "no smi event" in no_event.what
    assert no_pmu.what == "the kernel has no perf PMU msr"


@pytest.mark.parametrize("level", [-1, 0, 2, 3, 4])
def test_perf_event_paranoid_is_a_number(tmp_path: Path, level: int) -> None:
    tree = stand_in(tmp_path, {"/proc/sys/kernel/perf_event_paranoid": f"{level}\n"})
    assert perf_event_paranoid(tree) == level


@pytest.mark.parametrize("on", [True, False])
def test_the_nmi_watchdog_is_on_or_off(tmp_path: Path, on: bool) -> None:
    tree = stand_in(tmp_path, {"/proc/sys/kernel/nmi_watchdog": f"{on:d}\n"})
    assert nmi_watchdog(tree) is on


@pytest.mark.parametrize(
    ("on", "config", "counts"),
    [
        ("1", "CONFIG_HARDLOCKUP_DETECTOR_PERF=y\n", True),
        ("1", "", True),
        ("1", "CONFIG_HARDLOCKUP_DETECTOR_BUDDY=y\n", False),
        ("0", "CONFIG_HARDLOCKUP_DETECTOR_PERF=y\n", False),
    ],
)
def test_the_watchdog_takes_a_counter_only_where_perf_serves_it(
    tmp_path: Path, on: str, config: str, counts: bool
) -> None:
    files = {
        "/proc/sys/kernel/nmi_watchdog": f"{on}\n",
        "/proc/sys/kernel/osrelease": "6.12.1\n",
        "/boot/config-6.12.1": config,
    }
    assert watchdog_counts(stand_in(tmp_path, files)) is counts
    assert not watchdog_counts(Tree(tmp_path / "empty"))


def test_absent_sysctls_are_missing(tmp_path: Path) -> None:
    assert isinstance(perf_event_paranoid(Tree(tmp_path)), Missing)
    assert isinstance(nmi_watchdog(Tree(tmp_path)), Missing)


def test_this_machine_has_the_software_pmu() -> None:
    if not Path(DEVICES).is_dir():
        pytest.skip(f"{DEVICES} is absent")
    software = Pmu.of(Tree(), "software")
    assert isinstance(software, Pmu)
    assert software.type == 1
