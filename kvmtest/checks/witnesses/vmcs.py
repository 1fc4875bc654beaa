"""The witness vmcs
================

Has the CPU refuse an entry, and looks at DebugCtl in the VMCS that KVM dumps for it.
"""

from collections.abc import Generator
from contextlib import ExitStack
from typing import ClassVar, Self

from kvmtest.checks.context import Context, Observations
from kvmtest.checks.stimuli.debugctl_writes import allowed_bits
from kvmtest.guests import Guest, commands
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM, freeze_bit
from kvmtest.host.observe.vmcs_dump import VmcsDump
from kvmtest.judge import Reading, Scalar, claim, control, measure
from kvmtest.kvm import Vcpu
from kvmtest.missing import Missing

from .refused_entry import Refusals
from .witness import Entry

__all__ = ["VmcsWitness", "claimed"]


class VmcsWitness:
    """Sees DebugCtl of an entry by having the CPU refuse it; the vCPU runs on afterwards."""

    name: ClassVar[str] = "vmcs"
    makes_entry: ClassVar[bool] = True

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    @classmethod
    def open(cls, context: Context, stack: ExitStack) -> "Self | Missing":
        """Switch the dumps on; they are read from the run's kernel log if there is one."""
        run = context.kernel_log
        log = None if isinstance(run, Missing) else run.log
        refusals = Refusals.open(context.machine.tree, context.journal, log)
        return refusals if isinstance(refusals, Missing) else cls(stack.enter_context(refusals))

    def prepare(self, guest: Guest) -> None:
        """Do nothing: each dump has an FS base of its own."""

    def look(self, entry: Entry) -> Observations:
        """Have the entry refused; claim the host's bit in its dump."""
        dump = yield from self.dump(entry.guest.vcpu, entry.state)
        if dump is None:
            return
        if entry.cpu is not None:
            reported: int = entry.guest.vcpu.kvm_run.fail_entry.cpu
            where = reported if dump.cpu is None else dump.cpu
            remedy = "leave the CPUs of kvmtest's threads alone"
            yield control("vmcs", f"the CPU of the entry {entry.state}", where, entry.cpu, remedy)
        if entry.host_bit is None:
            what = f"bit 14 of DebugCtl {entry.state}"
            yield measure("vmcs", what, freeze_bit(dump.debugctl), debugctl=hex(dump.debugctl))
        else:
            yield claimed(dump, entry.state, entry.host_bit)
        if entry.own_bits is not None:
            remedy = "report this kernel: what was written is not in the VMCS"
            yield _own_bits_shown(entry.state, dump, entry.own_bits, remedy)

    def dump(self, vcpu: Vcpu, state: str) -> Generator[Reading, None, VmcsDump | None]:
        """Refuse the vCPU's next entry; yield a control, and return the dump if it is whole."""
        refusal = self._refusals.refuse(vcpu)
        expected = f"whole, with FS base {refusal.fs_base:#x}"
        problem, dump = refusal.problem, refusal.dump
        what = f"the dump of the entry refused {state}"
        if problem is not None or isinstance(dump, Missing):
            why = problem or Missing("no dump")
            yield control("vmcs", what, why.what, expected, why.remedy)
            return None
        observed = f"whole, with FS base {dump.fs_base:#x}"
        if not dump.loads_debugctl:
            observed += ", of an entry that does not load DEBUGCTL"
        raw: dict[str, Scalar] = {"entry_controls": hex(dump.entry_controls), "cpu": dump.cpu}
        yield control("vmcs", what, observed, expected, "report this kernel", **raw)
        return dump

    def controls(self, guest: Guest) -> Observations:
        """Show that the guest runs on, and that the dumps show bits that userspace writes."""
        guest.execute(commands.nop())
        yield control(
            "vmcs", "the guest ran on after its refused entries", True, True, "report this KVM"
        )
        bits = allowed_bits(guest.vcpu)
        if not bits:
            yield measure("vmcs", "DEBUGCTL bits that userspace may set", "none")
            return
        remedy = "report this kernel: its dumps do not show what is in the VMCS"
        for value in (bits[0], 0):
            guest.vcpu.set_msr(IA32_DEBUGCTL, value)
            state = f"after userspace wrote {value:#x} to MSR 0x1d9"
            dump = yield from self.dump(guest.vcpu, state)
            if dump:
                yield _own_bits_shown(state, dump, value, remedy)


def claimed(dump: VmcsDump, state: str, host_bit: int) -> Reading:
    """Claim that the VMCS of a refused entry has the host's bit."""
    return claim(
        "vmcs", f"bit 14 of DebugCtl in the VMCS {state}", freeze_bit(dump.debugctl), host_bit,
        debugctl=hex(dump.debugctl), fs_base=hex(dump.fs_base), cpu=dump.cpu,
    )  # fmt: skip


def _own_bits_shown(state: str, dump: VmcsDump, value: int, remedy: str) -> Reading:
    """Show that the dump has ``value`` in all of DebugCtl but the host's bit."""
    own = dump.debugctl & ~IA32_DEBUGCTL_FREEZE_WHILE_SMM
    what = f"the other bits of DebugCtl {state}"
    return control("vmcs", what, hex(own), hex(value), remedy)
