"""A known defect is known of the kernels that have it, and of no other."""

from pathlib import Path

import pytest
from support.stand_in import BTF, FIXED, UNFIXED, intel_host, kvm_btf

from kvmtest.host.machine import Machine
from kvmtest.known_defects import KNOWN_DEFECTS, known_defect
from kvmtest.properties import PROPERTIES

PROJECT = Path(__file__).resolve().parents[2]
EMULATION = "vmx.entry.after-emulation"
FINDING = "docs/findings/lost-update-while-emulating.md"


@pytest.mark.parametrize("defect", KNOWN_DEFECTS, ids=lambda d: d.property_id)
def test_a_defect_is_of_a_property_and_has_its_finding(defect: object) -> None:
    assert defect in KNOWN_DEFECTS
    assert defect.property_id in {p.id for p in PROPERTIES}  # type: ignore[attr-defined]
    assert (PROJECT / defect.finding).read_text().startswith("# ")  # type: ignore[attr-defined]
    assert defect.kernels  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("btf", "finding"),
    [
        (FIXED, FINDING),
        (UNFIXED, ""),
        (kvm_btf("vcpu_run", KVM_RUN_FORCE_IMMEDIATE_EXIT=1), ""),
        (kvm_btf("HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), ""),
        (b"junk", ""),
    ],
    ids=["fixed", "unfixed", "flags alone", "no control", "junk"],
)
def test_every_kernel_with_the_fix_loses_an_update_while_it_emulates(
    tmp_path: Path, btf: bytes, finding: str
) -> None:
    assert known_defect(EMULATION, Machine(intel_host(tmp_path, btf=btf))) == finding


def test_a_kernel_without_btf_has_no_known_defect(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path(BTF).unlink()
    assert known_defect(EMULATION, Machine(tree)) == ""


def test_other_properties_have_none(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path))
    known = {p.id for p in PROPERTIES if known_defect(p.id, machine)}
    assert known == {EMULATION}
