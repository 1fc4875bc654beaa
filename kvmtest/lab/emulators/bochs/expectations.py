"""What the self-test's machine must report
========================================

Each line that the machine of c_helpers/selftest prints, and the number that it must have. The
numbers are sums over instructions that can be read in counted.S and start.S; none was measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

__all__ = ["FIRST_PROCESS_ENDS_WITH", "Expectation", "expectations"]

#: The last line before the machine is saved; the restored machine prints what follows.
FIRST_PROCESS_ENDS_WITH = "before-saving"

# How much is counted (c_helpers/selftest/machine.h).
STRAIGHT, LOOPS, FAULTS, EXITS, TURNS = 1000, 20000, 50, 40, 40
REPEATS, SMI_PERIOD, TIMER_PERIOD = 30000, 1000, 3000

# Instructions of the pieces that counted.S and start.S are made of. The WRMSR that starts the
# counters is counted; the one that stops them is not, and the three before it are.
SWITCH = 1 + 3
SPIN = 1 + 2 * LOOPS
COPY = 4
START_AND_STOP_SMIS = 4 + 4
# What a function counts in CPL 0 around its part in CPL 3: IRET and what it pops, then a JMP.
AROUND_USER = SWITCH + 6 + 1
TIMER_HANDLER, UD_HANDLER, GP_HANDLER, PF_HANDLER, NP_HANDLER, DB_HANDLER = 6, 3, 4, 4, 3, 3
EVENT_HANDLER = 2
# The machine's own handler of SMIs, and the lab's with the machine's RSM behind it.
SMM_HANDLER, LAB_HANDLER = 22, 2 + 2 * TURNS + 1
# The host's, after an exit by VMCALL, CPUID and an exception; VMLAUNCH is one more.
AFTER_VMCALL, AFTER_CPUID, AFTER_EXCEPTION, VMLAUNCH = 9, 9, 11, 1

EXIT_VMCALL, ENTRY_REFUSED = 18, 0x80000021
FREEZE, TRACES, RTM = 1 << 14, 0x41, 1 << 15

# At the least: an SMI comes after one and a half periods at the latest.
SMIS = (2 * LOOPS) // (3 * SMI_PERIOD // 2)
SMIS_IN_REPEAT = REPEATS // (3 * SMI_PERIOD // 2)
INTERRUPTS = REPEATS // TIMER_PERIOD - 1

# How often a REP was disturbed. With several CPUs no time passes amid a REP in Bochs 3.0.
AMID_REPEAT = frozenset(
    {"interrupted-repeat.interrupts", "smi-in-repeat.smis", "smi-in-repeat-frozen.smis",
     "guest-repeat.exits"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expectation:
    """The line ``name`` must have ``number``, and ``each`` times the numbers of other lines.

    ``at_least``: more will do. ``what`` names the line in a sentence.
    """

    name: str
    what: str
    number: int
    each: Mapping[str, int] = field(default_factory=dict)
    at_least: bool = False

    def expected(self, seen: Mapping[str, int]) -> int:
        """Return the number that it must have beside the numbers of other lines."""
        return self.number + sum(times * seen.get(name, 0) for name, times in self.each.items())


def counted(
    name: str,
    what: str,
    *,
    usr: int = 0,
    os: int = 0,
    each_os: Mapping[str, int] | None = None,
    cycles: int | None = None,
) -> Iterator[Expectation]:
    """Expect numbers of instructions, by CPL, in general and in fixed counters.

    ``each_os`` has further instructions in CPL 0 for each unit of the line ``name.KEY``.
    """
    each = {f"{name}.{line}": times for line, times in (each_os or {}).items()}
    yield Expectation(f"{name}.all", f"instructions {what}", usr + os, each)
    yield Expectation(f"{name}.usr", f"instructions in CPL 3 {what}", usr)
    yield Expectation(f"{name}.os", f"instructions in CPL 0 {what}", os, each)
    yield Expectation(f"{name}.fixed", f"instructions {what} by the fixed counter", usr + os, each)
    if cycles is not None:
        for line in ("cycles", "fixed-cycles", "reference-cycles"):
            yield Expectation(f"{name}.{line}", f"{line.replace('-', ' ')} {what}", cycles, each)


def instructions() -> Iterator[Expectation]:
    """Expect what no event disturbs."""
    yield from counted("nothing", "while nothing is counted", os=SWITCH)
    straight, loop = SWITCH + STRAIGHT, SWITCH + SPIN
    yield from counted("straight", "of a straight run", os=straight, cycles=straight)
    yield from counted("loop", "of a loop", os=loop, cycles=loop)
    yield from counted("repeats", "of REP MOVS, CMPS, STOS, SCAS, OUTS", os=SWITCH + 31)
    usr, os = SPIN + 1, AROUND_USER
    yield from counted("user", "of a loop in CPL 3", usr=usr, os=os, cycles=usr + os)
    yield from counted(
        "syscalls", "of SYSCALL and SYSRET", usr=1 + 3 * FAULTS + 1, os=AROUND_USER + FAULTS
    )


def faults() -> Iterator[Expectation]:
    """Expect an instruction that faults to count none until it retires."""
    for name, what, number, handler, faulted in (
        ("ud", "around #UD", 1 + 2 * FAULTS, UD_HANDLER, FAULTS),
        ("gp", "around #GP", 2 + 4 * FAULTS, GP_HANDLER, FAULTS),
        ("pf", "around #PF", 2 + 5 * FAULTS, PF_HANDLER, FAULTS),
        ("fetch-pf", "around #PF of a fetch", 2 + 6 * FAULTS, PF_HANDLER, FAULTS),
        ("traps", "around INT3 and a single step", 6 + EVENT_HANDLER, DB_HANDLER, 1),
        ("faulting-repeat", "of REP MOVS with #PF amid it", 7, PF_HANDLER, 1),
    ):
        yield from counted(name, what, os=SWITCH + number + faulted * handler)
        yield Expectation(f"{name}.faults", f"exceptions {what}", faulted)
    what = "around #UD in CPL 3"
    user = 1 + 2 * FAULTS + 1
    yield from counted("user-ud", what, usr=user, os=AROUND_USER + FAULTS * UD_HANDLER)
    yield Expectation("user-ud.faults", f"exceptions {what}", FAULTS)


def interrupts() -> Iterator[Expectation]:
    """Expect an instruction that an interrupt disturbs to count once."""
    each = {"interrupts": TIMER_HANDLER}
    what = "of REP MOVS and CMPS amid interrupts"
    yield from counted("interrupted-repeat", what, os=SWITCH + 2 + 2 * COPY, each_os=each)
    yield at_least("interrupted-repeat.interrupts", "interrupts of REP", 2 * INTERRUPTS)
    what = "of a loop in CPL 3 amid interrupts"
    yield from counted("interrupted-user", what, usr=SPIN + 1, os=AROUND_USER + 1, each_os=each)
    yield at_least("interrupted-user.interrupts", "interrupts of CPL 3", INTERRUPTS)
    halted = SWITCH + 3
    yield from counted("halt", "of HLT", os=halted, each_os=each, cycles=halted)
    yield at_least("halt.interrupts", "interrupts of HLT", 1)


def registers() -> Iterator[Expectation]:
    """Expect what MSRs and RDPMC give and refuse."""
    for name, what, number in (
        ("cpuid.counters", "version, counters and their width in CPUID", 0x300404),
        ("cpuid.fixed-counters", "fixed counters and their width in CPUID", 3 | 48 << 5),
        ("registers.rdmsr", "IA32_PMC3", 0xFEDCBA987654),
        ("registers.full-width", "IA32_A_PMC3", 0xFEDCBA987654),
        ("registers.rdpmc", "RDPMC of counter 3", 0xFEDCBA987654),
        ("registers.sign-extended", "IA32_PMC2 after a write of 32 bits", 0xFFFF87654321),
        ("registers.fixed-rdpmc", "RDPMC of a fixed counter", 0x123456789ABC),
        ("registers.user-rdpmc-refused", "#GP of RDPMC in CPL 3 without CR4.PCE", 1),
        ("registers.user-rdpmc", "RDPMC in CPL 3", 0xFEDCBA987654),
        ("registers.between-rdpmcs", "instructions between two RDPMCs", 3 + STRAIGHT),
        ("registers.in-use", "IA32_PERF_GLOBAL_INUSE", 0x7_0000_000F),
        ("registers.status", "IA32_PERF_GLOBAL_STATUS, set and reset", 0x2_0000_0004),
        ("registers.fixed-os", "the fixed counter of CPL 0", AROUND_USER),
        ("registers.fixed-usr", "the fixed counter of CPL 3", SPIN + 1),
        ("refused.debugctl", "#GP of WRMSR of IA32_DEBUGCTL's reserved bits", 1),
        ("refused.global-control", "#GP of WRMSR of IA32_PERF_GLOBAL_CTRL's reserved bits", 1),
        ("refused.smi-count", "#GP of WRMSR of MSR_SMI_COUNT", 1),
        ("refused.smis-raised", "#GP of WRMSR of the number of SMIs raised", 1),
        ("refused.smi-period", "#GP of WRMSR of a distance of SMIs that is too small", 1),
        ("refused.smi-turns", "#GP of WRMSR of no turns", 1),
        ("refused.fault", "#GP of WRMSR of an injected fault that there is not", 1),
    ):
        yield Expectation(name, what, number)


def injected_faults() -> Iterator[Expectation]:
    """Expect the model's faults to do what they say."""
    yield from counted("dead-counters", "by dead counters")
    for name, what, number in (
        ("dead-counters.msr", "the MSR of dead counters", 1),
        ("stuck-debugctl.debugctl", "a stuck IA32_DEBUGCTL", FREEZE),
        ("stuck-debugctl.msr", "the MSR of a stuck IA32_DEBUGCTL", 1),
        ("stuck-debugctl.cleared", "IA32_DEBUGCTL that is no longer stuck", 0),
    ):
        yield Expectation(name, what, number)


