"""Every other process that uses KVM is found, and what could not be seen is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvmtest.host.facts import census as census_module
from kvmtest.host.facts.census import Census, HypervisorProcess
from kvmtest.host.tree import Tree

MOUNTS = "proc /proc proc rw,nosuid,relatime 0 0\n"


def process(root: Path, pid: int, *targets: str, command: str = "qemu\0-m\0001G\0") -> None:
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text("qemu-system-x86\n")
    (folder / "cmdline").write_text(command)
    for number, target in enumerate(targets):
        (folder / f"fd/{number}").symlink_to(target)


def procfs(root: Path, mounts: str = MOUNTS) -> Tree:
    (root / "proc/self/ns").mkdir(parents=True)
    (root / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    (root / "proc/mounts").write_text(mounts)
    return Tree(root)


def test_a_virtual_machine_is_counted_by_what_it_holds(tmp_path: Path) -> None:
    process(
        tmp_path,
        4711,
        "/dev/null",
        "/dev/kvm",
        "anon_inode:kvm-vm",
        "anon_inode:kvm-vcpu:0",
        "anon_inode:kvm-vcpu:1",
        "anon_inode:[eventfd]",
    )
    census = Census.of(procfs(tmp_path))
    assert census.processes == (
        HypervisorProcess(4711, "qemu-system-x86", ("qemu", "-m", "1G"), vms=1, vcpus=2, devices=1),
    )
    assert str(census.processes[0]) == "qemu-system-x86 (pid 4711, 1 VMs, 2 vCPUs)"
    assert census.blind_spots == ()


@pytest.mark.parametrize("target", ["/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu"])
def test_each_kind_of_descriptor_alone_makes_a_user(tmp_path: Path, target: str) -> None:
    process(tmp_path, 1, target)
    assert [user.pid for user in Census.of(procfs(tmp_path)).processes] == [1]


@pytest.mark.parametrize(
    ("target", "hypervisor"),
    [
        ("/dev/vboxdrv", "VirtualBox"),
        ("/dev/vboxdrvu", "VirtualBox"),
        ("/dev/vmmon", "VMware"),
    ],
)
def test_a_vm_of_another_hypervisor_is_a_vm(tmp_path: Path, target: str, hypervisor: str) -> None:
    process(tmp_path, 12, "/dev/null", target, target)
    (user,) = Census.of(procfs(tmp_path)).processes
    assert (user.vms, user.vcpus, user.devices, user.hypervisor) == (1, 0, 0, hypervisor)
    assert str(user) == f"qemu-system-x86 (pid 12, a VM of {hypervisor})"


def test_a_process_may_run_vms_of_several_hypervisors(tmp_path: Path) -> None:
    process(tmp_path, 12, "/dev/kvm", "anon_inode:kvm-vm", "/dev/vmmon")
    (user,) = Census.of(procfs(tmp_path)).processes
    assert (user.vms, user.devices, user.hypervisor) == (2, 1, "KVM and VMware")


@pytest.mark.parametrize(
    "target",
    [
        "/dev/vboxnetctl",
        "/dev/vboxguest",
        "/dev/vmci",
        "/dev/kvmfr0",
        "/tmp/kvm-vm",
        "anon_inode:kvm-stats",
        "/dev/kvm (deleted)",
        "x",
    ],
)
def test_other_descriptors_make_none(tmp_path: Path, target: str) -> None:
    process(tmp_path, 1, target)
    assert Census.of(procfs(tmp_path)).processes == ()


def test_users_are_in_the_order_of_their_pids(tmp_path: Path) -> None:
    for pid in (1000, 99, 5):
        process(tmp_path, pid, "/dev/kvm", command="")
    census = Census.of(procfs(tmp_path))
    assert [user.pid for user in census.processes] == [5, 99, 1000]
    assert census.processes[0].command == ()


def test_a_process_that_ends_meanwhile_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    assert Census.of(procfs(tmp_path)).processes == ()


def test_without_proc_the_census_says_that_it_saw_nothing(tmp_path: Path) -> None:
    census = Census.of(Tree(tmp_path))
    assert census.processes == ()
    assert "/proc is not mounted" in census.blind_spots[0].what


def test_a_container_is_a_blind_spot(tmp_path: Path) -> None:
    tree = procfs(tmp_path)
    link = tmp_path / "proc/self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[4026532177]")
    assert "PID namespace" in Census.of(tree).blind_spots[0].what


@pytest.mark.parametrize(
    ("option", "hides"),
    [("hidepid=2", True), ("hidepid=invisible", True), ("hidepid=0", False), ("nosuid", False)],
)
def test_hidepid_is_read_from_the_last_mount_of_proc(option: str, hides: bool) -> None:
    mounts = f"proc /proc proc rw,hidepid=1 0 0\nproc /proc proc rw,{option} 0 0\n"
    assert census_module._hides_processes(mounts) is hides


def test_processes_that_may_not_be_read_are_counted(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may list every process's descriptors")
    process(tmp_path, 12, "/dev/kvm")
    (tmp_path / "proc/12/fd").chmod(0)
    census = Census.of(procfs(tmp_path))
    assert census.unreadable == (12,)
    assert "(1: pid 12)" in census.blind_spots[0].what


HOLD_KVM = """
import fcntl, os, sys
KVM_CREATE_VM, KVM_CREATE_VCPU = 0xAE01, 0xAE41
kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_real_virtual_machine_of_another_process_is_found() -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm can't be opened")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_KVM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        (user,) = (user for user in Census.of(Tree()).processes if user.pid == holder.pid)
        holder.communicate()
    assert (user.vms, user.vcpus, user.devices) == (1, 1, 1)
    assert user.command[1] == "-c"
    assert holder.pid not in {user.pid for user in Census.of(Tree()).processes}


def test_this_process_is_left_out() -> None:
    if not os.access("/dev/kvm", os.R_OK):
        pytest.skip("/dev/kvm can't be opened")
    with Path("/dev/kvm").open("rb"):
        assert os.getpid() not in {user.pid for user in Census.of(Tree()).processes}
