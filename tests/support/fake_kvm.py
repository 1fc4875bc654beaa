"""A KVM behind the classes of kvmtest.kvm, whose vCPUs are those of ``debugctl_model``.

A guest is no program here: it does what is in its mailbox. All above is kvmtest's own: the guests'
host side, the checks, the readers of dumps.
"""

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from kvmtest._native import ffi, lib
from kvmtest.checks import Context, check_of
from kvmtest.guests import load
from kvmtest.guests.vmcs12 import (
    ENCODINGS,
    ENTRY_LOAD_DEBUG_CONTROLS,
    EXIT_SAVE_DEBUG_CONTROLS,
    NO_MEMORY,
    of_nested_state,
)
from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.hotplug import is_online, switch
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_PERF_CAPABILITIES, MsrError
from kvmtest.host.machine import Machine
from kvmtest.host.observe.trace import Hits
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Reading, Role, Verdict, judge
from kvmtest.kvm import (
    Cpuid,
    CpuidEntry,
    Exit,
    FailEntryExit,
    IoExit,
    KvmError,
    Loop,
    Stopped,
    System,
    Vcpu,
    Vm,
)
from kvmtest.lab.mutants import MUTANTS
from kvmtest.missing import Missing
from kvmtest.properties import find
from support.debugctl_model import FAULTS, FREEZE_IN_SMM, Host, Refused, Svm, Vmcs12, Vmx
from support.fake_player import FakePlayer
from support.stand_in import BTF, KMSG, KNOB, intel_host, kvm_btf, kvm_intel_btf, write
from support.vmcs_lines import as_kmsg, dump_lines

CPUID_RTM = 1 << 11
EFER, EFER_LMA, EFER_SVME = 0xC0000080, 1 << 10, 1 << 12
X2APIC_ICR = 0x830
SYSENTER_EIP = 0x176
#: An activity state that KVM gives no L2.
SHUTDOWN = 2
#: Guests' MSRs that hold whatever is written: SYSENTER_EIP, APIC_BASE, FEATURE_CONTROL,
#: PERF_CAPABILITIES, and the revision of a VMCS.
PLAIN_MSRS = (SYSENTER_EIP, 0x1B, 0x3A, IA32_PERF_CAPABILITIES, 0x480)
#: The controls of nested VMX: none must be 1, and each may be.
CONTROLS, ANY_CONTROL = (0x48D, 0x48E, 0x48F, 0x490), 0xFFFFFFFF << 32
INVALID_GUEST_STATE = 0x80000021
GENERAL_PROTECTION = 13
CR0_PE = 1
NESTED_STATE_SIZE = ffi.sizeof("struct kvm_nested_state") + 4096
FIELDS = {encoding: name for name, encoding in ENCODINGS.items()}
VMX_COMMANDS = range(lib.COMMAND_VMXON, lib.COMMANDS)
#: For what happens at once, unless a test is wrong.
PATIENCE_S = 20


class FakeHost(Host):
    """A host whose knob and kernel log are files of a stand-in tree, with CPUs for each thread."""

    def __init__(self, tree: Tree, **has: Any) -> None:
        self.tree = tree
        #: Called where a CPU gets an interrupt, with its number.
        self.kicked: list[Callable[[int], None]] = []
        self._cpus: dict[int, set[int]] = {}
        self._lines = 1
        #: Whether KVM leaves a CPU's DEBUGCTL alone as the CPU comes online.
        self.keeps_debugctl = True
        #: Counts the writes of the knob.
        self.toggles: Callable[[], int] = lambda: 0
        self._away: set[int] = set()
        #: CPUs that lost the bit, with the count of that time: the next toggle reaches them.
        self._lost: dict[int, int] = {}
        super().__init__(**has)

    @property  # type: ignore[override]
    def knob(self) -> int:
        return int(self.tree.read(KNOB) == "1")

    @knob.setter
    def knob(self, value: int) -> None:
        # Host's initializer alone sets it, to the default: the tree has the knob, if there is one.
        assert value == Host.knob, "write the knob of the tree"

    @property  # type: ignore[override]
    def cpus(self) -> set[int]:
        return self._cpus.get(threading.get_native_id(), {0, 1})

    @cpus.setter
    def cpus(self, cpus: set[int]) -> None:
        self._cpus[threading.get_native_id()] = set(cpus)

    def debugctl(self, cpu: int) -> int:
        for each in (0, 1):
            if not is_online(self.tree, each):
                self._away.add(each)
            elif each in self._away:
                self._away.remove(each)
                if not self.keeps_debugctl:
                    self._lost[each] = self.toggles()
        return 0 if self._lost.get(cpu) == self.toggles() else super().debugctl(cpu)

    def log(self, lines: list[str]) -> None:
        """Write lines to the kernel log."""
        with self.tree.path(KMSG).open("ab") as file:
            file.write(as_kmsg(lines, self._lines))
        self._lines += len(lines)


