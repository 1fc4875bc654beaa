"""kvmtest/kernels/series_types.py: what types show of each commit, and when they show nothing."""

from support.kvm_types import KvmTypes, fixed, vmlinux

from kvmtest.kernels.btf import Btf
from kvmtest.kernels.series import (
    DR6_FLAG,
    FIX,
    HELPER,
    QUIRK,
    RUN_FLAGS,
    SERIES,
    TDX,
    Commit,
    Evidence,
    State,
    finding_of,
)
from kvmtest.kernels.series_types import from_types


def types(blob: KvmTypes) -> Btf:
    blob.function("kvm_vcpu_ioctl", 1)
    return Btf(blob.bytes())


def state(blob: KvmTypes, commit: Commit, intel: KvmTypes | None = None) -> State:
    found = from_types(types(blob), Btf(intel.bytes()) if intel else None)
    return finding_of(commit, found).state


def test_a_fixed_kernel_shows_the_flags_and_the_mask() -> None:
    found = from_types(types(fixed(vmlinux())))
    assert [each.commit for each in found] == list(SERIES)
    assert {each.commit for each in found if each.state is State.PRESENT} >= {RUN_FLAGS, FIX}
    assert finding_of(FIX, found).evidence == (Evidence.TYPES,)


def test_an_unfixed_kernel_lacks_them() -> None:
    blob = vmlinux()
    blob.ops("vcpu_run")
    found = from_types(types(blob))
    absent = {each.commit for each in found if each.state is State.ABSENT}
    assert absent == {RUN_FLAGS, DR6_FLAG, FIX}


def test_the_flags_alone_are_two_commits() -> None:
    blob = vmlinux()
    blob.ops("vcpu_run")
    blob.flags(KVM_RUN_FORCE_IMMEDIATE_EXIT=1)
    found = from_types(types(blob))
    assert finding_of(RUN_FLAGS, found).state is State.PRESENT
    assert finding_of(DR6_FLAG, found).state is State.ABSENT


def test_a_quirk_has_no_type() -> None:
    assert state(fixed(vmlinux()), QUIRK) is State.UNKNOWN


def test_types_without_kvm_say_nothing() -> None:
    assert {each.state for each in from_types(Btf(vmlinux().bytes()))} == {State.UNKNOWN}


def intel(*structs: tuple[str, str]) -> KvmTypes:
    blob = vmlinux()
    for name, member in (("vcpu_vmx", "vcpu"), *structs):
        blob.record(name, (member, 1, 0))
    return blob


def test_a_kernel_without_tdx_needs_no_commit_on_tdx() -> None:
    found = from_types(types(fixed(vmlinux())), Btf(intel().bytes()))
    assert (finding_of(TDX, found).state, finding_of(TDX, found).unneeded) == (
        State.ABSENT,
        "it has no TDX",
    )


def test_a_copy_of_tdx_s_own_is_the_kernel_before() -> None:
    before = intel(("vcpu_vt", "host_debugctlmsr"), ("vcpu_tdx", "vt"))
    after = intel(("vcpu_vt", "exit_reason"), ("vcpu_tdx", "vt"))
    assert state(fixed(vmlinux()), TDX, before) is State.ABSENT
    assert state(fixed(vmlinux()), TDX, after) is State.PRESENT


def test_a_function_s_type_shows_the_helper_and_its_lack_shows_nothing() -> None:
    with_helper = intel()
    with_helper.function("vmx_is_valid_debugctl", 1)
    assert state(fixed(vmlinux()), HELPER, with_helper) is State.PRESENT
    assert state(fixed(vmlinux()), HELPER, intel()) is State.UNKNOWN
