"""Census of VMs
=============

The processes that hold /dev/kvm, a VM or a vCPU open, or the device of another hypervisor on Linux.
A run takes it before it changes anything on the host.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["Census", "HypervisorProcess"]

# The inode of the machine's first PID namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


# Devices of hypervisors besides KVM, which have a process for each VM. VirtualBox opens the first
# as root, and the second as anybody else (SUPR0 of its support driver).
_OTHERS = {"/dev/vboxdrv": "VirtualBox", "/dev/vboxdrvu": "VirtualBox", "/dev/vmmon": "VMware"}


@dataclass(frozen=True, slots=True)
class HypervisorProcess:
    """A process that runs VMs, and how many descriptors of VMs, vCPUs and /dev/kvm it holds.

    A duplicated descriptor counts again. ``command`` is the command line, empty where the process
    has ended or hides it. An open device of another ``hypervisor`` than KVM counts as one VM.
    """

    pid: int
    name: str
    command: tuple[str, ...]
    vms: int
    vcpus: int
    devices: int
    hypervisor: str = "KVM"

    def __str__(self) -> str:
        if self.hypervisor != "KVM":
            return f"{self.name} (pid {self.pid}, a VM of {self.hypervisor})"
        return f"{self.name} (pid {self.pid}, {self.vms} VMs, {self.vcpus} vCPUs)"


@dataclass(frozen=True, slots=True)
class Census:
    """The other ``processes`` that hold KVM or another hypervisor, and what could not be seen.

    ``unreadable`` are the processes whose descriptors this one may not list; ``blind_spots`` says
    why others may have gone unseen.
    """

    processes: tuple[HypervisorProcess, ...]
    unreadable: tuple[int, ...]
    blind_spots: tuple[Missing, ...]

    @classmethod
    def of(cls, tree: Tree) -> "Census":
        """Look through the descriptors of every process but this one."""
        processes = []
        unreadable = []
        for pid in _pids(tree):
            try:
                held = _held(tree, pid)
            except PermissionError:
                unreadable.append(pid)
            else:
                if held:
                    processes.append(_process(tree, pid, held))
        return cls(tuple(processes), tuple(unreadable), tuple(_blind_spots(tree, unreadable)))


def _pids(tree: Tree) -> list[int]:
    """Return the process ids of ``tree``, ascending, without this process."""
    own = os.getpid() if tree.is_live else None
    try:
        with os.scandir(tree.path("/proc")) as entries:
            pids = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    except OSError:
        return []
    return sorted(pid for pid in pids if pid != own)


def _held(tree: Tree, pid: int) -> Counter[str]:
    """Count what ``pid`` holds by kind: "device", "vm", "vcpu", or a hypervisor besides KVM.

    Raises PermissionError.
    """
    kinds = map(_kind, _open_files(tree.path(f"/proc/{pid}/fd")))
    return Counter(kind for kind in kinds if kind is not None)


def _open_files(folder: Path) -> Iterator[str]:
    """Give the link of each descriptor in ``folder``; nothing where it has gone meanwhile."""
    try:
        with os.scandir(folder) as descriptors:
            paths = [descriptor.path for descriptor in descriptors]
    except (FileNotFoundError, ProcessLookupError):
        return
    for path in paths:
        with suppress(FileNotFoundError, ProcessLookupError):
            yield os.readlink(path)  # noqa: PTH115 (there are tens of thousands of them)


def _kind(target: str) -> str | None:
    """Return what a descriptor's link ``target`` is of KVM (virt/kvm/kvm_main.c) or its like.

    A vCPU's name carries its id: "anon_inode:kvm-vcpu:0".
    """
    if target == "anon_inode:kvm-vm":
        return "vm"
    if target.startswith("anon_inode:kvm-vcpu"):
        return "vcpu"
    return "device" if target == "/dev/kvm" else _OTHERS.get(target)


def _process(tree: Tree, pid: int, held: Counter[str]) -> HypervisorProcess:
    name, command = _live_names(pid) if tree.is_live else _names(tree, pid)
    others = sorted(held.keys() & set(_OTHERS.values()))
    vms = held["vm"] + len(others)
    by = " and ".join(["KVM"] * (held["vm"] > 0) + others) or "KVM"
    return HypervisorProcess(pid, name, command, vms, held["vcpu"], held["device"], by)


def _live_names(pid: int) -> tuple[str, tuple[str, ...]]:
    """Return name and command line of a process, as far as it is still there."""
    import psutil  # Slow to import, and on most machines there is nobody to name.

    try:
        facts = psutil.Process(pid).as_dict(["name", "cmdline"])
    except psutil.NoSuchProcess:
        return "?", ()
    return facts["name"] or "?", tuple(facts["cmdline"] or ())


def _names(tree: Tree, pid: int) -> tuple[str, tuple[str, ...]]:
    """Return the same of a stand-in's process."""
    command = (tree.read_bytes(f"/proc/{pid}/cmdline") or b"").decode(errors="replace")
    words = tuple(command.rstrip("\0").split("\0")) if command else ()
    return tree.read(f"/proc/{pid}/comm") or "?", words


def _blind_spots(tree: Tree, unreadable: list[int]) -> Iterator[Missing]:
    """Give each reason for which KVM users may have gone unseen."""
    if not tree.exists("/proc/mounts"):
        yield Missing("processes can't be seen: /proc is not mounted", "mount /proc")
        return
    if unreadable:
        pids = ", ".join(map(str, unreadable[:5])) + (", …" if unreadable[5:] else "")
        yield Missing(
            f"the open files of some processes can't be listed ({len(unreadable)}: pid {pids})",
            "run as root with CAP_SYS_PTRACE",
        )
    if os.geteuid() != 0 and _hides_processes(tree.read("/proc/mounts") or ""):
        yield Missing(
            "/proc is mounted with hidepid: other users' processes are hidden", "run as root"
        )
    namespace = _link(tree, "/proc/self/ns/pid")
    if namespace not in (None, _INITIAL_PID_NAMESPACE):
        yield Missing(
            "this process is in a PID namespace of its own: the host's other processes are hidden",
            "run outside the container",
        )


def _hides_processes(mounts: str) -> bool:
    """Tell whether /proc hides other users' processes (Documentation/filesystems/proc.rst)."""
    options: set[str] = set()
    for _, point, kind, text, *_ in (line.split() for line in mounts.splitlines()):
        if (point, kind) == ("/proc", "proc"):
            options = set(text.split(","))
    hiding = {option for option in options if option.startswith("hidepid=")}
    return bool(hiding - {"hidepid=0", "hidepid=off"})


def _link(tree: Tree, name: str) -> str | None:
    """Return where the link ``name`` points, None where it can't be read."""
    try:
        return str(tree.path(name).readlink())
    except OSError:
        return None