def with_smis(
    name: str, what: str, debugctl: int, handler: int, *, usr: int = 0, os: int, smis: int = SMIS
) -> Iterator[Expectation]:
    """Expect the instructions of ``handler`` for each SMI; ``debugctl``: after the last of them."""
    yield from counted(name, what, usr=usr, os=os, each_os={"smis": handler})
    yield (at_least if smis else Expectation)(f"{name}.smis", f"SMIs counted {what}", smis)
    yield Expectation(f"{name}.raised-besides", f"SMIs raised but not counted {what}", 0)
    yield Expectation(f"{name}.debugctl", f"IA32_DEBUGCTL {what}", debugctl)


def smis() -> Iterator[Expectation]:
    """Expect nothing of SMM to be counted under the freeze, and all of it without."""
    loop = SWITCH + START_AND_STOP_SMIS + SPIN
    frozen = FREEZE | TRACES
    yield from with_smis("smi-frozen", "amid frozen SMIs", frozen, 0, os=loop)
    for name, what, number in (
        ("smi-frozen.debugctl-in-smm", "IA32_DEBUGCTL in frozen SMM", FREEZE),
        ("smi-frozen.global-control-in-smm", "IA32_PERF_GLOBAL_CTRL in frozen SMM", 0),
        ("smi.global-control-in-smm", "IA32_PERF_GLOBAL_CTRL in SMM", 0xF),
        ("smi-turns.msr", "the turns of the lab's handler", TURNS),
    ):
        yield Expectation(name, what, number)
    yield from with_smis("smi", "amid SMIs", RTM, SMM_HANDLER, os=loop)
    yield Expectation("smi.handled", "SMIs handled", 0, {"smi.smis": 1})
    repeat = SWITCH + START_AND_STOP_SMIS + COPY
    user = {"usr": SPIN + 1, "os": AROUND_USER + START_AND_STOP_SMIS}
    for suffix, state, debugctl, handler in (
        ("", "", 0, LAB_HANDLER),
        ("-frozen", "frozen ", FREEZE, 0),
    ):
        what = f"amid {state}SMIs of the lab's handler"
        yield from with_smis(f"smi-turns{suffix}", what, debugctl, handler, os=loop)
        name, what = f"smi-in-repeat{suffix}", f"of REP MOVS amid {state}SMIs"
        yield from with_smis(name, what, debugctl, handler, os=repeat, smis=SMIS_IN_REPEAT)
        name, what = f"smi-in-user{suffix}", f"of CPL 3 amid {state}SMIs"
        yield from with_smis(name, what, debugctl, handler, **user)
    what = "on the host while SMIs are for guests alone"
    yield from with_smis("smi-in-guests-only", what, 0, 0, os=SWITCH + SPIN, smis=0)