class FakeSystem(System):
    """/dev/kvm of ``host``, whose vCPUs are of the class ``model``."""

    host: FakeHost
    model: type[Vmx]

    def __init__(self, path: str | Path = "/dev/kvm") -> None:
        self.fd = -1

    def check_extension(self, capability: str) -> int:
        return _offered(self.model, capability)

    def get_supported_cpuid(self) -> Cpuid:
        return Cpuid([CpuidEntry(7, 0, 0, 0, CPUID_RTM, 0, 0)])

    def get_feature_msr(self, index: int) -> int | None:
        return 0

    def create_vm(self, vm_type: int = 0, *, pmu: bool = False) -> Vm:
        return FakeVm(self, has_pmu=pmu)


def _offered(model: type[Vmx], capability: str) -> int:
    return model.QUIRKS if capability == "KVM_CAP_DISABLE_QUIRKS2" else 1


class FakeVm(Vm):
    """A VM, with real memory."""

    def __init__(self, system: FakeSystem, *, has_pmu: bool) -> None:
        super().__init__(-1, 0)
        self._system = system
        self._has_pmu = has_pmu

    def check_extension(self, capability: str) -> int:
        return _offered(self._system.model, capability)

    def _ioctl(self, name: str, argument: Any = 0) -> int:
        if name == "KVM_ENABLE_CAP" and argument.cap == lib.KVM_CAP_DISABLE_QUIRKS2:
            self._disable_quirks(argument.args[0])
        return 0

    def _disable_quirks(self, quirks: int) -> None:
        if quirks & ~self._system.model.QUIRKS:
            raise KvmError("KVM_ENABLE_CAP", errno.EINVAL, "fake VM")
        for vcpu in self.vcpus:
            assert isinstance(vcpu, FakeVcpu)
            vcpu.model.disable_quirks(quirks)

    def create_vcpu(self, number: int | None = None) -> Vcpu:
        vcpu = FakeVcpu(self, self._system.host, self._system.model(self._system.host))
        vcpu.model.has_lbrs = self._has_pmu
        self.vcpus.append(vcpu)
        return vcpu

    def close(self) -> None:
        for memory in self.memories:
            memory.close()
        self.memories.clear()


class ToL1(NamedTuple):
    """An exit from L2 to L1."""

    reason: int


