"""VMMs
====

The vCPUs that a running process has open, and which thread of it runs each, as far as the process
need not be stopped for that.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.host.tree import Tree

from .task import stat

__all__ = ["IOCTL", "KVM_RUN", "Vmm", "runs"]

#: ioctl(2) on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl), and KVM_RUN (linux/kvm.h).
IOCTL, KVM_RUN = 16, 0xAE80

DEBUGFS = "/sys/kernel/debug/kvm"
# Flags of a task (linux/sched.h): PF_IO_WORKER, PF_USER_WORKER, PF_KTHREAD.
_KERNELS_OWN = 0x10 | 0x4000 | 0x200000
# virt/kvm/kvm_main.c, create_vcpu_fd: the name of a vCPU's file carries its id.
_VCPU = re.compile(r"anon_inode:kvm-vcpu:(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Vmm:
    """A process with vCPUs: its name, and the vCPUs' ids by their descriptors."""

    pid: int
    name: str
    vcpus: Mapping[int, int]

    @classmethod
    def of(cls, tree: Tree, pid: int) -> "Vmm":
        """Look through the descriptors of a process.

        Raises UsageError where it has no vCPU, EnvironmentUnfit where they can't be listed.
        """
        name = tree.read(f"/proc/{pid}/comm")
        if name is None:
            raise UsageError(f"no process has the ID {pid}; see pgrep -a qemu, or kvmtest doctor")
        try:
            found = dict(_vcpus(tree, pid))
        except PermissionError:
            raise EnvironmentUnfit(
                f"the open files of process {pid} ({name}) can't be listed; run as root"
            ) from None
        if not found:
            raise UsageError(f"process {pid} ({name}) has no vCPU open; give the process of a VMM")
        return cls(pid, name, found)

    def threads(self, tree: Tree) -> dict[int, int]:
        """Return the threads that run vCPUs by the vCPUs' descriptors, as far as they are seen.

        debugfs names the thread of a vCPU's last KVM_RUN. Without it, only a thread that sleeps in
        KVM_RUN is seen.
        """
        tids = self.tids(tree)
        asleep = {fd: tid for tid in tids if (fd := runs(_call(tree, self.pid, tid))) in self.vcpus}
        by_debugfs = self.by_descriptor(_by_debugfs(tree, tids))
        return {**by_debugfs, **{fd: tid for fd, tid in asleep.items() if fd is not None}}

    def by_descriptor(self, threads: Mapping[int, int]) -> dict[int, int]:
        """Return threads by the vCPUs' descriptors, given them by the vCPUs' ids.

        Where a process has several VMs, an id may not tell their vCPUs apart.
        """
        ids = list(self.vcpus.values())
        return {
            fd: threads[n] for fd, n in self.vcpus.items() if n in threads and ids.count(n) == 1
        }

    def tids(self, tree: Tree) -> list[int]:
        """Return the process's threads, none if it has ended.

        Without those of the kernel, such as KVM's worker, whose last call seems to be KVM_RUN.
        """
        folder = f"/proc/{self.pid}/task"
        try:
            names = [path.name for path in tree.path(folder).iterdir()]
        except OSError:
            return []
        tids = sorted(int(name) for name in names if name.isdecimal())
        return [tid for tid in tids if _is_vmms(tree, f"{folder}/{tid}")]


def runs(call: tuple[int, ...]) -> int | None:
    """Return the vCPU's descriptor if a system call, by number and arguments, is KVM_RUN."""
    if len(call) > 2 and call[0] == IOCTL and call[2] & 0xFFFFFFFF == KVM_RUN:
        return call[1] & 0xFFFFFFFF
    return None


def _vcpus(tree: Tree, pid: int) -> Iterator[tuple[int, int]]:
    for path in tree.path(f"/proc/{pid}/fd").iterdir():
        try:
            match = _VCPU.match(str(path.readlink()))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if match:
            yield int(path.name), int(match[1])


def _is_vmms(tree: Tree, folder: str) -> bool:
    """Tell whether a thread still lives, and is not the kernel's."""
    fields = stat(tree, folder)
    return len(fields) > 6 and not int(fields[6]) & _KERNELS_OWN


def _call(tree: Tree, pid: int, tid: int) -> tuple[int, ...]:
    """Return the system call that a thread sleeps in: number and arguments; empty if it runs."""
    words = (tree.read(f"/proc/{pid}/task/{tid}/syscall") or "").split()
    try:
        return tuple(int(word, 0) for word in words)
    except ValueError:
        return ()


def _by_debugfs(tree: Tree, tids: list[int]) -> dict[int, int]:
    """Return threads by vCPU ids, of the VMs that one of these threads made."""
    found = {}
    for path in tree.glob(f"{DEBUGFS}/[0-9]*-[0-9]*/vcpu[0-9]*/pid"):
        maker, number = path.parent.parent.name.split("-")[0], path.parent.name[4:]
        tid = (tree.read(f"/{path.relative_to(tree.root)}") or "").strip()
        if not (maker.isdecimal() and number.isdecimal() and tid.isdecimal()):
            continue
        if int(maker) in tids and int(tid) in tids:
            found[int(number)] = int(tid)
    return found
