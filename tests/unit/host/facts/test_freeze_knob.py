"""The freeze_on_smi knob is found at each of its paths and read strictly."""

from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.facts import freeze_knob
from kvmtest.host.facts.freeze_knob import PATHS, Knob, KnobError
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

DEVICES = "/sys/bus/event_source/devices"
SOFTWARE = {f"{DEVICES}/software/type": "1\n"}


def cpuinfo(vendor: str, flags: str) -> dict[str, str]:
    return {"/proc/cpuinfo": f"processor: 0\nvendor_id: {vendor}\nflags: {flags}\n"}


def found(tree: Tree) -> Knob:
    knob = freeze_knob.find(tree)
    assert isinstance(knob, Knob)
    return knob


def test_the_three_paths_are_those_of_the_kernel() -> None:
    assert PATHS == (
        "/sys/devices/cpu/freeze_on_smi",
        "/sys/devices/cpu_core/freeze_on_smi",
        "/sys/devices/cpu_atom/freeze_on_smi",
    )


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("path", PATHS)
def test_it_is_found_and_read_at_each_path(tmp_path: Path, path: str, value: int) -> None:
    knob = found(stand_in(tmp_path, {path: f"{value}\n"}))
    assert knob.paths == (path,)
    assert knob.value() == value


def test_a_hybrid_part_has_two_views_of_one_value(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, {PATHS[1]: "1\n", PATHS[2]: "1\n"})
    knob = found(tree)
    assert knob.values() == {PATHS[1]: 1, PATHS[2]: 1}
    assert knob.value() == 1


def test_it_is_found_wherever_a_pmu_shows_it(tmp_path: Path) -> None:
    names = ("cpu_atom", "cpu_core", "cpu_lowpower", "another")
    tree = stand_in(tmp_path, {f"/sys/devices/{name}/freeze_on_smi": "1\n" for name in names})
    bus = tree.path(DEVICES)
    bus.mkdir(parents=True)
    for name in names:
        (bus / name).symlink_to(f"../../../devices/{name}")
    knob = found(tree)
    places = ("cpu_core", "cpu_atom", "another", "cpu_lowpower")
    assert knob.paths == tuple(f"/sys/devices/{name}/freeze_on_smi" for name in places)
    assert knob.value() == 1


def test_a_pmu_that_the_bus_alone_shows_is_enough(tmp_path: Path) -> None:
    path = f"{DEVICES}/cpu_lowpower/freeze_on_smi"
    assert found(stand_in(tmp_path, {path: "0\n"})).paths == (path,)


def test_views_that_disagree_are_an_error(tmp_path: Path) -> None:
    knob = found(stand_in(tmp_path, {PATHS[1]: "1\n", PATHS[2]: "0\n"}))
    with pytest.raises(KnobError, match="disagree"):
        knob.value()


@pytest.mark.parametrize("text", ["", "2\n", "on\n", "-1\n", "01\n"])
def test_what_the_kernel_never_says_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(KnobError, match="0 or 1 is expected"):
        found(stand_in(tmp_path, {PATHS[0]: text})).value()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (cpuinfo("AuthenticAMD", "svm") | SOFTWARE, "AMD CPUs have no FREEZE_WHILE_SMM bit"),
        (cpuinfo("HygonGenuine", "svm") | SOFTWARE, "HygonGenuine CPUs have no FREEZE_WHILE"),
        (
            cpuinfo("  Shanghai  ", "vmx") | SOFTWARE,
            "on Intel CPUs alone, not on those of Shanghai",
        ),
        (cpuinfo("CentaurHauls", "vmx") | SOFTWARE, "not on those of CentaurHauls"),
        (cpuinfo("GenuineIntel", "vmx hypervisor") | SOFTWARE, "this virtual machine has no PMU"),
        (cpuinfo("GenuineIntel", "vmx") | SOFTWARE, "drives no PMU of this CPU"),
        (cpuinfo("GenuineIntel", "vmx"), "perf is not in this kernel"),
        (cpuinfo("GenuineIntel", "vmx") | {f"{DEVICES}/cpu/type": "4\n"}, "offers no freeze"),
        ({}, "/proc/cpuinfo"),
    ],
)
def test_each_way_of_having_none_is_told_apart(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    missing = freeze_knob.find(stand_in(tmp_path, files))
    assert isinstance(missing, Missing)
    assert words in missing.what
    assert missing.remedy


def test_this_machine_has_a_knob_or_a_reason() -> None:
    knob = freeze_knob.find(Tree())
    if isinstance(knob, Missing):
        assert not any(Path(path).exists() for path in PATHS)
    else:
        assert knob.value() in (0, 1)
