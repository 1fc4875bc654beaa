"""kernel.fix-present follows the types of the KVM that runs, and its control can fail."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.observing import controls, judged, observe
from support.stand_in import (
    BTF,
    UNFIXED,
    intel_host,
    kvm_btf,
    kvm_intel_btf,
    write,
)

from kvmtest.cli import main
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Verdict
from kvmtest.missing import Missing


def test_fix_present_has_a_control_that_holds_on_this_kernel() -> None:
    machine = Machine(Tree())
    if isinstance(machine.fix, Missing):
        pytest.skip(f"needs BTF of KVM: {machine.fix}")
    observations = observe("kernel.fix-present", machine)
    assert [c.agrees for c in controls(observations)] == [True]
    assert judged(observations).verdict in (Verdict.PASS, Verdict.FAIL)


@pytest.mark.parametrize(
    ("btf", "verdict"),
    [
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), Verdict.PASS),
        (UNFIXED, Verdict.FAIL),
        (kvm_btf("run"), Verdict.FAIL),
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL"), Verdict.FAIL),
        (kvm_btf("vcpu_run", KVM_RUN_LOAD_DEBUGCTL=4), Verdict.FAIL),
        (kvm_btf("vcpu_run", KVM_RUN_FORCE_IMMEDIATE_EXIT=1), Verdict.FAIL),
        (kvm_btf("HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), Verdict.INCONCLUSIVE),
        (kvm_btf("name"), Verdict.INCONCLUSIVE),
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", kvm=False, f=4), Verdict.INCONCLUSIVE),
        (kvm_btf("vcpu_run", kvm=False), Verdict.INCONCLUSIVE),
        (b"no BTF at all", Verdict.SKIP),
    ],
    ids=[
        "fixed",
        "unfixed",
        "old",
        "no flag",
        "no member",
        "flags",
        "no control",
        "blank",
        "types without KVM, fixed",
        "types without KVM, unfixed",
        "junk",
    ],
)
def test_fix_present_follows_the_types(tmp_path: Path, btf: bytes, verdict: Verdict) -> None:
    machine = Machine(intel_host(tmp_path, btf=btf))
    assert judged(observe("kernel.fix-present", machine)).verdict is verdict


def modules_over(root: Path, vmlinux: bytes, **modules: bytes) -> Machine:
    """Return a host whose modules kvm and kvm_intel are loaded, each with this BTF."""
    tree = intel_host(root, btf=vmlinux)
    write(tree, "/sys/module/kvm/initstate", "live\n")
    tree.path("/sys/kernel/btf/kvm_intel").unlink()
    for name, btf in modules.items():
        write(tree, f"/sys/kernel/btf/{name}", btf)
    return Machine(tree)


OLD, NEW = ("vcpu_run",), ("vcpu_run", "HOST_OWNED_DEBUGCTL")
FLAG = {"KVM_RUN_LOAD_DEBUGCTL": 4}
#: What kernel images with KVM as a module have: the types, from headers, and no function of KVM's.
OLD_IMAGE, NEW_IMAGE = kvm_btf(*OLD, kvm=False), kvm_btf(*NEW, kvm=False, **FLAG)


@pytest.mark.parametrize(
    ("vmlinux", "kvm", "kvm_intel", "verdict"),
    [
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), None, Verdict.PASS),
        (NEW_IMAGE, kvm_btf(*OLD, over=NEW_IMAGE), None, Verdict.FAIL),
        (NEW_IMAGE, kvm_btf(over=NEW_IMAGE), None, Verdict.PASS),
        (OLD_IMAGE, kvm_btf(over=OLD_IMAGE), None, Verdict.FAIL),
        (NEW_IMAGE, kvm_btf(over=NEW_IMAGE, kvm=False), None, Verdict.INCONCLUSIVE),
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), NEW, Verdict.PASS),
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), OLD, Verdict.FAIL),
        (NEW_IMAGE, kvm_btf(over=NEW_IMAGE), OLD, Verdict.FAIL),
        (OLD_IMAGE, kvm_btf(over=OLD_IMAGE), NEW, Verdict.FAIL),
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), ("name",), Verdict.INCONCLUSIVE),
    ],
    ids=[
        "fixed modules over an old image",
        "old modules over a fixed image",
        "the image's own modules, fixed",
        "the image's own modules, old",
        "a module that shows nothing of KVM",
        "both modules fixed over an old image",
        "kvm fixed, kvm_intel old",
        "kvm the image's, kvm_intel old",
        "kvm the image's, kvm_intel fixed",
        "kvm fixed, kvm_intel stripped",
    ],
)
def test_the_loaded_modules_types_decide(
    tmp_path: Path, vmlinux: bytes, kvm: bytes, kvm_intel: Sequence[str] | None, verdict: Verdict
) -> None:
    modules = {"kvm": kvm}
    if kvm_intel is not None:
        modules["kvm_intel"] = kvm_intel_btf(vmlinux, "vcpu", ops=kvm_intel)
    machine = modules_over(tmp_path, vmlinux, **modules)
    judgement = judged(observe("kernel.fix-present", machine))
    assert judgement.verdict is verdict, judgement.reason
    expected = {Verdict.PASS: 0, Verdict.FAIL: 1}.get(verdict, 4)
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == expected, (
        "kvmtest kernel inspect disagrees"
    )


def test_a_mixed_build_is_named_by_module(tmp_path: Path) -> None:
    kvm = kvm_btf(*NEW, over=OLD_IMAGE, **FLAG)
    kvm_intel = kvm_intel_btf(OLD_IMAGE, "vcpu", ops=OLD)
    machine = modules_over(tmp_path, OLD_IMAGE, kvm=kvm, kvm_intel=kvm_intel)
    reason = judged(observe("kernel.fix-present", machine)).reason
    assert "modules of different builds (1 of 1 in kvm; 0 of 1 in kvm_intel)" in reason


def test_kvm_intel_without_a_copy_of_its_own_leaves_it_to_kvm(tmp_path: Path) -> None:
    kvm = kvm_btf(*NEW, over=OLD_IMAGE, **FLAG)
    kvm_intel = kvm_intel_btf(OLD_IMAGE, "vcpu", "run_flags")
    machine = modules_over(tmp_path, OLD_IMAGE, kvm=kvm, kvm_intel=kvm_intel)
    judgement = judged(observe("kernel.fix-present", machine))
    assert judgement.verdict is Verdict.PASS, judgement.reason


@pytest.mark.parametrize("image", [OLD_IMAGE, NEW_IMAGE])
def test_an_image_without_kvm_decides_nothing_until_kvm_is_loaded(
    tmp_path: Path, image: bytes
) -> None:
    tree = intel_host(tmp_path, btf=image)
    for module in ("kvm", "kvm_intel"):
        shutil.rmtree(tree.path(f"/sys/module/{module}"))
    tree.path("/sys/kernel/btf/kvm_intel").unlink()
    judgement = judged(observe("kernel.fix-present", Machine(tree)))
    assert judgement.verdict is Verdict.SKIP
    assert judgement.reason == (
        "btf: module kvm is not loaded, so that no BTF describes it; modprobe kvm_intel"
    )
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == 4


def test_types_without_kvm_say_what_would_decide_it(tmp_path: Path) -> None:
    judgement = judged(observe("kernel.fix-present", Machine(intel_host(tmp_path, btf=NEW_IMAGE))))
    assert "something of KVM's own in this BTF, such as the function kvm_vcpu_ioctl: no" in (
        judgement.reason
    )
    assert "modprobe kvm_intel" in judgement.reason


def test_fix_present_names_what_is_missing(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path(BTF).unlink()
    (absence,) = observe("kernel.fix-present", Machine(tree))
    assert isinstance(absence, Absence)
    assert "BTF" in absence.missing.what
