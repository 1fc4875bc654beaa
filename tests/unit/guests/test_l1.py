"""kvmtest/guests/l1.py: the driver of an L1, over a vCPU that plays L1 and L2."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kvmtest._native import ffi, lib
from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest, commands
from kvmtest.guests.image import load
from kvmtest.guests.l1 import FAILED_ENTRY, L1, VmExit, VmFail
from kvmtest.guests.mailbox import Mailbox
from kvmtest.guests.vmcs12 import ENCODINGS
from kvmtest.kvm import IoExit, Memory

REVISION = 0x11E57ED0
RIP, LENGTH = 0x8100, 3
DONE = IoExit(lib.GUEST_DONE_PORT, True, 1, 1, b"\0")


class PlayedVcpu:
    """Does what is in the mailboxes. ``enter`` says how an entry to L2 ends, None if L2 waits."""

    def __init__(self, memory: Memory) -> None:
        self.own: Any = memory.struct("struct mailbox *", lib.GUEST_MAILBOX)
        self.l2: Any = memory.struct("struct mailbox *", lib.GUEST_L2_MAILBOX)
        self.fields = {ENCODINGS["guest_rip"]: RIP, ENCODINGS["vm_exit_instruction_len"]: LENGTH}
        self.ops: list[int] = []
        self.msrs: dict[int, int] = {}
        self.is_in_l2 = False
        #: L2's commands that exit to L1.
        self.reasons = {
            lib.COMMAND_VMCALL: lib.EXIT_REASON_VMCALL,
            lib.COMMAND_CPUID: lib.EXIT_REASON_CPUID,
        }
        self.enter: Callable[[], tuple[int, ...] | None] = lambda: None

    def set_msr(self, index: int, value: int) -> None:
        self.msrs[index] = value

    def get_sregs(self) -> Any:
        return ffi.new("struct kvm_sregs *")

    def run_loop(self, port: int, *, stamps: int, timeout: float) -> Any:
        ended = self._run_l2() if self.is_in_l2 else self._run_l1()
        assert ended
        return SimpleNamespace(exit=DONE, doorbells=0, stamps=[])

    def _run_l1(self) -> bool:
        for at in range(self.own.count):
            op, (one, two, _) = self.own.command[at].op, self.own.command[at].argument
            result = self.own.result[at]
            self.ops.append(op)
            if op in (lib.COMMAND_VMLAUNCH, lib.COMMAND_VMRESUME):
                values = self.enter()
                if values is None:
                    self.is_in_l2 = True
                    self.l2.magic = lib.GUEST_MAGIC
                    self.l2.done = self.l2.count
                    return True
            else:
                values = self._do(op, one, two)
            result.status = lib.RESULT_OK
            for number, value in enumerate(values):
                result.value[number] = value
            self.own.done += 1
        return True

    def _do(self, op: int, one: int, two: int) -> tuple[int, ...]:
        if op == lib.COMMAND_RDMSR:
            return (REVISION if one == 0x480 else 0xFFFF_FFFF_0000_0000,)
        if op == lib.COMMAND_VMREAD:
            return (lib.VMX_SUCCEEDED, self.fields[one])
        if op == lib.COMMAND_VMWRITE:
            if one not in ENCODINGS.values():
                return (lib.VMX_FAIL_VALID, 12)
            self.fields[one] = two
        return (lib.VMX_SUCCEEDED,)

    def _run_l2(self) -> bool:
        """Do L2's list; VMCALL and CPUID exit to L1, which ends its own list of one."""
        for at in range(self.l2.done, self.l2.count):
            op, result = self.l2.command[at].op, self.l2.result[at]
            if op in self.reasons:
                self.is_in_l2 = False
                own = self.own.result[0]
                own.status = lib.RESULT_OK
                own.value = [lib.VMX_EXITED, self.reasons[op], 0, RIP]
                self.own.done += 1
                return True
            result.status, result.value[0] = lib.RESULT_OK, 7
            self.l2.done += 1
        return True

    def field(self, name: str) -> int:
        return self.fields[ENCODINGS[name]]


@pytest.fixture
def vcpu(memory: Memory) -> PlayedVcpu:
    return PlayedVcpu(memory)


@pytest.fixture
def l1(vcpu: PlayedVcpu, memory: Memory) -> L1:
    played: Any = vcpu
    return L1(Guest(played, load("long"), Mailbox(memory), memory))