def guests() -> Iterator[Expectation]:
    """Expect exactly a guest's instructions, and the host's around it."""
    what = "of a guest"
    yield from guest("guest", what, os=STRAIGHT)
    yield from guest("guest-user", "of a guest in CPL 3", usr=STRAIGHT)
    in_cpuid_guest = 1 + 2 * EXITS
    yield from guest("guest-cpuid", "of a guest with exits by CPUID", os=in_cpuid_guest)
    yield from guest("guest-repeat", "of REP MOVS with VM-exits amid it", os=COPY)
    yield at_least("guest-repeat.exits", "VM-exits amid REP MOVS", INTERRUPTS)
    host = SWITCH + VMLAUNCH + AFTER_VMCALL
    yield from guest("across", "across VM-entry and VM-exit", os=host + STRAIGHT)
    what = "across VM-entry to CPL 3 and VM-exit"
    yield from guest("across-user", what, usr=STRAIGHT, os=host)
    exits = in_cpuid_guest + EXITS * AFTER_CPUID
    yield from guest("across-cpuid", "across VM-exits by CPUID", os=host + exits)
    with_exceptions = 1 + 2 * FAULTS
    yield from guest("guest-exceptions", "of a guest with exits by #UD", os=with_exceptions)
    exits = with_exceptions + FAULTS * AFTER_EXCEPTION
    yield from guest("across-exceptions", "across VM-exits by #UD", os=host + exits)
    what = "across VM-entry with an event"
    yield from guest("across-injection", what, os=host + STRAIGHT + EVENT_HANDLER)
    yield Expectation("across-injection.injected", "events injected by VM-entry", 1)
    what = "across VM-entry with an event that faults"
    yield from guest("across-faulting-injection", what, os=host + STRAIGHT + NP_HANDLER)
    yield Expectation("across-faulting-injection.faults", "faults of an injected event", 1)
    # From the VM-exit on, only the counter of CPL 3 and the fixed one count.
    what = "across a VM-exit that loads IA32_PERF_GLOBAL_CTRL"
    stopped = 1 + VMLAUNCH + STRAIGHT
    for line, number in (("all", stopped), ("usr", 0), ("os", stopped)):
        yield Expectation(f"exit-control.{line}", f"instructions {what}", number)
    yield Expectation("exit-control.fixed", f"instructions {what}", host + STRAIGHT)
    yield Expectation("exit-control.exit", f"the reason of the VM-exit {what}", EXIT_VMCALL)


