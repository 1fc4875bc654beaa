"""A VMM's vCPUs are found among its descriptors, and their threads by debugfs or as they sleep."""

from pathlib import Path

import pytest
from support.stand_in import as_nobody, let_everyone_in, write
from support.watched_host import PID, TIDS, add_thread, watched_host

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.host.facts.vmm import Vmm, runs
from kvmtest.host.tree import Tree

IN_KVM_RUN = "16 0x15 0xae80 0x0 0x0 0x0 0x0 0x7ffc 0x7f00"
PF_USER_WORKER = 0x4000
DEBUGFS = "/sys/kernel/debug/kvm/78-12"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return watched_host(tmp_path).tree


def threads(tree: Tree) -> dict[int, int]:
    return Vmm.of(tree, PID).threads(tree)


def forget(tree: Tree, number: int) -> None:
    tree.path(f"{DEBUGFS}/vcpu{number}/pid").unlink()


def test_vcpus_are_found_by_their_descriptors(tree: Tree) -> None:
    tree.path(f"/proc/{PID}/fd/3").symlink_to("/dev/kvm")
    tree.path(f"/proc/{PID}/fd/4").symlink_to("anon_inode:kvm-vcpu-stats:0")
    assert Vmm.of(tree, PID) == Vmm(PID, "qemu", {20: 0, 21: 1})


def test_debugfs_names_the_threads(tree: Tree) -> None:
    assert threads(tree) == {20: 78, 21: 79}


def test_another_process_s_vm_is_left_out(tree: Tree) -> None:
    write(tree, "/sys/kernel/debug/kvm/500-12/vcpu0/pid", "501\n")
    write(tree, f"{DEBUGFS}/vcpu1/pid", "0\n")
    assert threads(tree) == {20: 78}


def test_without_debugfs_a_thread_that_sleeps_in_kvm_run_is_seen(tree: Tree) -> None:
    forget(tree, 0)
    forget(tree, 1)
    add_thread(tree, TIDS[1], IN_KVM_RUN)
    assert threads(tree) == {21: 79}


def test_kvm_s_own_worker_is_no_vcpu_thread(tree: Tree) -> None:
    forget(tree, 1)
    add_thread(tree, 80, IN_KVM_RUN, PF_USER_WORKER)
    assert threads(tree) == {20: 78}


def test_vcpus_of_several_vms_are_not_mixed_up(tree: Tree) -> None:
    tree.path(f"/proc/{PID}/fd/30").symlink_to("anon_inode:kvm-vcpu:0")
    assert threads(tree) == {21: 79}


@pytest.mark.parametrize(
    ("call", "fd"),
    [
        ((16, 20, 0xAE80, 0), 20),
        # ioctl(2) takes 32 bits of each.
        ((16, 20 | 7 << 32, 0xAE80 | 7 << 32, 0), 20),
        ((16, 20, 0xAE81), None),
        ((17, 20, 0xAE80), None),
        ((16,), None),
        ((), None),
    ],
)
def test_kvm_run_is_told_from_other_calls(call: tuple[int, ...], fd: int | None) -> None:
    assert runs(call) == fd


def test_a_process_that_can_not_be_looked_into_is_named(tree: Tree, tmp_path: Path) -> None:
    tree.path(f"/proc/{PID}/fd").chmod(0o700)
    let_everyone_in(tmp_path)
    with as_nobody(), pytest.raises(EnvironmentUnfit, match="can't be listed; run as root"):
        Vmm.of(tree, PID)


def test_a_process_without_vcpus_is_refused(tree: Tree) -> None:
    for fd in (20, 21):
        tree.path(f"/proc/{PID}/fd/{fd}").unlink()
    with pytest.raises(UsageError, match="has no vCPU open"):
        Vmm.of(tree, PID)
