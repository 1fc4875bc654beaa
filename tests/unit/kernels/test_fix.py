"""kvmtest/kernels/fix.py: what types say about the fix, and when they may say so."""

import pytest
from support.kvm_types import KvmTypes, fixed, vmlinux

from kvmtest.kernels.btf import Btf
from kvmtest.kernels.fix import FixPresence, observe_fix


def observe(blob: KvmTypes) -> FixPresence:
    return observe_fix(Btf(blob.bytes()), "a blob")


def test_a_fixed_kernel_shows_the_member_the_flags_and_the_offset() -> None:
    seen = observe(fixed(vmlinux()))
    assert (
        seen.ops_copies_with_host_owned_debugctl > 0,
        seen.has_run_flags_enum,
        seen.has_control,
    ) == (True,) * 3
    assert (seen.load_debugctl, seen.host_debugctl_offset) == (4, 528)
    assert (seen.ops_copies, seen.control_members, seen.where) == (1, ("vcpu_run",), "a blob")


@pytest.mark.parametrize("run", ["vcpu_run", "run"])
def test_an_unfixed_kernel_shows_the_control_alone(run: str) -> None:
    blob = vmlinux()
    blob.ops("vcpu_create", run)
    seen = observe(blob)
    assert (seen.ops_copies_with_host_owned_debugctl > 0, seen.has_run_flags_enum) == (False, False)
    assert (seen.has_control, seen.control_members) == (True, (run,))
    assert (seen.load_debugctl, seen.host_debugctl_offset) == (None, None)


def test_the_run_flags_alone_are_told_apart_from_the_fix() -> None:
    blob = vmlinux()
    blob.ops("vcpu_run")
    blob.flags(KVM_RUN_FORCE_IMMEDIATE_EXIT=1)
    seen = observe(blob)
    assert (seen.has_run_flags_enum, seen.load_debugctl) == (True, None)
    assert not seen.ops_copies_with_host_owned_debugctl


def test_btf_of_something_else_shows_no_control() -> None:
    seen = observe(vmlinux())
    assert (seen.ops_copies, seen.has_control, seen.ops_copies_with_host_owned_debugctl > 0) == (
        0,
        False,
        False,
    )


def test_a_stripped_struct_shows_no_control() -> None:
    blob = vmlinux()
    blob.ops("name")
    assert not observe(blob).has_control


def test_all_copies_are_counted() -> None:
    blob = fixed(fixed(vmlinux()))
    blob.ops("vcpu_run")
    blob.vcpu(508)
    seen = observe(blob)
    assert (seen.ops_copies, seen.ops_copies_with_host_owned_debugctl) == (3, 2)
    assert (seen.host_debugctl_offsets, seen.host_debugctl_offset) == ((528, 536), None)
    assert (seen.ops_copies_with_host_owned_debugctl > 0, seen.has_control) == (True, True)


def test_one_stripped_copy_spoils_the_control() -> None:
    blob = fixed(vmlinux())
    blob.ops("name")
    seen = observe(blob)
    assert (seen.ops_copies_with_control, seen.has_control) == (1, False)
