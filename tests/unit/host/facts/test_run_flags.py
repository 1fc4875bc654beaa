"""The run flags are where BTF and symbols say, or it is said what keeps them from being known."""

from pathlib import Path

import pytest
from support.stand_in import (
    BTF,
    FIXED,
    KVM_INTEL_BTF,
    UNFIXED,
    intel_host,
    kvm_btf,
    kvm_intel_btf,
    write,
)

from kvmtest.host.facts.run_flags import RunFlags
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing


def missing(machine: Machine) -> str:
    flags = machine.run_flags
    assert isinstance(flags, Missing)
    return flags.what


def test_the_flags_have_a_place_a_register_and_a_mask(tmp_path: Path) -> None:
    btf = kvm_btf(
        "vcpu_run",
        "HOST_OWNED_DEBUGCTL",
        KVM_RUN_FORCE_IMMEDIATE_EXIT=1,
        KVM_RUN_LOAD_GUEST_DR6=2,
        KVM_RUN_LOAD_DEBUGCTL=4,
    )
    tree = intel_host(tmp_path, btf=btf)
    write(tree, KVM_INTEL_BTF, kvm_intel_btf(btf, "vcpu", "run_flags"))
    assert Machine(tree).run_flags == RunFlags("kvm_intel:vmx_vcpu_run", "si", 4, 7)


@pytest.mark.parametrize(
    ("parameters", "register"),
    [
        (("run_flags",), "di"),
        (("vcpu", "other", "run_flags"), "dx"),
        (("a", "b", "c", "run_flags"), "cx"),
        (("a", "b", "c", "d", "e", "run_flags"), "r9"),
    ],
)
def test_the_register_follows_the_position(
    tmp_path: Path, parameters: tuple[str, ...], register: str
) -> None:
    tree = intel_host(tmp_path)
    write(tree, KVM_INTEL_BTF, kvm_intel_btf(FIXED, *parameters))
    flags = Machine(tree).run_flags
    assert isinstance(flags, RunFlags)
    assert flags.register == register


def test_a_kernel_without_run_flags_says_which_commit_brings_them(tmp_path: Path) -> None:
    flags = Machine(intel_host(tmp_path, btf=UNFIXED)).run_flags
    assert flags == Missing(
        "this kernel's vmx_vcpu_run takes no run flags (no enum kvm_x86_run_flags)",
        "use a kernel with commit 2478b1b220c4 (in v6.17)",
    )


def test_a_kernel_with_other_flags_alone_has_no_load_debugctl(tmp_path: Path) -> None:
    btf = kvm_btf("vcpu_run", KVM_RUN_FORCE_IMMEDIATE_EXIT=1)
    assert "no run flag KVM_RUN_LOAD_DEBUGCTL" in missing(Machine(intel_host(tmp_path, btf=btf)))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (KVM_INTEL_BTF, kvm_intel_btf(FIXED, "vcpu", "other"), "has no parameter run_flags"),
        (
            KVM_INTEL_BTF,
            kvm_intel_btf(FIXED, *"abcdef", "run_flags"),
            "no parameter run_flags in a register",
        ),
        (KVM_INTEL_BTF, b"junk", "can't be understood"),
    ],
)
def test_flags_that_can_not_be_placed_are_missing(
    tmp_path: Path, file: str, content: str | bytes, said: str
) -> None:
    tree = intel_host(tmp_path)
    write(tree, file, content)
    assert said in missing(Machine(tree))


def test_btf_that_does_not_describe_the_function_is_told(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    blob = kvm_intel_btf(FIXED, "vcpu", "run_flags").replace(b"vmx_vcpu_run\0", b"vmx_vcpu_nur\0")
    write(tree, KVM_INTEL_BTF, blob)
    assert "does not describe vmx_vcpu_run" in missing(Machine(tree))


def test_a_function_that_is_built_in_has_no_module(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path("/sys/module/kvm_intel/initstate").unlink()
    tree.path(KVM_INTEL_BTF).unlink()
    write(tree, BTF, kvm_btf("vcpu_run", KVM_RUN_LOAD_DEBUGCTL=4, functions=True))
    flags = Machine(tree).run_flags
    assert isinstance(flags, RunFlags)
    assert (flags.place, flags.register) == ("vmx_vcpu_run", "si")


def test_entries_of_tds_are_another_function_of_kvm_intel(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    blob = kvm_intel_btf(FIXED, "vcpu", "run_flags", function="tdx_vcpu_run")
    write(tree, KVM_INTEL_BTF, blob)
    flags = Machine(tree).td_run_flags
    assert isinstance(flags, RunFlags)
    assert (flags.place, flags.function) == ("kvm_intel:tdx_vcpu_run", "tdx_vcpu_run")
    assert (flags.register, flags.load_debugctl) == ("si", 4)


def test_a_kvm_without_tdx_has_no_entries_of_tds(tmp_path: Path) -> None:
    flags = Machine(intel_host(tmp_path)).td_run_flags
    assert isinstance(flags, Missing)
    assert "does not describe tdx_vcpu_run" in flags.what
