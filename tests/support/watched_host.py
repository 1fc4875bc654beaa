"""A stand-in host with a VMM, whose kernel records entries and run flags as the knob is toggled."""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.msr import (
    IA32_DEBUGCTL,
    IA32_DEBUGCTL_FREEZE_WHILE_SMM,
    MsrAccess,
)
from kvmtest.host.facts.tracefs import KPROBE_EVENTS, TRACING
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from support.stand_in import FREEZE_CAPABLE, KNOB, intel_host, write

PID = 77
#: The threads of vCPUs 0 and 1.
TIDS = (78, 79)
FLAG = 4


class FollowingMsrs(MsrAccess):
    """DEBUGCTL says what the knob says."""

    def read(self, index: int, cpu: int) -> int:
        if index == IA32_DEBUGCTL:
            return IA32_DEBUGCTL_FREEZE_WHILE_SMM if self.tree.read(KNOB) == "1" else 0
        return int.from_bytes(FREEZE_CAPABLE[index : index + 8], "little")


class DeafMsrs(FollowingMsrs):
    """The knob does not reach the CPUs."""

    def read(self, index: int, cpu: int) -> int:
        return 0 if index == IA32_DEBUGCTL else super().read(index, cpu)


class Kernel(Journal):
    """A journal over the stand-in, which does what the kernel does at each change.

    ``misses`` are threads whose vCPU is never told, ``asleep`` those whose vCPU does not enter.
    """

    misses: Iterable[int] = ()
    asleep: Iterable[int] = ()
    warns = False

    def make_directory(self, name: str) -> None:
        super().make_directory(name)
        events = ["kvm/kvm_entry", "kvm/kvm_exit", "kvmtest/entry"]
        files = ("trace_clock", "buffer_percent", "set_event_pid", "tracing_on")
        for file in (*files, *(f"events/{event}/enable" for event in events)):
            write(self._tree, f"{name}/{file}", "")
        os.mkfifo(self._tree.path(f"{name}/trace_pipe"))

    def write(self, name: str, value: str, *, undo: str | None = None, force: bool = False) -> None:
        before = self._tree.read(KNOB)
        if name.endswith("tracing_on") and value == "0":
            self._enter(toggled=False)
        super().write(name, value, undo=undo, force=force)
        if name == KNOB and before != value:
            self._enter(toggled=True)
            if self.warns:
                with self._tree.path("/dev/kmsg").open("a") as log:
                    log.write("4,9,9,-;WARNING: CPU: 0 PID: 78 at arch/x86/kvm/x86.c:1 f+0x0/0x1\n")
        elif name.endswith("tracing_on") and value == "1":
            self._enter(toggled=False)

    def close(self) -> list[str]:
        """Undo all; rmdir(2) removes a tracing instance with its files."""
        for instance in self._tree.glob(f"{TRACING}/instances/*"):
            for path in instance.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return super().close()

    def _enter(self, *, toggled: bool) -> None:
        """Have each vCPU enter; it is told of a toggle, which this is a part of."""
        now = time.monotonic_ns() // 1000 + 50 * toggled
        while time.monotonic_ns() // 1000 < now:
            pass
        for cpu, tid in enumerate(TIDS):
            if tid in self.asleep:
                continue
            told = FLAG if toggled and tid not in self.misses else 0
            stamp = f"CPU-{tid}  [00{cpu}] d..2. {now // 1_000_000}.{now % 1_000_000:06}:"
            place = "(vmx_vcpu_run+0x0/0x8d0 [kvm_intel])"
            self._say("entry", f"{stamp} entry: {place} flags={told:#x}\n")
            self._say("watch", f"{stamp} kvm_entry: vcpu {cpu}, rip 0xfff0\n")
            self._say("watch", f"{stamp} kvm_exit: vcpu {cpu} reason HLT rip 0xfff1 info1 0x0\n")

    def _say(self, instance: str, line: str) -> None:
        pipe = self._tree.path(f"{TRACING}/instances/kvmtest-{instance}/trace_pipe")
        with suppress(OSError):
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, line.encode())
            os.close(fd)


def watched_host(root: Path, msrs: type[FollowingMsrs] = FollowingMsrs) -> Machine:
    """Make the host, with a VMM of two vCPUs whose threads debugfs names."""
    tree = intel_host(root)
    write(tree, KPROBE_EVENTS, "")
    write(tree, f"{TRACING}/events/kvm/kvm_entry/enable", "0")
    tree.path(f"{TRACING}/instances").mkdir()
    write(tree, f"/proc/{PID}/comm", "qemu\n")
    tree.path(f"/proc/{PID}/fd").mkdir()
    for number, tid in enumerate(TIDS):
        tree.path(f"/proc/{PID}/fd/{20 + number}").symlink_to(f"anon_inode:kvm-vcpu:{number}")
        add_thread(tree, tid)
        write(tree, f"/sys/kernel/debug/kvm/{TIDS[0]}-12/vcpu{number}/pid", f"{tid}\n")
    machine = Machine(tree)
    vars(machine)["msr"] = msrs(tree, (0, 1), None)
    return machine


def add_thread(tree: Tree, tid: int, call: str = "running", flags: int = 0) -> None:
    """Add a thread of the VMM that is in this system call, as /proc/TID/syscall has it."""
    write(tree, f"/proc/{PID}/task/{tid}/stat", f"{tid} (CPU 0/KVM) R 1 1 1 0 -1 {flags} 0\n")
    write(tree, f"/proc/{PID}/task/{tid}/syscall", f"{call}\n")
