"""kvmtest/lab/kernel_options.py: what a kernel lacks for the lab is told in one line."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.kernel_files import tree_files, write_tree

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import configuration
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.kernel_options import OPTIONS, Option, lacking, require
from kvmtest.lab.target import VENDORS

FRAGMENT = configuration.parse(Path(__file__).parents[3].joinpath("docs/lab.config").read_text())
VITAL = [option for option in OPTIONS if option.is_vital]


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in FRAGMENT.items() if name not in names}


@pytest.fixture
def kernel(tmp_path: Path) -> BootableKernel:
    return resolve(str(write_tree(tmp_path, tree_files())), None, Cache(tmp_path / "cache"), print)


def told(kernel: BootableKernel, options: dict[str, str] | None, cpus: int = 1) -> list[str]:
    lines: list[str] = []
    require(replace(kernel, options=options), "kvm_intel", cpus, lines.append)
    return lines


@pytest.mark.parametrize("vendor", sorted(set(VENDORS.values())))
@pytest.mark.parametrize("cpus", [1, 2])
def test_the_configuration_in_the_docs_lacks_nothing(vendor: str, cpus: int) -> None:
    assert lacking(FRAGMENT, vendor, cpus) == []


def test_a_kernel_with_all_of_it_or_that_does_not_say_passes(kernel: BootableKernel) -> None:
    assert told(kernel, FRAGMENT) == told(kernel, None) == []


@pytest.mark.parametrize("option", [o for o in VITAL if o.is_set], ids=lambda o: o.name)
def test_without_a_vital_option_nothing_boots(kernel: BootableKernel, option: Option) -> None:
    with pytest.raises(EnvironmentUnfit) as refused:
        told(kernel, without(option.name))
    assert str(refused.value) == (
        f"{kernel.origin} can't run in the lab: it is built without CONFIG_{option.name} "
        f"({option.why}); scripts/config -e {option.name}, make olddefconfig, and build it again"
    )


def test_an_option_that_must_not_be_set_is_told_to_be_unset(kernel: BootableKernel) -> None:
    with pytest.raises(
        EnvironmentUnfit, match=re.escape("with CONFIG_MODULE_SIG_FORCE")
    ) as refused:
        told(kernel, FRAGMENT | {"MODULE_SIG_FORCE": "y"})
    assert "scripts/config -d MODULE_SIG_FORCE" in str(refused.value)


def test_the_machine_s_own_vendor_module_is_needed() -> None:
    options = without("KVM_AMD")
    assert lacking(options, "kvm_intel", 1) == []
    assert [option.name for option in lacking(options, "kvm_amd", 2)] == ["KVM_AMD"]


def test_what_a_kernel_does_not_decide_is_told_in_one_line(kernel: BootableKernel) -> None:
    options = without("KPROBE_EVENTS", "DEBUG_INFO_BTF", "HOTPLUG_CPU")
    lost = (
        "CONFIG_KPROBE_EVENTS (the witness runflags), "
        "CONFIG_DEBUG_INFO_BTF (kernel.fix-present and the witness runflags)"
    )
    assert told(kernel, options) == [
        f"this kernel does not decide all: it is built without {lost}; "
        "scripts/config -e KPROBE_EVENTS -e DEBUG_INFO_BTF, make olddefconfig, and build it again"
    ]
    assert "CONFIG_HOTPLUG_CPU (host.hotplug)" in told(kernel, options, cpus=2)[0]


def test_a_vital_option_is_told_before_all_others(kernel: BootableKernel) -> None:
    with pytest.raises(EnvironmentUnfit) as refused:
        told(kernel, without("TTY", "KPROBE_EVENTS"))
    assert "KPROBE_EVENTS" not in str(refused.value)
