"""Each reproducer is red on a broken kernel and green on a mended one, and leaves the host alone.

The stock kernel has the faults that have no fix upstream: the patches at the ends of the findings
mend them. Of the faults that it has not, two mutants in one build have them.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.lab_programs import compiled, ended_inside

from kvmtest.findings import patch
from kvmtest.lab.mutants import find
from kvmtest.lab.target import LabTarget
from kvmtest.reproducers import REPRODUCERS, c_source, makefile

#: What the stock kernel is wrong in, and what the two mutants are.
UNMENDED = {
    "lost-update-while-emulating",
    "lost-dr6-while-emulating",
    "vmcs12-overwritten-after-restore",
}
BROKEN = {"vmx.entry.toggled", "bit-14-in-vmcs12-refused", "nvmx.vmcs12.freeze-bit"}
MUTANTS = ("no-reload-at-entry", "vmcs12-bit-14-refused")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The programs, as they are compiled to run anywhere."""
    built: dict[str, bytes] = {}
    for each in REPRODUCERS:
        folder = tmp_path_factory.mktemp("program")
        (folder / f"{each.name}.c").write_text(c_source(each))
        (folder / "Makefile").write_text(makefile(each))
        built |= compiled(folder, each.name)
    return built


def patches(folder: Path, names: set[str]) -> list[Path]:
    """Write the patches of findings to files."""
    for name in names:
        (folder / f"{name}.patch").write_text(patch(name))
    return sorted(folder.glob("*.patch"))


def statuses(ended: dict[str, tuple[int, str]]) -> dict[str, int]:
    return {name: status for name, (status, _) in ended.items()}


def expected(*, red: set[str]) -> dict[str, int]:
    return {each.name: int(each.name in red) for each in REPRODUCERS}


def test_each_is_red_somewhere() -> None:
    assert {each.name for each in REPRODUCERS} == UNMENDED | BROKEN


def test_a_stock_kernel_is_red_where_it_has_a_defect(
    lab: LabTarget, programs: dict[str, bytes]
) -> None:
    ended = ended_inside(lab, programs)
    assert statuses(ended) == expected(red=UNMENDED)
    for each in REPRODUCERS:
        results = re.findall(r"^(ok|not ok) (\d+) (.*)$", ended[each.name][1], re.M)
        assert [(int(number), claim) for _, number, claim in results] == list(
            enumerate(each.claims, 1)
        )
        assert ("not ok" in {word for word, _, _ in results}) == (each.name in UNMENDED)
    assert "DR6 is 0xffff0ff0" in ended["lost-dr6-while-emulating"][1]


def test_the_findings_patches_mend_it(
    lab: LabTarget, programs: dict[str, bytes], built: Callable[..., Path], tmp_path: Path
) -> None:
    # The one about the lost update mends a part of what that about DR6 mends.
    others = UNMENDED - {"lost-update-while-emulating"}
    ended = ended_inside(lab, programs, built(*patches(tmp_path, others)))
    assert statuses(ended) == expected(red=set())


def test_the_patch_of_the_lost_update_mends_it_alone(
    lab: LabTarget, programs: dict[str, bytes], built: Callable[..., Path], tmp_path: Path
) -> None:
    ended = ended_inside(lab, programs, built(*patches(tmp_path, {"lost-update-while-emulating"})))
    assert statuses(ended) == expected(red=UNMENDED - {"lost-update-while-emulating"})


def test_a_broken_kernel_is_red(
    lab: LabTarget, programs: dict[str, bytes], built: Callable[..., Path]
) -> None:
    ended = ended_inside(lab, programs, built(*(find(name).patch for name in MUTANTS)))
    found = statuses(ended)
    assert {name for name, status in found.items() if status == 1} >= BROKEN
    # Nothing that is emulated can be seen where no toggle is loaded at all.
    assert found["lost-update-while-emulating"] == 4