class FakeVcpu(Vcpu):
    """A vCPU of the model, and the guest on it."""

    def __init__(self, vm: FakeVm, host: FakeHost, model: Vmx) -> None:
        self.fd = -1
        self.id = len(vm.vcpus)
        self._name = f"fake vCPU {self.id}"
        self._check_extension = vm.check_extension
        self.kvm_run = ffi.new("struct kvm_run *")
        self.model = model
        self._vm = vm
        self._host = host
        self._entries = self._exits = self._emulated = 0
        self._regs, self._sregs = ffi.new("struct kvm_regs *"), ffi.new("struct kvm_sregs *")
        # As a CPU begins: Intel SDM volume 3, table 10-1.
        self._regs.rip, self._sregs.cs.base, self._sregs.cs.selector = 0xFFF0, 0xFFFF0000, 0xF000
        self._plain_msrs = dict.fromkeys(PLAIN_MSRS, 0) | dict.fromkeys(CONTROLS, ANY_CONTROL)
        self._nested_state: Any = ffi.new("char[]", NESTED_STATE_SIZE)
        self._vmcs12 = of_nested_state(self._nested_state)
        self._l2: Iterator[Exit | ToL1] = iter(())
        self._guest: Iterator[Exit] | None = None
        #: L1, while userspace has put the vCPU into L2.
        self._l1: Iterator[Exit] | None = None
        self._turn = threading.Condition()
        self._is_stopped = False
        self._spins_on: int | None = None
        self._kicks = 0
        host.kicked.append(self._kick)

    # What kvmtest.kvm.Vcpu asks of the kernel

    def _ioctl(self, name: str, argument: Any = 0) -> int:
        match name:
            case "KVM_GET_REGS":
                argument[0] = self._regs[0]
            case "KVM_SET_REGS":
                self._regs[0] = argument[0]
            case "KVM_GET_SREGS":
                argument[0] = self._sregs[0]
            case "KVM_SET_SREGS":
                self._sregs[0] = argument[0]
            case "KVM_SET_CPUID2":
                leaf = Cpuid.from_struct(argument).find(7)
                self.model.has_rtm = bool(leaf and leaf.ebx & CPUID_RTM)
            case "KVM_GET_MSRS" | "KVM_SET_MSRS":
                return self._access_msrs(name, argument)
            case "KVM_GET_NESTED_STATE":
                self._write_vmcs12()
                ffi.memmove(argument, self._nested_state, NESTED_STATE_SIZE)
                argument.size = NESTED_STATE_SIZE
                argument.flags = lib.KVM_STATE_NESTED_GUEST_MODE * self.model.is_in_l2
            case "KVM_SET_NESTED_STATE":
                self._set_nested_state(argument)
            case "KVM_RUN":
                assert self.kvm_run.immediate_exit
            case _:
                raise NotImplementedError(name)
        return 0

    def _access_msrs(self, name: str, msrs: Any) -> int:
        for at in range(msrs.nmsrs):
            entry = msrs.entries[at]
            try:
                if name == "KVM_SET_MSRS":
                    self._set_msr(entry.index, entry.data, by_host=True)
                else:
                    entry.data = self._get_msr(entry.index, by_host=True)
            except Refused:
                return at
        return int(msrs.nmsrs)

    def _get_msr(self, index: int, *, by_host: bool) -> int:
        if index == IA32_DEBUGCTL:
            return self.model.get_debugctl(by_host=by_host)
        if index in self._plain_msrs:
            return self._plain_msrs[index] ^ (self._host.hides == "MSRs" and not by_host)
        if self._host.hides == "faults":
            return 0
        raise Refused

    def _set_msr(self, index: int, value: int, *, by_host: bool) -> None:
        if index == IA32_DEBUGCTL:
            self.model.set_debugctl(value, by_host=by_host)
        elif index in self._plain_msrs:
            self._plain_msrs[index] = value
        elif self._host.hides != "faults":
            raise Refused

    def _set_nested_state(self, state: Any) -> None:
        """Take a nested state. L1 goes on where vmcs12 says, or where it was.

        L2 begins anew, or waits for commands if it was saved while it ran.
        """
        if self.model.is_in_l2:
            self._leave_l2()
            starts = self._vmcs12.host_rip == load("long").symbols["start"]
            self._guest = None if starts else self._l1
        ffi.memmove(self._nested_state, state, state.size)
        vmcs12 = self.model.vmcs12 = self._read_vmcs12()
        if state.flags & lib.KVM_STATE_NESTED_GUEST_MODE:
            try:
                self._check_activity()
                self.model.check_restored(vmcs12)
            except Refused:
                raise KvmError("KVM_SET_NESTED_STATE", errno.EINVAL, self._name) from None
            is_pending = bool(state.flags & lib.KVM_STATE_NESTED_RUN_PENDING)
            self.model.enter_l2(vmcs12, pending=is_pending)
            self._switch_sysenter()
            self._l1, self._guest = self._guest, None if is_pending else self._restored()

    def _read_vmcs12(self) -> Vmcs12:
        """Return what L1 says of DEBUGCTL."""
        vmcs = self._vmcs12
        return Vmcs12(
            vmcs.guest_ia32_debugctl,
            bool(vmcs.vm_entry_controls & ENTRY_LOAD_DEBUG_CONTROLS),
            bool(vmcs.vm_exit_controls & EXIT_SAVE_DEBUG_CONTROLS),
        )

    def _write_vmcs12(self) -> None:
        """Take over what the model has saved."""
        self._vmcs12.guest_ia32_debugctl = self.model.vmcs12.debugctl

    @property
    def entries(self) -> int:
        return self._entries

    def stats(self) -> dict[str, int | tuple[int, ...]]:
        return {"exits": self._exits, "insn_emulation": self._emulated}

    def stat(self, name: str) -> int:
        value = self.stats()[name]
        assert isinstance(value, int)
        return value

    # Running

    def run(self, timeout: float = 1.0) -> Exit:
        self._entries += 1
        if self._is_stopped:
            return Stopped()
        self.model.vcpu_run()
        end = self._emulate() if self._needs_emulation() else self._enter()
        self._exits += 1
        return end

    def run_loop(
        self, doorbell_port: int, *, limit: int = 0, stamps: int = 0, timeout: float = 1.0
    ) -> Loop:
        loop = Loop(limit, stamps)
        while True:
            loop.exit = self.run(timeout)
            if not isinstance(loop.exit, IoExit) or loop.exit.port != doorbell_port:
                return loop
            loop._record.doorbells += 1
            if loop.doorbells == limit:
                loop.exit = None
                return loop

    def stop(self) -> None:
        with self._turn:
            self._is_stopped = True
            self._turn.notify_all()

    def clear_stop(self) -> None:
        self._is_stopped = False

    def _needs_emulation(self) -> bool:
        """Tell whether vm86 mode can't run this state: a base that is not the selector's."""
        cs = self._sregs.cs
        return not self._sregs.cr0 & CR0_PE and cs.base != cs.selector << 4

    def _emulate(self) -> Exit:
        self.model.needs_emulation = True
        self.model.vcpu_enter_guest()
        self.model.needs_emulation = False
        self._emulated += 1
        at = self._sregs.cs.base + self._regs.rip
        (memory,) = [m for m in self._vm.memories if 0 <= at - m.guest_address < m.size]
        out, port = memory.read(at, 2)
        assert out == 0xE6
        return _out(port)

    def _enter(self) -> Exit:
        self.model.vcpu_enter_guest()
        if self._is_refused():
            return self._refuse()
        if self.model.is_in_l2 and self._is_spoiled:
            self.model.fail_l2()
            self.model.vcpu_enter_guest()
        if self._guest is None or self._regs.rip == load("long").symbols["start"]:
            self._guest = cast(Iterator[Exit], self._boot(self._mailbox(lib.GUEST_MAILBOX)))
        return next(self._guest)

    @property
    def _is_spoiled(self) -> bool:
        return bool(self._vmcs12.virtual_apic_page_addr == NO_MEMORY)

    def _is_refused(self) -> bool:
        top = self._sregs.fs.base >> 47
        return top not in (0, (1 << 17) - 1) or self.model.is_refused()

    def _refuse(self) -> Exit:
        """Have the CPU refuse the entry, and KVM dump the VMCS."""
        cpu = self._host.cpu()
        if self._host.tree.read("/sys/module/kvm_intel/parameters/dump_invalid_vmcs") == "1":
            hidden = ~FREEZE_IN_SMM if self._host.hides == "guests' bits" else 0
            lines = dump_lines(self._sregs.fs.base, self.model.vmcs & ~hidden, cpu=cpu)
            self._host.log(lines[:9] if self._host.hides == "dumps" else lines)
        return FailEntryExit(INVALID_GUEST_STATE, cpu)

    # The guest

    def _mailbox(self, address: int) -> Any:
        (memory,) = [m for m in self._vm.memories if m.guest_address == 0]
        return memory.struct("struct mailbox *", address)

    def _boot(self, mailbox: Any) -> Iterator[Exit | ToL1]:
        """Say hello, and then do what is in the mailbox; yield the exits."""
        self._regs.rip = 0
        mailbox.magic = lib.GUEST_MAGIC
        yield _out(lib.GUEST_DONE_PORT)
        yield from self._obey(mailbox)

    def _obey(self, mailbox: Any) -> Iterator[Exit | ToL1]:
        """Do what is in the mailbox, again and again; yield the exits."""
        while True:
            for at in range(mailbox.count):
                mailbox.result[at].status = lib.RESULT_OK
                yield from self._do(mailbox.command[at], mailbox.result[at])
                mailbox.done += 1
            yield _out(lib.GUEST_DONE_PORT)

    def _do(self, command: Any, result: Any) -> Iterator[Exit | ToL1]:
        one, two, _ = command.argument
        if command.op == lib.COMMAND_RING:
            for _ in range(one):
                yield _out(lib.GUEST_DOORBELL_PORT)
        elif command.op == lib.COMMAND_SPIN:
            yield from self._spin()
        elif command.op in (lib.COMMAND_RDMSR, lib.COMMAND_WRMSR):
            try:
                if command.op == lib.COMMAND_RDMSR:
                    result.value[0] = self._get_msr(one, by_host=False)
                elif one != X2APIC_ICR:
                    self._set_msr(one, two, by_host=False)
            except Refused:
                result.status, result.vector = lib.RESULT_FAULT, GENERAL_PROTECTION
            self._exits += 1
            if one == X2APIC_ICR:
                self.model.reenter_on_fastpath()
            else:
                self.model.vcpu_enter_guest()
            while self._is_refused():
                yield self._refuse()
        elif command.op in (lib.COMMAND_VMLAUNCH, lib.COMMAND_VMRESUME):
            is_launch = command.op == lib.COMMAND_VMLAUNCH
            yield from self._enter_l2(result, is_launch=is_launch)
        elif command.op == lib.COMMAND_VMCALL:
            yield ToL1(lib.EXIT_REASON_VMCALL)
        elif command.op in VMX_COMMANDS:
            self._exits += 1
            self._do_vmx(command.op, one, two, result)
            self.model.vcpu_enter_guest()
        else:
            assert command.op == lib.COMMAND_NOP, command.op

    # L1's VMX instructions

    def _do_vmx(self, op: int, one: int, two: int, result: Any) -> None:
        result.value[0] = lib.VMX_SUCCEEDED
        if op == lib.COMMAND_VMREAD:
            self._write_vmcs12()
            result.value[1] = getattr(self._vmcs12, FIELDS[one])
        elif op == lib.COMMAND_VMWRITE:
            self._write_vmcs12()
            setattr(self._vmcs12, FIELDS[one], two)
            self.model.vmcs12 = self._read_vmcs12()

    def _enter_l2(self, result: Any, *, is_launch: bool) -> Iterator[Exit]:
        """Be L1's VMLAUNCH or VMRESUME, up to the exit from L2."""
        self._exits += 1
        vmcs12 = self._read_vmcs12()
        try:
            self._check_activity()
            self.model.check_guest_state(vmcs12)
        except Refused:
            # KVM loads L1's host state, as after an exit.
            self.model.load_host_state()
            result.value = [lib.VMX_EXITED, INVALID_GUEST_STATE, 0, 0]
        else:
            self.model.enter_l2(vmcs12)
            self._switch_sysenter()
            self.model.vcpu_enter_guest()
            if self._is_spoiled:
                self.model.fail_l2()
                result.value = [lib.VMX_FAIL_VALID, 7, 0, 0]
            else:
                if is_launch:
                    self._l2 = self._boot(self._mailbox(lib.GUEST_L2_MAILBOX))
                yield from self._run_l2(result)
        self.model.vcpu_enter_guest()

    def _run_l2(self, result: Any) -> Iterator[Exit]:
        """Be L2 up to its exit to L1, which is the ``result`` of L1's command."""
        for end in self._l2:
            if isinstance(end, ToL1):
                self._leave_l2()
                result.value = [lib.VMX_EXITED, end.reason, 0, 0]
                return
            yield end

    def _restored(self) -> Iterator[Exit]:
        """Be an L2 that was saved while it waited for commands, and its L1 afterwards."""
        mailbox = self._mailbox(lib.GUEST_MAILBOX)
        if self._vmcs12.host_rip == load("long").symbols["vm_exit"]:
            self._l2 = self._obey(self._mailbox(lib.GUEST_L2_MAILBOX))
            mailbox.result[0].status = lib.RESULT_OK
            yield from self._run_l2(mailbox.result[0])
            self.model.vcpu_enter_guest()
            mailbox.done += 1
            yield _out(lib.GUEST_DONE_PORT)
        yield from cast(Iterator[Exit], self._obey(mailbox))

    def _leave_l2(self) -> None:
        self.model.leave_l2()
        self._switch_sysenter()

    def _switch_sysenter(self) -> None:
        """Load the MSR that vmcs12 has for either."""
        vmcs = self._vmcs12
        value = vmcs.guest_sysenter_eip if self.model.is_in_l2 else vmcs.host_ia32_sysenter_eip
        self._plain_msrs[SYSENTER_EIP] = value

    def _check_activity(self) -> None:
        if self._vmcs12.guest_activity_state == SHUTDOWN:
            raise Refused

    def _spin(self) -> Iterator[Exit]:
        """Stay in the guest until the vCPU is stopped; each kick takes it out and in again."""
        self._regs.rip = 0
        while self._regs.rip != load("long").symbols["ok"]:
            with self._turn:
                self._spins_on = self._host.cpu()
                while not self._is_stopped:
                    if self._kicks:
                        self._exits += 1
                        self.model.vcpu_enter_guest()
                        self._kicks = 0
                        self._turn.notify_all()
                    assert self._turn.wait_for(
                        lambda: self._kicks or self._is_stopped, PATIENCE_S
                    ), "nobody ends the guest's spinning"
                self._spins_on = None
            yield Stopped()

    def _kick(self, cpu: int) -> None:
        """Take the vCPU out of guest mode where it spins on that CPU, and wait until it is in."""
        with self._turn:
            if self._spins_on == cpu:
                self._kicks += 1
                self._turn.notify_all()
                self._turn.wait_for(lambda: not self._kicks or self._is_stopped, PATIENCE_S)