def test_l1_enters_vmx_operation_and_makes_a_vmcs(l1: L1, vcpu: PlayedVcpu) -> None:
    assert vcpu.msrs == {0x3A: 5}, "locked, VMX outside SMX"
    first = [op for op in vcpu.ops if op != lib.COMMAND_RDMSR][:4]
    assert first == [
        lib.COMMAND_VMXON, lib.COMMAND_VMCLEAR, lib.COMMAND_VMPTRLD, lib.COMMAND_VMWRITE,
    ]  # fmt: skip
    assert vcpu.field("host_rip") == l1.guest.image.symbols["vm_exit"]
    assert vcpu.field("guest_rip") == l1.guest.image.symbols["l2_start"]


def test_fields_are_written_and_read_by_name(l1: L1, vcpu: PlayedVcpu) -> None:
    l1.write(guest_ia32_debugctl=1 << 14, tsc_offset=5)
    assert vcpu.fields[0x2802] == 1 << 14
    assert l1.read("tsc_offset") == 5
    with pytest.raises(KeyError):
        l1.read("no_such_field")


def test_more_fields_than_a_list_holds_are_written(l1: L1, vcpu: PlayedVcpu) -> None:
    l1.write(**dict.fromkeys(ENCODINGS, 9))
    assert len(ENCODINGS) > lib.MAILBOX_CAPACITY
    assert set(vcpu.fields.values()) == {9}


def test_a_vmx_instruction_that_fails_says_how(l1: L1) -> None:
    assert l1.try_command(commands.vmwrite(0xFFF0, 0)) == VmFail(12)
    assert l1.try_command(commands.vmptrld(lib.GUEST_VMCS12)) is None


def test_l1_launches_once_and_then_resumes(l1: L1, vcpu: PlayedVcpu) -> None:
    for _ in range(3):
        assert l1.enter() is None
        assert l1.is_in_l2
        l1.leave()
        assert not l1.is_in_l2
    entries = [op for op in vcpu.ops if op in (lib.COMMAND_VMLAUNCH, lib.COMMAND_VMRESUME)]
    assert entries == [lib.COMMAND_VMLAUNCH, lib.COMMAND_VMRESUME, lib.COMMAND_VMRESUME]


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((lib.VMX_FAIL_INVALID,), VmFail(None)),
        ((lib.VMX_FAIL_VALID, 7), VmFail(7)),
        ((lib.VMX_EXITED, FAILED_ENTRY | 33, 4, RIP), VmExit(FAILED_ENTRY | 33, 4, RIP)),
    ],
)
def test_an_entry_that_fails_leaves_l1_to_launch_again(
    l1: L1, vcpu: PlayedVcpu, values: tuple[int, ...], outcome: VmExit | VmFail
) -> None:
    vcpu.enter = lambda: values
    assert l1.enter() == outcome
    assert not l1.is_in_l2
    vcpu.enter = lambda: None
    assert l1.enter() is None
    assert vcpu.ops[-1] == lib.COMMAND_VMLAUNCH


def test_l2_has_results_or_exits_and_goes_on_behind_its_instruction(
    l1: L1, vcpu: PlayedVcpu
) -> None:
    l1.enter()
    results = l1.execute(commands.nop(), commands.nop())
    assert isinstance(results, list)
    assert [result.value for result in results] == [7, 7]
    assert l1.execute(commands.nop(), commands.cpuid(0)) == VmExit(10, 0, RIP)
    assert len(l1.results()) == 1
    l1.skip()
    assert vcpu.field("guest_rip") == l1.guest.image.symbols["l2_start"] + LENGTH


def test_an_l2_that_does_not_exit_by_vmcall_is_an_error(l1: L1, vcpu: PlayedVcpu) -> None:
    l1.enter()
    del vcpu.reasons[lib.COMMAND_VMCALL]
    with pytest.raises(KvmtestError, match=r"L2's VMCALL ended in \[Result"):
        l1.leave()


def test_an_l2_that_does_not_come_up_is_an_error(l1: L1, vcpu: PlayedVcpu) -> None:
    vcpu.enter = lambda: None
    run = vcpu.run_loop

    def silent(port: int, *, stamps: int, timeout: float) -> Any:
        loop = run(port, stamps=stamps, timeout=timeout)
        vcpu.l2.magic = 0
        return loop

    vcpu.run_loop = silent  # type: ignore[method-assign]
    with pytest.raises(KvmtestError, match="L2 did not say hello"):
        l1.enter()
