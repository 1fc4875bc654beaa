"""Where a kernel has a module is told by its own lists."""

from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.facts.modules import Place, how_to_load, whereabouts
from kvmtest.host.tree import Tree

RELEASE = {"/proc/sys/kernel/osrelease": "6.12.1\n"}
FOLDER = "/lib/modules/6.12.1"
DEP = "kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz\nkernel/arch/x86/kvm/kvm-intel.ko.zst:\n"
BUILT_IN = "kernel/arch/x86/kernel/msr.ko\nkernel/virt/lib/irqbypass.ko\n"
LISTS = RELEASE | {f"{FOLDER}/modules.dep": DEP, f"{FOLDER}/modules.builtin": BUILT_IN}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("kvm_intel", Place.INSTALLED),
        ("ext4", Place.INSTALLED),
        ("crc16", Place.NOT_SHIPPED),
        ("kvm", Place.NOT_SHIPPED),
        ("msr", Place.BUILT_IN),
        ("loaded", Place.LOADED),
    ],
)
def test_a_module_is_where_the_lists_have_it(tmp_path: Path, name: str, where: Place) -> None:
    tree = stand_in(tmp_path, LISTS | {"/sys/module/loaded/initstate": "live\n"})
    assert whereabouts(tree, name) is where


@pytest.mark.parametrize("files", [{}, RELEASE, RELEASE | {f"{FOLDER}/modules.dep": ""}])
def test_without_lists_nothing_is_known(tmp_path: Path, files: dict[str, str]) -> None:
    assert whereabouts(stand_in(tmp_path, files), "msr") is Place.UNKNOWN


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("0\n", "modprobe msr"),
        ("1\n", "reboot, and modprobe msr before kernel.modules_disabled is set"),
    ],
)
def test_a_kernel_that_takes_no_more_modules_has_to_be_booted(
    tmp_path: Path, text: str, remedy: str
) -> None:
    tree = stand_in(tmp_path, {"/proc/sys/kernel/modules_disabled": text})
    assert how_to_load(tree, "msr") == remedy
    assert how_to_load(Tree(tmp_path / "none"), "msr") == "modprobe msr"
