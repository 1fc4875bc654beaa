"""What trouble looks like in the kernel log
=========================================

The forms in which Linux 5.10, 6.1, 6.12 and 7.3 report that something went wrong in them, a row
each, from their sources. No trouble are resources that ran out (memory, an rlimit), what a user
program or a guest did, what the kernel tunes by itself, and its advice.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import NamedTuple

__all__ = ["FORMS", "Form", "kind_of"]


class Form(NamedTuple):
    """One form of report: its ``kind``, and how the line that shows it begins.

    ``pattern`` follows :data:`_PREFIX`, which a file's pr_fmt adds in some versions; a pattern that
    begins with ``^`` admits no prefix. ``sources`` are the files that print the line; ``kernels``
    says which of the four do, where not all, or that "others" do.
    """

    kind: str
    pattern: str
    sources: str
    kernels: str = ""


# "watchdog: ", "NMI watchdog: ", "rcu: ", "kvm_intel: ", "kvm [2719]: ", "SVM: kvm: ".
_PREFIX = r"(?:(?!DEBUG)[\w./#-]+(?: watchdog| ?\[\d+\])?: ){0,2}"

# A line shows its kind within so many characters; printk cuts lines there, too (LOG_LINE_MAX).
_REACH = 1024

# A pattern's first letter, where that is just one.
_LETTER = re.compile(r"(?:\w| |\\[\[{])(?![*?+{])")

_KVM_X86 = "arch/x86/kvm"

#: Several forms can fit one line: the first counts.
FORMS = (
    # Lockups and stalls.
    Form("soft-lockup", r"BUG: soft lockup", "kernel/watchdog.c"),
    Form(
        "hard-lockup", r"Watchdog detected hard LOCKUP\b", "kernel/watchdog.c kernel/watchdog_hld.c"
    ),
    Form(
        "rcu-stall",
        r"INFO: rcu_?\w* (?:self-)?detected (?:expedited )?stall",
        "kernel/rcu/tree_stall.h kernel/rcu/tree_exp.h kernel/rcu/tasks.h",
    ),
    Form(
        "rcu-stall",
        r"rcu\w* kthread (?:starved for|timer wakeup didn't happen for) \d+ jiffies",
        "kernel/rcu/tree_stall.h",
    ),
    Form(
        "rcu-stall",
        r"INFO: (?:Expedited stall|Stall) ended (?:before|during)",
        "kernel/rcu/tree_stall.h kernel/rcu/tree_exp.h",
    ),
    Form("rcu-stall", r"All QSes seen, last \w+ kthread activity", "kernel/rcu/tree_stall.h"),
    Form("hung-task", r"INFO: task .+ blocked .*for more than \d+", "kernel/hung_task.c"),
    Form(
        "hung-task", r"INFO: task .+ can't die for more than \d+", "kernel/hung_task.c", "Android"
    ),
    Form(
        "hung-task",
        r"INFO: The task .+ has been waiting for writeback completion for more than \d+",
        "fs/fs-writeback.c",
        "7.3",
    ),
    Form("stall", r"csd: .*non-responsive CSD lock", "kernel/smp.c"),
    Form("stall", r"csd: (?:CSD lock .*got unstuck|Re-sending CSD lock)", "kernel/smp.c"),
    Form("stall", r"CPU \d+ need_resched set for", "kernel/sched/debug.c", "7.3"),
    Form("stall", r"CPU\d+ failed to report (?:alive|dead) state", "kernel/cpu.c", "from 6.12"),
    Form("stall", r"do_boot_cpu failed", "arch/x86/kernel/smpboot.c"),
    Form("stall", r"CPU \d+ didn't die", "arch/x86/kernel/smpboot.c", "to 6.1"),
    Form("stall", r"DL replenish lagged too much", "kernel/sched/deadline.c"),
    # Detectors of memory errors and races.
    Form("kasan", r"BUG: KASAN: ", "mm/kasan/report.c"),
    Form("kasan", r"KASAN: ", "mm/kasan/report.c"),
    Form("kfence", r"BUG: KFENCE: ", "mm/kfence/report.c", "from 6.1"),
    Form("kmsan", r"BUG: KMSAN: ", "mm/kmsan/report.c", "from 6.1"),
    Form("kcsan", r"BUG: KCSAN: ", "kernel/kcsan/report.c"),
    Form("ubsan", r"UBSAN: ", "lib/ubsan.c arch/x86/kernel/traps.c"),
    Form("ubsan", r"Internal error: UBSAN: ", "arch/x86/kernel/traps.c", "from 6.12"),
    Form("refcount", r"refcount_t: ", "lib/refcount.c"),
    Form("list", r"list_(?:add|del) (?:corruption|double add)", "lib/list_debug.c"),
    Form(
        "odebug",
        r"ODEBUG: (?:init|activate|deactivate|destroy|free|assert_init|active_state|object)\b",
        "lib/debugobjects.c",
    ),
    Form("slab", r"BUG \S.* \((?:Not tainted|Tainted: [^)]*)\): ", "mm/slub.c"),
    Form("slab", r"^FIX \S+: ", "mm/slub.c"),
    Form("slab", r"SLUB:? .*slabs counted but counter=", "mm/slub.c"),
    Form("slab", r"SLUB <none>: no slab for object", "mm/slub.c", "to 6.1"),
    Form("slab", r"slab error in ", "mm/slab.c", "to 6.1"),
    Form("slab", r"slab: double free detected", "mm/slab.c", "to 6.1"),
    Form("slab", r"Slab corruption ", "mm/slab.c", "to 6.1"),
    Form("slab", r"kmem_cache_destroy \S+: Slab cache still has", "mm/slab_common.c", "5.10"),
    Form("slab", r"kmem_cache_create\(.*\) integrity check failed", "mm/slab_common.c"),
    Form("bug", r"Unexpected gfp: 0x", "mm/slab_common.c"),
    Form("leak", r"\d+ new suspected memory leaks", "mm/kmemleak.c"),
    Form("memory", r"pagealloc: (?:memory corruption|single bit error)", "mm/page_poison.c"),
    Form("memory", r"Kernel memory \w+ attempt detected", "mm/usercopy.c"),
    Form("memory", r"Bad or missing usercopy whitelist", "mm/usercopy.c", "5.10"),
    Form("memory", r"[\w/.-]+\.[ch]:\d+: bad p[gmu4]d ", "mm/pgtable-generic.c"),
    Form("memory", r"Bad swap (?:file|offset) entry", "mm/swapfile.c"),
    Form("memory", r"Unused swap (?:file|offset) entry", "mm/swapfile.c"),
    Form("memory", r"^.{1,32}?: Corrupted page table at address", "arch/x86/mm/fault.c"),
    # Accesses that faulted, and what is made of them.
    Form("unchecked-msr", r"unchecked MSR access error: ", "arch/x86/mm/extable.c"),
    Form("unchecked-msr", r"MSR access error: ", "arch/x86/kernel/cpu/mce/core.c"),
    Form("kernel-bug", r"kernel BUG at ", "lib/bug.c"),
    Form("kernel-bug", r"Kernel BUG at ", "lib/bug.c", "to 6.12"),
    Form("panic", r"Kernel panic\b", "kernel/panic.c"),
    Form(
        "panic",
        r"PANIC: ",
        "arch/x86/kernel/traps.c arch/x86/mm/extable.c arch/x86/entry/entry_fred.c",
    ),
    Form("panic", r"rust_kernel: panicked at ", "rust/kernel/lib.rs", "from 6.1"),
    Form("protection-fault", r"general protection fault\b", "arch/x86/kernel/traps.c"),
    # The kernel numbers its oopses: "invalid opcode: 0000 [#1] PREEMPT SMP".
    Form("oops", r"^Oops: ", "arch/x86/kernel/dumpstack.c", "from 6.12"),
    Form("oops", r"^[^:]+: [0-9a-f]{4} \[#\d+\]", "arch/x86/kernel/dumpstack.c", "to 6.1"),
    Form("oops", r"Unable to handle kernel ", "arch/arm64/mm/fault.c"),
    Form("oops", r"Missing ENDBR: ", "arch/x86/kernel/cet.c", "from 6.1"),
    Form("oops", r"Unexpected #CP", "arch/x86/kernel/traps.c", "6.1"),
    Form("oops", r"CFI failure at ", "kernel/cfi.c", "from 6.1"),
    Form("oops", r"Fixing recursive fault but reboot is needed!", "kernel/exit.c"),
    Form("oops", r"Thread overran stack, or stack corrupted", "arch/x86/mm/fault.c"),
    # Hardware, and firmware under whom the kernel works.
    Form("hardware", r"\[Hardware Error\]", "arch/x86/kernel/cpu/mce drivers/edac/mce_amd.c"),
    Form("hardware", r"\{\d+\}\[Hardware Error\]", "drivers/acpi/apei/ghes.c"),
    Form(
        "hardware",
        r"Uncorrected (?:hardware )?memory error",
        "arch/x86/kernel/cpu/mce/core.c",
    ),
    Form("hardware", r"Machine Check Exception", "arch/x86/kernel/cpu/mce/p5.c"),
    Form("hardware", r"Memory error not recovered", "arch/x86/kernel/cpu/mce/core.c"),
    Form("hardware", r"Unexpected int18", "arch/x86/kernel/cpu/mce/core.c"),
    Form(
        "hardware",
        r"Kernel accessed poison in user space",
        "arch/x86/kernel/cpu/mce/core.c",
        "from 6.1",
    ),
    Form("hardware", r"CMCI storm detected", "arch/x86/kernel/cpu/mce/intel.c", "to 6.1"),
    Form(
        "hardware",
        r"CPU\d+ BANK\d+ CMCI (?:inherited )?storm",
        "arch/x86/kernel/cpu/mce/threshold.c",
        "from 6.12",
    ),
    Form(
        "hardware",
        r"CPUs not responding to MCE broadcast",
        "arch/x86/kernel/cpu/mce/core.c",
        "from 6.1",
    ),
    Form("hardware", r"MCE: Killing ", "arch/x86/mm/fault.c"),
    Form("hardware", r"Memory failure: 0x", "mm/memory-failure.c"),
    Form("hardware", r"EDAC \w+: \d+ [CU]E ", "drivers/edac/edac_mc.c"),
    Form(
        "firmware",
        r"\[Firmware Bug\]: (?:Page fault caused by firmware|Unable to handle paging request in EFI"
        r"|IRQ flags corrupted)",
        "arch/x86/platform/efi/quirks.c drivers/firmware/efi/runtime-wrappers.c",
    ),
    Form(
        "firmware",
        r"EFI runtime service \d+ wedged in firmware",
        "drivers/firmware/efi/runtime-wrappers.c",
        "7.3",
    ),
    Form("firmware", r"Froze efi_rts_wq", "arch/x86/platform/efi/quirks.c"),
    # Interrupts that came wrong.
    Form("nmi", r"Uhhuh\. NMI received for unknown reason", "arch/x86/kernel/nmi.c"),
    Form("nmi", r"Dazed and confused, but trying to continue", "arch/x86/kernel/nmi.c"),
    Form("nmi", r"Do you have a strange power saving mode", "arch/x86/kernel/nmi.c", "5.10"),
    Form("nmi", r"NMI: (?:IOCK error|PCI system error|Not continuing)", "arch/x86/kernel/nmi.c"),
    Form("nmi", r"NMI handler \(.*\) took too long", "arch/x86/kernel/nmi.c"),
    Form("irq", r"irq \d+: nobody cared", "kernel/irq/spurious.c"),
    Form("irq", r"irq event \d+: bogus return value", "kernel/irq/spurious.c"),
    Form("irq", r"Disabling IRQ #\d+", "kernel/irq/spurious.c"),
    Form("irq", r"\d+\.\d+ No irq handler for vector", "arch/x86/kernel/irq.c", "to 6.1"),
    Form("irq", r"No irq handler for \d+\.\d+", "arch/x86/kernel/irq.c", "from 6.12"),
    Form("irq", r"unexpected IRQ trap at vector", "arch/x86/kernel/irq.c"),
    Form("irq", r"Spurious .*should never happen", "arch/x86/kernel/apic/apic.c"),
    Form("irq", r"spurious .*should never happen", "arch/x86/kernel/apic/apic.c"),
    Form(
        "irq",
        r"Unexpected (?:LVT thermal|threshold|deferred) interrupt",
        "arch/x86/kernel/irq.c arch/x86/kernel/cpu/mce",
    ),
    Form("irq", r"IPI (?:callback|task-wakeup).* sent to offline CPU", "kernel/smp.c"),
    Form("irq", r"CPU \d+ left hardirqs enabled!", "kernel/locking/lockdep.c", "7.3"),
    Form("irq", r"huh, entered softirq", "kernel/softirq.c"),
    # Time that was lost, as SMIs can have it.
    Form(
        "time",
        r"Marking (?:TSC|clocksource .*) (?:as )?unstable",
        "arch/x86/kernel/tsc.c kernel/time/clocksource.c",
    ),
    Form(
        "time",
        r"timekeeping watchdog on CPU\d+: (?:Marking|.*(?:excessive|marking unstable))",
        "kernel/time/clocksource.c",
        "to 6.12",
    ),
    Form("time", r" +Clocksource '.*' skewed", "kernel/time/clocksource.c", "6.12"),
    Form(
        "time",
        r" +CPUs .* (?:ahead of|behind) CPU \d+ for clocksource",
        "kernel/time/clocksource.c",
        "to 6.12",
    ),
    Form("time", r"Clocksource \S+ unstable \(delta", "kernel/time/clocksource.c", "others"),
    Form("time", r"TSC found unstable after boot", "kernel/sched/clock.c"),
    Form("time", r"sched_clock: Marking unstable", "kernel/sched/clock.c"),
    Form("time", r"sched_clock on CPU \d+ went backward", "kernel/smp.c", "from 6.12"),
    Form("time", r"Measured -?\d+ cycles TSC warp between CPUs", "arch/x86/kernel/tsc_sync.c"),
    Form("time", r"TSC warped randomly between CPUs", "arch/x86/kernel/tsc_sync.c"),
    Form("time", r"TSC ADJUST compensate: ", "arch/x86/kernel/tsc_sync.c"),
    Form("time", r"\[Firmware Bug\]: TSC ADJUST differs", "arch/x86/kernel/tsc_sync.c"),
    Form("time", r"hrtimer: interrupt took \d+ ns", "kernel/time/hrtimer.c", "to 6.12"),
    Form("time", r"Lost \d+ RTC interrupts", "arch/x86/kernel/hpet.c"),
    Form("time", r"lost \d+ (?:rtc |timer )?(?:interrupts|ticks)", "drivers/char/hpet.c"),
    Form("time", r"many lost ticks", "arch/x86/kernel/time_64.c", "2.6"),
    Form("time", r"Losing (?:some|too many) ticks", "arch/x86/kernel/time_64.c", "2.6"),
    Form(
        "time",
        r"WARNING: (?:Over|Under)flow in clocksource",
        "kernel/time/timekeeping.c",
        "to 6.1",
    ),
    Form("time", r"WARNING: timekeeping: Cycle", "kernel/time/timekeeping.c", "to 6.1"),
    Form("time", r"INFO: timekeeping: Cycle", "kernel/time/timekeeping.c", "to 6.1"),
    Form("time", r"CE: Reprogramming failure", "kernel/time/clockevents.c"),
    Form("time", r"Failed to broadcast timer tick", "kernel/time/tick-broadcast.c"),
    Form("time", r"\[CPU\d+\] long duration of IRQ", "kernel/irq/handle.c", "7.3"),
    # Performance counters.
    Form("pmu", r"clearing PMU state on CPU#\d+", "arch/x86/events/intel/core.c"),
    Form("pmu", r"perfevents: irq loop stuck", "arch/x86/events/intel/core.c"),
    Form("pmu", r"Failed to (?:en|dis)able the event with invalid", "arch/x86/events/intel/core.c"),
    # KVM.
    Form(
        "kvm",
        r"vm(?:read|write|clear|ptrld) failed: ",
        f"{_KVM_X86}/vmx/vmx.c {_KVM_X86}/vmx/vmx_ops.h",
    ),
    Form("kvm", r"inv(?:vpid|ept) failed: ", f"{_KVM_X86}/vmx/vmx.c"),
    Form(
        "kvm", r"SPTE [0-9a-f]+ \(@ .*shadow-present at free", f"{_KVM_X86}/mmu/mmu.c", "from 6.12"
    ),
    Form(
        "kvm",
        r"(?:__)?(?:pte_list|rmap)_\w+: +\S+ (?:[01]->BUG|many->many)",
        f"{_KVM_X86}/mmu/mmu.c",
        "to 6.1",
    ),
    Form("kvm", r"gfn mismatch under direct page", f"{_KVM_X86}/mmu/mmu.c", "5.10"),
    Form("kvm", r"detect reserved bits on spte", f"{_KVM_X86}/mmu/mmu.c", "5.10"),
    Form("kvm", r"reserved bits set on MMU-present spte", f"{_KVM_X86}/mmu/mmu.c", "from 6.1"),
    Form("kvm", r"Invalid SPTE change: ", f"{_KVM_X86}/mmu/tdp_mmu.c"),
    Form("kvm", r"Unexpected SPTE change! ", f"{_KVM_X86}/mmu/tdp_mmu.c"),
    Form("kvm", r"assertion failed \S+: \d+: ", f"{_KVM_X86}/ioapic.h", "to 6.12"),
    Form("kvm", r"unexpected emulation request on private memory", f"{_KVM_X86}/mmu", "from 6.12"),
    Form("kvm", r"unexpected exit reason 0x", f"{_KVM_X86}/vmx/vmx.c {_KVM_X86}/svm/svm.c"),
    Form(
        "kvm",
        r"vcpu\d+, guest rIP: \S+ (?:(?:vmx|svm): )?unexpected exit reason 0x",
        f"{_KVM_X86}/vmx/vmx.c {_KVM_X86}/svm/svm.c {_KVM_X86}/x86.c",
    ),
    Form("kvm", r"Guest triggered AMD Erratum 383", f"{_KVM_X86}/svm/svm.c"),
    Form("kvm", r"enabling virtualization on CPU\d+ failed", "virt/kvm/kvm_main.c"),
    Form("kvm", r"CPU \d+ feature inconsistency!", f"{_KVM_X86}/vmx/vmx.c", "to 6.1"),
    Form("kvm", r"Inconsistent VMCS config on CPU", f"{_KVM_X86}/vmx/vmx.c", "6.12"),
    Form("kvm", r"VMCS config on CPU \d+ doesn't match", f"{_KVM_X86}/vmx/vmx.c", "7.3"),
    Form("kvm", r"Failed to setup VMCS config on CPU", f"{_KVM_X86}/vmx/vmx.c", "from 6.12"),
    Form("kvm", r"TD vp_enter_ret 0x", f"{_KVM_X86}/vmx/tdx.c", "7.3"),
    Form("kvm", r"Missing field from shadow_read_\w+_field", f"{_KVM_X86}/vmx/nested.c"),
    Form(
        "kvm", r"SEAMCALL .*failed: 0x", f"{_KVM_X86}/vmx/tdx.c arch/x86/virt/vmx/tdx", "from 6.12"
    ),
    Form("kvm", r"TD(?:H|X)_\w+(?:\[.*\].*)? failed:? 0x", f"{_KVM_X86}/vmx/tdx.c", "7.3"),
    Form("kvm", r"tdh_\w+\(\) failed\. HKID \d+ is leaked", f"{_KVM_X86}/vmx/tdx.c", "7.3"),
    # What calls itself a bug, whoever prints it. Kernels of today keep this for what must not be.
    Form("bug", r"\[ ?(?:BUG|INFO|WARNING): .+ ?\]", "kernel/locking/lockdep.c"),
    Form("bug", r"BUG:(?: |$)", "(all)"),
    Form("bug", r"BUG(?:[!,]| at| in| BUG) ", "fs/jfs fs/kernfs drivers net/core/neighbour.c"),
    Form("bug", r"DL de-boosted task .* REPLENISH flag missing", "kernel/sched/deadline.c"),
    Form("bug", r"psi: (?:inconsistent task state|task underflow)!", "kernel/sched/psi.c"),
    Form("bug", r"INFO: trying to register non-static key", "kernel/locking/lockdep.c"),
    Form("bug", r"bad: scheduling from the idle thread!", "kernel/sched/idle.c"),
    Form("bug", r"Maximum lock depth \d+ reached", "kernel/locking/rtmutex.c"),
    Form("bug", r"\w+\(\): Double-freed CB ", "kernel/rcu/tree.c", "from 6.1"),
    Form("bug", r"unregister_netdevice: waiting for", "net/core/dev.c"),
    Form(
        "bug", r"VFS: (?:Busy inodes after unmount|Close: file count is 0)", "fs/super.c fs/open.c"
    ),
    Form("bug", r"kobject .*something is seriously wrong", "lib/kobject.c"),
    Form("bug", r"tree is corrupted: ", "mm/vmalloc.c"),
    Form("bug", r"not lowest: t: ", "mm/vmalloc.c"),
    # A WARN says where it is. Others that begin with this word mostly are banners for people.
    Form("warning", r"^WARNING: CPU: \d+ (?:UID: \d+ )?PID: \d+ at ", "kernel/panic.c", "to 6.12"),
    Form(
        "warning",
        r"^WARNING: (?:\[.*\] )?(?:\S+:\d+ )?at .*, CPU#\d+",
        "kernel/panic.c",
        "7.3",
    ),
    Form("warning", r"^WARNING: (?:at )?\S+\.[chS]:\d+ ", "kernel/panic.c", "others"),
    Form("warning", r"^WARNING:\s*$", "(all)"),
    Form(
        "warning",
        r"^WARNING: (?:possible (?:circular|recursive|irq lock)"
        r"|.*-safe -> .*-unsafe lock order detected"
        r"|chain_key collision|inconsistent lock state|Nested lock was not taken"
        r"|bad (?:unlock balance|contention) detected|held lock freed"
        r"|.*still has locks held!|lock held when returning to user space"
        r"|suspicious RCU usage|circular locking deadlock detected|context imbalance)",
        "kernel/locking/lockdep.c kernel/locking/rtmutex-debug.c",
    ),
    Form(
        "warning",
        r"^WARNING: (?:kernel stack (?:regs|frame pointer) at|stack (?:recursion|going)"
        r"|can't (?:access|dereference) (?:registers|iret registers)|unknown stack type)",
        "arch/x86/kernel/unwind_frame.c arch/x86/kernel/unwind_orc.c",
    ),
    Form(
        "warning",
        r"^WARNING: (?:WARNING: )?(?:bad lookup (?:idx|value)|Bad or missing \.orc|Corrupt \.orc"
        r"|missing \w+ value at|unknown (?:\.orc_unwind|BP base|SP base))",
        "arch/x86/kernel/unwind_orc.c",
    ),
    Form("cut-here", r"^-+\[ cut here \]-+", "kernel/panic.c lib/bug.c"),
)


def _pattern(form: Form) -> str:
    bare = form.pattern.removeprefix("^")
    return f"(?:{bare})" if form.pattern.startswith("^") else f"{_PREFIX}(?:{bare})"


def _any_pattern(forms: Iterable[Form]) -> re.Pattern[str]:
    """Return one pattern for all ``forms``, which matches the prefix once."""
    forms = tuple(forms)
    strict = [form.pattern[1:] for form in forms if form.pattern.startswith("^")]
    others = [form.pattern for form in forms if not form.pattern.startswith("^")]
    return re.compile(f"{_alternation(strict)}|{_PREFIX}(?:{_alternation(others)})")


def _alternation(patterns: Iterable[str]) -> str:
    """Return one pattern for all; those with the same first letter share a branch, for speed."""
    branches: dict[str, list[str]] = {}
    for pattern in patterns:
        first = _LETTER.match(pattern)
        letter = first[0] if first else ""
        branches.setdefault(letter, []).append(pattern[len(letter) :])
    groups = (f"{letter}(?:{'|'.join(rest)})" for letter, rest in branches.items())
    return "|".join(groups) or "(?!)"


# Compiled at import and not at the first line: a lab's machine, which is slow, is saved after the
# imports. The others are compiled where there is trouble.
_ANY = _any_pattern(FORMS)


@cache
def _compiled(form: Form) -> re.Pattern[str]:
    return re.compile(_pattern(form))


# Most of a run's log are dumps of the VMCS, which say the same again and again.
@lru_cache(maxsize=1024)
def kind_of(line: str) -> str | None:
    """Return the kind of trouble that ``line`` reports, None for an ordinary line."""
    if not _ANY.match(line, 0, _REACH):
        return None  # One match tells so of nearly all lines.
    return next(form.kind for form in FORMS if _compiled(form).match(line, 0, _REACH))