def _out(port: int) -> Exit:
    return IoExit(port, True, 1, 1, b"\0")


# The rest of the host


class FakeMsrs:
    """The host's MSRs, instead of MsrAccess."""

    cpus = (0, 1)
    write_refusal = None

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def read(self, index: int, cpu: int) -> int:
        if not is_online(self._host.tree, cpu):
            raise MsrError("read", cpu, index, errno.ENXIO)
        # The read is an IPI to that CPU.
        for kick in self._host.kicked:
            kick(cpu)
        if index == IA32_DEBUGCTL:
            return self._host.debugctl(cpu)
        return {EFER: EFER_LMA | EFER_SVME, IA32_PERF_CAPABILITIES: 1 << 12}.get(index, 0)

    def read_all(self, index: int) -> dict[int, int]:
        return {cpu: self.read(index, cpu) for cpu in self.cpus}


class FakeProbe:
    """The kernel's probe, and the run's: instead of RunProbe and KprobeEvent."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._tasks: Sequence[int] = ()
        self._records = False

    def get(self, event: str, place: str, arguments: Mapping[str, str]) -> "FakeProbe":
        self.follow([threading.get_native_id()])
        self._host.hits.clear()
        self.record(on=True)
        return self

    def record(self, *, on: bool) -> None:
        self._records = on

    def follow(self, tasks: Sequence[int]) -> None:
        self._tasks = tasks

    def read(self) -> Hits:
        hits = tuple(hit for hit in self._host.hits if self._records and hit.pid in self._tasks)
        self._host.hits.clear()
        return Hits(hits, lost=self._host.hides == "hits")


def amd_host(root: Path) -> Tree:
    """Make the stand-in of an AMD host with kvm_amd."""
    tree = intel_host(root, btf=kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4))
    tree.path(KNOB).unlink()
    shutil.rmtree(tree.path("/sys/module/kvm_intel"))
    cpus = tree.path("/proc/cpuinfo")
    cpus.write_text(cpus.read_text().replace("GenuineIntel", "AuthenticAMD").replace("vmx", "svm"))
    blob = kvm_intel_btf(tree.path(BTF).read_bytes(), "vcpu", "run_flags", function="svm_vcpu_run")
    write(tree, "/sys/kernel/btf/kvm_amd", blob)
    write(tree, "/sys/module/kvm_amd/initstate", "live\n")
    return tree


@contextmanager
def fake_kvm(
    root: Path, patch: pytest.MonkeyPatch, model: type[Vmx] = Vmx, **host_has: Any
) -> Iterator[Context]:
    """Give a check's context on a host with that KVM; ``host_has`` are fields of Host.

    The check must have been imported: a module that is imported here would keep the fake.
    """
    tree = amd_host(root) if issubclass(model, Svm) else intel_host(root)
    write(tree, "/sys/kernel/tracing/kprobe_events", "")
    write(tree, "/proc/sys/kernel/printk", "4\t4\t1\t7")
    host = FakeHost(tree, **host_has)
    host.keeps_debugctl = model.KEEPS_DEBUGCTL
    write(tree, switch(1), "1")
    if host.hides == "offline":
        tree.path(switch(1)).unlink()
        tree.path(switch(1)).symlink_to(os.devnull)
    if not host.has_rtm:
        cpus = tree.path("/proc/cpuinfo")
        cpus.write_text(cpus.read_text().replace(" rtm", ""))
    if issubclass(model, Svm):
        write(tree, "/sys/module/kvm_amd/parameters/lbrv", "1" if host.lbrv else "0")
    machine = Machine(tree)
    vars(machine)["msr"] = FakeMsrs(host)
    fake = type("System", (FakeSystem,), {"host": host, "model": model})
    for name, module in list(sys.modules.items()):
        if name.startswith("kvmtest.checks.") and getattr(module, "System", None) is System:
            patch.setattr(module, "System", fake)
    if "kvmtest.checks.schedules.stage" in sys.modules:
        player = partial(FakePlayer, fake)
        patch.setattr("kvmtest.checks.schedules.stage.Player", player)
    patch.setattr(os, "sched_getaffinity", lambda _: set(host.cpus))
    patch.setattr(os, "sched_setaffinity", lambda _, cpus: setattr(host, "cpus", cpus))
    with Journal.open(tree) as journal:
        host.toggles = lambda: sum(each.writes for each in journal.changes if each.path == KNOB)
        yield Context(machine, journal, Missing("no log of the run"), FakeProbe(host))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Decided:
    """What became of a property, and which witnesses spoke of its claim."""

    verdict: Verdict
    reason: str
    speakers: frozenset[str]


#: Decides a property on a KVM with a fault, or none; further words are fields of Host.
Decide = Callable[..., Decided]


def decide_on_fake_kvm(
    root: Path, patch: pytest.MonkeyPatch, prop: str, fault: str = "", **host_has: Any
) -> Decided:
    """Decide a property on a fake KVM below ``root``."""
    model = FAULTS[fault] if fault else Svm if prop.startswith("svm.") else Vmx
    check = check_of(find(prop))
    with fake_kvm(root, patch, model, **host_has) as context:
        observed = list(check(context))
    readings = [each for each in observed if isinstance(each, Reading)]
    judgement = judge(readings, [each for each in observed if isinstance(each, Absence)])
    speakers = frozenset(reading.witness for reading in readings if reading.role is Role.CLAIM)
    return Decided(judgement.verdict, judgement.reason, speakers)


def mutants_of(properties: str) -> list[tuple[str, str]]:
    """Return owner and name of each mutant whose owner's id begins with ``properties``."""
    return [
        (mutant.owner, mutant.name) for mutant in MUTANTS if mutant.owner.startswith(properties)
    ]