def guest(
    name: str,
    what: str,
    *,
    usr: int = 0,
    os: int = 0,
    each_os: Mapping[str, int] | None = None,
) -> Iterator[Expectation]:
    """Expect instructions of a guest that ends by VMCALL."""
    yield Expectation(f"{name}.exit", f"the reason of the last VM-exit {what}", EXIT_VMCALL)
    yield from counted(name, what, usr=usr, os=os, each_os=each_os)


def switches() -> Iterator[Expectation]:
    """Expect VM-entry and VM-exit to load, save and clear what the VMCS says."""
    written = FREEZE | TRACES
    for name, what, exits_by, seen, after in (
        # exit reason; IA32_DEBUGCTL and IA32_PERF_GLOBAL_CTRL in the guest; VMCS field afterwards
        ("switch", "loaded and saved", EXIT_VMCALL, (FREEZE | 1, 0x5), written),
        ("switch-without-entry", "not loaded", EXIT_VMCALL, (0x2, 0x3), written),
        ("switch-without-save", "not saved", EXIT_VMCALL, (0x1, 0xF), 0x1),
        ("switch-refused", "of a refused VM-entry", ENTRY_REFUSED, None, 0x1),
    ):
        yield Expectation(f"{name}.exit", f"the exit reason, IA32_DEBUGCTL {what}", exits_by)
        if seen:
            yield Expectation(f"{name}.guest-debugctl", f"a guest's IA32_DEBUGCTL, {what}", seen[0])
            line = f"{name}.guest-global-control"
            yield Expectation(line, f"a guest's IA32_PERF_GLOBAL_CTRL, {what}", seen[1])
        yield Expectation(f"{name}.debugctl", f"IA32_DEBUGCTL after VM-exit, {what}", 0)
        yield Expectation(f"{name}.field", f"GUEST_IA32_DEBUGCTL, {what}", after)
    line, what = "switch.stored-global-control", "IA32_PERF_GLOBAL_CTRL that VM-exit stores"
    yield Expectation(line, what, 0x5)


def guests_with_smis() -> Iterator[Expectation]:
    """Expect SMIs in guests to be frozen by the guest's IA32_DEBUGCTL."""
    for name, what, debugctl, handler in (
        ("guest-smi", "of a guest amid SMIs", 0, LAB_HANDLER),
        ("guest-smi-frozen", "of a guest amid frozen SMIs", FREEZE | TRACES, 0),
    ):
        yield from guest(name, what, os=SPIN + 6, each_os={"smis": handler})
        yield at_least(f"{name}.smis", f"SMIs {what}", SMIS)
        for line, which, number in (
            ("guest-debugctl", "IA32_DEBUGCTL", debugctl),
            ("guest-global-control", "IA32_PERF_GLOBAL_CTRL", 0xF),
            ("debugctl", "IA32_DEBUGCTL after the VM-exit", 0),
            ("field", "GUEST_IA32_DEBUGCTL", debugctl),
        ):
            yield Expectation(f"{name}.{line}", f"{which} {what}", number)


def saving() -> Iterator[Expectation]:
    """Expect a machine that was saved and restored to go on as if it had not been."""
    yield Expectation(FIRST_PROCESS_ENDS_WITH, "the lines of the machine that is saved", 1)
    yield Expectation("after-saving.tsc-is-later", "a TSC that went on while saved", 1)
    what = "while saved and restored"
    yield from counted("saved", what, os=SWITCH + STRAIGHT + 4 + SPIN)
    for line, of_what, number in (
        ("debugctl", "IA32_DEBUGCTL", FREEZE),
        ("status", "IA32_PERF_GLOBAL_STATUS", 0x6),
        ("turns", "turns of the lab's handler", TURNS),
        ("raised-besides", "SMIs raised but not counted", 0),
        ("wrong-words", "words of memory that changed", 0),
    ):
        yield Expectation(f"saved.{line}", f"{of_what} {what}", number)
    yield at_least("saved.smis", f"SMIs {what}", SMIS)
    yield from guest("restored-guest", "of a guest after restoring", os=STRAIGHT)
    loop = SWITCH + START_AND_STOP_SMIS + SPIN
    yield from with_smis("restored-smi", "amid SMIs after restoring", 0, LAB_HANDLER, os=loop)
    what = "of CPL 3 amid interrupts of a timer that was saved"
    each = {"interrupts": TIMER_HANDLER}
    yield from counted("restored-timer", what, usr=SPIN + 1, os=AROUND_USER + 1, each_os=each)
    yield at_least("restored-timer.interrupts", "interrupts of a timer that was saved", INTERRUPTS)


def second_cpu() -> Iterator[Expectation]:
    """Expect each of two CPUs to have its own counters, and SMIs to reach both."""
    yield from counted("beside-second", "of the first CPU", os=SWITCH + SPIN)
    yield from counted("dead-beside-second", "by the first CPU's dead counters")
    straight = SWITCH + STRAIGHT
    yield from counted("second", "of the second CPU", os=straight)
    what = "of the second CPU while the first's counters are dead"
    yield from counted("second-beside-dead", what, os=straight)
    loop = SWITCH + START_AND_STOP_SMIS + SPIN
    what = "of the first CPU"
    yield from with_smis(
        "smi-to-first", f"{what}, which alone gets SMIs", RTM, SMM_HANDLER, os=loop
    )
    yield from with_smis("smi-to-both", f"{what} while both get SMIs", 0, LAB_HANDLER, os=loop)
    what = f"{what} while both get SMIs and the second is frozen"
    yield from with_smis("smi-to-both-frozen", what, 0, LAB_HANDLER, os=loop)
    for name, what, debugctl, handler, smis in (
        ("second-without-smi", "of the second CPU, which gets no SMI", 0, 0, 0),
        ("second-smi", "of the second CPU amid SMIs", 0, LAB_HANDLER, SMIS),
        ("second-smi-frozen", "of the second CPU amid frozen SMIs", FREEZE, 0, SMIS),
        ("second-saved", "of the second CPU while saved", 0, LAB_HANDLER, SMIS),
    ):
        yield from of_second(name, what, debugctl=debugctl, handler=handler, smis=smis)


def of_second(
    name: str, what: str, *, debugctl: int, handler: int, smis: int
) -> Iterator[Expectation]:
    """Expect three instructions for each of the turns that it reports."""
    yield from counted(name, what, os=SWITCH + 2, each_os={"smis": handler, "turns": 3})
    yield at_least(f"{name}.turns", f"turns {what}", LOOPS // 2)
    yield (at_least if smis else Expectation)(f"{name}.smis", f"SMIs {what}", smis)
    yield Expectation(f"{name}.debugctl", f"IA32_DEBUGCTL {what}", debugctl)


def at_least(name: str, what: str, number: int) -> Expectation:
    """Expect a number or more."""
    return Expectation(name, what, number, at_least=True)


def expectations(cpus: int) -> tuple[Expectation, ...]:
    """Return what a machine of one or two CPUs must report."""
    parts = [instructions, faults, interrupts, registers, injected_faults, smis, guests, switches,
             guests_with_smis, saving, *([second_cpu] if cpus > 1 else [])]  # fmt: skip
    rows = [row for part in parts for row in part()]
    if cpus > 1:
        rows = [replace(row, number=0) if row.name in AMID_REPEAT else row for row in rows]
    first = Expectation("cpus", "CPUs that started", cpus)
    last = Expectation("end", "the machine's last line", 1)
    return (first, *rows, last)
