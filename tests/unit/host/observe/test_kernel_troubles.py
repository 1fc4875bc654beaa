"""Reports are told from ordinary lines, by the formats of the kernels' own sources."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import kernel_messages
from support.kernel_messages import Message

from kvmtest.host.observe import kernel_troubles
from kvmtest.host.observe.kernel_log import Record, troubles
from kvmtest.host.observe.kernel_troubles import FORMS, Form, kind_of

MESSAGES = list(kernel_messages.messages())

# Forms whose format is made of pieces, or that other kernels than those of the list print.
OTHER_LINES = [
    "Spurious APIC interrupt (vector 0xFF) on CPU#1, should never happen.",
    "core: clearing PMU state on CPU#1",
    "kvm: vmx: unexpected exit reason 0x48",
    "NMI handler (perf_event_nmi_handler) took too long to run: 1.234 msecs",
    "INFO: task kworker/u8:2:97 can't die for more than 143 seconds.",
    "SLUB <none>: no slab for object 0x00000000dead4ead.",
    "Unused swap offset entry 0001f2a4",
    "Bad or missing usercopy whitelist? Kernel memory exposure attempt detected from SLUB object",
    "mm/pgtable-generic.c:53: bad pmd 00000000dead4ead(8000000112c008e7)",
    "rust_kernel: panicked at samples/rust/rust_minimal.rs:21:9:",
    "Oops: general protection fault, probably for non-canonical address 0xdead000000000122: 0000 "
    "[#1] SMP NOPTI",
    "general protection fault: 0000 [#1] SMP PTI",
    "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008",
    "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0 (channel:0 slot:0)",
    "[Firmware Bug]: Page fault caused by firmware at PA: 0x7ff0a000",
    "{1}[Hardware Error]: event severity: corrected",
    "NMI: Not continuing",
    "spurious APIC interrupt through vector ff on CPU#1, should never happen.",
    "rtc_cmos: lost 63 rtc interrupts",
    "warning: many lost ticks.",
    "Clocksource tsc unstable (delta = -171236231 ns)",
    "Losing some ticks... checking if CPU frequency changed.",
    "VFS: Close: file count is 0",
    "[ INFO: possible recursive locking detected ]",
    "WARNING: at fs/sysfs/dir.c:31 sysfs_add_one+0x82/0x95()",
    "WARNING:",
    "WARNING: kernel stack frame pointer at ffff8881 in CPU 0/KVM:2719 has bad value 0000000000000",
    "CMCI storm detected: switching to poll mode",
    "CPU1 BANK7 CMCI storm detected",
    "CPU1 BANK7 CMCI storm subsided",
    "efi: Froze efi_rts_wq and disabled EFI Runtime Services",
    "sched_clock: Marking unstable (1234, 567)<-(1235, -567)",
    "sched: DL replenish lagged too much",
    "unregister_netdevice: waiting for lo to become free. Usage count = 2",
    "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "Kernel memory overwrite attempt detected to SLUB object 'kmalloc-64' (offset 0, size 80)!",
    "WARNING: kernel stack regs at 0000000012345678 in a:1 has bad 'bp' value 0000000012345678",
]  # fmt: skip


def kind_in_a_log(line: str) -> str:
    found = troubles([Record(4, 0, 1, 1, "-", line)])
    return found[0].kind if found else "-"


def test_every_format_of_the_kernels_is_judged_as_the_list_says() -> None:
    assert {kernel for m in MESSAGES for kernel in m.kernels.split(",")} == {
        "5.10", "6.1", "6.12", "7.3",
    }  # fmt: skip
    wrong = [
        (m.file, m.line, m.kind, got) for m in MESSAGES if (got := kind_in_a_log(m.line)) != m.kind
    ]
    assert wrong == []


def test_every_format_is_judged() -> None:
    assert {m.kind for m in MESSAGES} <= {"-", *(form.kind for form in FORMS)}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.pattern[:30]}")
def test_every_form_has_a_line_that_no_form_before_it_takes(form: Form) -> None:
    alone = kernel_troubles._any_pattern([form])
    lines = [*(m.line.split("\n")[0] for m in MESSAGES if m.kind != "-"), *OTHER_LINES]
    assert any(alone.match(line) and kind_of(line) == form.kind for line in lines)


# The kernels of the list, and what a row of the table may say of them.
KERNELS = ("5.10", "6.1", "6.12", "7.3")


def stated(kernels: str) -> set[str]:
    word, _, version = kernels.rpartition(" ")
    at = KERNELS.index(version) if version in KERNELS else None
    if at is None:
        assert version in ("", "others", "Android", "2.6")
        return set(KERNELS)
    return set({"from": KERNELS[at:], "to": KERNELS[: at + 1], "": KERNELS[at : at + 1]}[word])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.pattern[:30]}")
def test_a_form_is_of_the_kernels_and_files_that_print_it(form: Form) -> None:
    place = FORMS.index(form)
    earlier = kernel_troubles._any_pattern(FORMS[:place])
    alone = kernel_troubles._any_pattern([form])
    mine = [
        m
        for m in MESSAGES
        for line in m.line.split("\n")
        if m.kind == form.kind and alone.match(line) and not earlier.match(line)
    ]
    if mine:
        assert {k for m in mine for k in m.kernels.split(",")} == stated(form.kernels)
        assert form.sources == "(all)" or any(
            m.file.startswith(source) for m in mine for source in form.sources.split()
        )


@pytest.mark.parametrize("line", OTHER_LINES)
def test_a_report_of_another_kernel_is_told_as_well(line: str) -> None:
    assert kind_of(line) is not None


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.pattern[:30]}")
def test_forms_are_kept_apart_so_that_one_look_at_a_line_is_quick(form: Form) -> None:
    """No alternatives outside brackets, and none with a capture: they are joined to one pattern."""
    assert re.compile(form.pattern).groups == 0
    bare = re.sub(r"\\.", "", form.pattern)
    while (inner := re.sub(r"\[[^\]]*\]|\([^()]*\)", "", bare)) != bare:
        bare = inner
    assert "|" not in bare


def test_an_ordinary_line_takes_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_troubles, "FORMS", ())
    assert [kind_of(m.line) for m in MESSAGES if m.kind == "-" and "\n" not in m.line] == [
        None for m in MESSAGES if m.kind == "-" and "\n" not in m.line
    ]


@given(st.sampled_from([m for m in MESSAGES if m.kind != "-"]), st.integers(1, 7))
def test_the_facility_alone_tells_a_report_from_what_userspace_writes(
    message: Message, facility: int
) -> None:
    assert troubles([Record(4, facility, 1, 1, "-", message.line)]) == []


# What pkg/report/linux.go of syzkaller (August 2026) begins a report with on x86, as lines of mine
# in its words.
SYZKALLER = [
    "BUG: KASAN: use-after-free in vmx_vcpu_run+0x1b3/0x2f0",
    "BUG: KASAN: double-free or invalid-free in kvm_put_kvm+0x10/0x20",
    "BUG: KASAN: slab-out-of-bounds on address ffff888003a40000",
    "BUG: KMSAN: kernel-usb-infoleak in usb_submit_urb+0x7ef/0x23f5",
    "BUG: KMSAN: uninit-value in kvm_apic_local_deliver+0x10/0x20",
    "BUG: KCSAN: data-race in kvm_vcpu_kick / vcpu_enter_guest",
    "BUG: KFENCE: use-after-free read in vmx_vcpu_run+0x1b3/0x2f0",
    "BUG: KFENCE: invalid free in kvm_put_kvm+0x10/0x20",
    "BUG: KFENCE: memory corruption in kvm_put_kvm+0x10/0x20",
    "BUG: unable to handle kernel paging request at ffffffffa4493138",
    "BUG: unable to handle page fault for address: ffffffffa4493138",
    "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008",
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "BUG: spinlock lockup suspected on CPU#1, CPU 0/KVM/2719",
    "BUG: spinlock bad magic on CPU#0, swapper/0",
    "BUG: rwlock recursion on CPU#0, swapper/0, 00000000dead4ead",
    "BUG: soft lockup - CPU#1 stuck for 22s! [CPU 0/KVM:2719]",
    "BUG: CPU 0/KVM/2719 still has locks held!",
    "BUG: scheduling while atomic: CPU 0/KVM/2719/0x00000002",
    "BUG: lock held when returning to user space!",
    "BUG: bad unlock balance detected!",
    "BUG: held lock freed!",
    "BUG: Bad rss-counter state mm:00000000dead4ead idx:1 val:4",
    "BUG: non-zero nr_ptes on freeing mm: 9",
    "BUG: non-zero nr_pmds on freeing mm: 1",
    "BUG: Dentry 00000000dead4ead{i=0,n=/} still in use (1) [unmount of tmpfs tmpfs]",
    "BUG: Bad page state in process kswapd0  pfn:2d8b1",
    "BUG: Bad page map in process a.out  pte:ffffffff8abcd pmd:80000005",
    "BUG: Bad page cache in process a.out  pfn:000aa",
    "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
    "BUG: sleeping function called from invalid context at mm/slab.h:421",
    "BUG: using __this_cpu_add() in preemptible [00000000] code: a.out/2719",
    "BUG: workqueue leaked lock or atomic: kworker/u4:2/0x00000001/70",
    "BUG: memory leak",
    "BUG: stack guard page was hit at 0000000012345678 (stack is 0000000012345678..00000000)",
    "BUG: TASK stack guard page was hit at ffffc90000e6c000 (stack is ffffc9..ffffc9)",
    "[ BUG: Invalid wait context ]",
    "BUG:",
    "WARNING: CPU: 0 PID: 1 at lib/debugobjects.c:505 debug_print_object+0x16e/0x250",
    "WARNING: CPU: 0 PID: 1 at mm/usercopy.c:78 usercopy_warn+0xf2/0x120",
    "WARNING: CPU: 0 PID: 1 at kernel/locking/lockdep.c:4696 lock_release+0x5f0/0x7b0",
    "WARNING: arch/x86/kvm/x86.c:11011 at kvm_arch_vcpu_ioctl_run+0x1/0x2, CPU#1: CPU 0/KVM/2719",
    "WARNING: [vcpu->arch.pio.count] arch/x86/kvm/x86.c:11011 at kvm_arch_vcpu_ioctl_run+0x1/0x2, "
    "CPU#1: CPU 0/KVM/2719",
    "WARNING: kernel/foo.c:12 at 0x0, CPU#1: a.out/2719",
    "WARNING: CPU 0/KVM/2719 still has locks held!",
    "WARNING: Nested lock was not taken",
    "WARNING: lock held when returning to user space!",
    "WARNING: possible circular locking dependency detected",
    "WARNING: possible irq lock inversion dependency detected",
    "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
    "WARNING: possible recursive locking detected",
    "WARNING: inconsistent lock state",
    "WARNING: suspicious RCU usage",
    "WARNING: kernel stack regs at 00000000d6e3f1a2 in a.out:2719 has bad 'bp' value 0000000012345",
    "WARNING: kernel stack frame pointer at 00000000d6e3f1a2 in a.out:2719 has bad value",
    "WARNING: bad unlock balance detected!",
    "WARNING: held lock freed!",
    "[ INFO: possible circular locking dependency detected ]",
    "[ INFO: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected ]",
    "[ INFO: inconsistent lock state ]",
    "[ INFO: suspicious RCU usage. ]",
    "INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "INFO: rcu_sched self-detected stall on CPU",
    "INFO: rcu_bh detected expedited stalls on CPUs/tasks: { 0-... } 21 jiffies s: 1 root: 0x1/.",
    "INFO: rcu_tasks detected stalls on tasks:",
    "INFO: trying to register non-static key.",
    "INFO: task CPU 0/KVM:2719 blocked for more than 143 seconds.",
    "INFO: task CPU 0/KVM:2719 blocked in I/O wait for more than 143 seconds.",
    "INFO: task CPU 0/KVM:2719 can't die for more than 143 seconds.",
    "Unable to handle kernel paging request at virtual address ffff0000c0a80000",
    "general protection fault, probably for non-canonical address 0xdffffc0000000000: 0000 [#1]",
    "stack segment: 0000 [#1] SMP KASAN",
    "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: vmx_vcpu_run",
    "Kernel panic - not syncing: corrupted stack end detected inside scheduler",
    "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
    "Kernel panic - not syncing: hung_task: blocked tasks",
    "PANIC: double fault, error_code: 0x0",
    "rust_kernel: panicked at samples/rust/rust_minimal.rs:21:9:",
    "kernel BUG at lib/list_debug.c:29!",
    "Kernel BUG at vmx_vcpu_run+0x1b3/0x2f0 [verbose debug info unavailable]",
    "BUG kmalloc-64 (Not tainted): Object already free",
    "divide error: 0000 [#1] PREEMPT SMP KASAN",
    "divide_error: 0000 [#1] SMP",
    "invalid opcode: 0000 [#1] PREEMPT SMP",
    "int3: 0000 [#1] PREEMPT SMP KASAN",
    "UBSAN: array-index-out-of-bounds in arch/x86/kvm/vmx/vmx.c:1234:5",
    "UBSAN: Undefined behaviour in arch/x86/kvm/vmx/vmx.c:1234:5",
    "unregister_netdevice: waiting for lo to become free. Usage count = 3",
    "VFS: Close: file count is 0",
    "VFS: Busy inodes after unmount of sda1. Self-destruct in 5 seconds.  Have a nice day...",
]  # fmt: skip

# What it begins no report with.
SYZKALLER_LEAVES_OUT = [
    "DEBUG: no report",
    "Boot_DEBUG: 1",
    "WARNING: workqueue cpumask: online intersect > possible intersect",
    "WARNING: The mand mount option has been deprecated and",
    "WARNING: the mand mount option is being deprecated and",
    "WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB "
    "attacks!",
    "WARNING: fbcon: Driver 'vkmsdrmfb' missed to adjust virtual screen size (0x0 vs. 64x768)",
    "Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/html/latest/admin-guide"
    "/hw-vuln/srso.html for mitigation options.",
    "mitigations: WARNING: kernel not compiled with CPU_SRSO.",
    "EXT4-fs (sda1): warning: mounting unchecked fs, running e2fsck is recommended",
    "warning: `a.out' uses deprecated v2 capabilities in a way that may be insecure",
    "warning: `a.out' uses wireless extensions which will stop working for Wi-Fi 7 hardware",
    "XFS (sda1): WARNING: Reset corrupted AGFL on AG 0. 4 blocks leaked.",
    "INFO: lockdep is turned off.",
    "perf: interrupt took too long (2501 > 2500), lowering kernel.perf_event_max_sample_rate to "
    "79000",
    "EXT4-fs (sda1): INFO: recovery required on readonly filesystem",
    "traps: a.out[2719] general protection fault ip:401136 sp:7ffd0 error:0 in a.out[401000+1000]",
    "FAULT_INJECTION: forcing a failure.",
    "usb 5-1: WARNING: ath10k USB support is incomplete, don't expect anything to work!",
]


@pytest.mark.parametrize("line", SYZKALLER)
def test_what_begins_a_report_to_syzkaller_is_trouble(line: str) -> None:
    assert kind_in_a_log(line) != "-"


@pytest.mark.parametrize("line", SYZKALLER_LEAVES_OUT)
def test_what_syzkaller_leaves_out_is_none(line: str) -> None:
    assert kind_in_a_log(line) == "-"


# tools/testing/selftests/rcutorture/bin/console-badness.sh of 7.3: each of its patterns in a line.
BADNESS = [
    "WARNING: CPU: 0 PID: 1 at kernel/rcu/tree.c:1 rcu_gp_init+0x1/0x2",
    "BUG: scheduling while atomic: swapper/0/0/0x00000100",
    "BUG: KCSAN: data-race in rcu_gp_init / rcu_check_quiescent_state",
    "Oops: 0000 [#1] SMP",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "rcu: INFO: Stall ended before state dump start",
    "rcu: rcu_preempt kthread starved for 5250 jiffies! g1421 f0x0 RCU_GP_WAIT_FQS(5) ->state=I",
]

# What its patterns also take, in a console where nothing but rcutorture runs. A stack is printed
# for much that is no fault of the kernel (sysrq, an allocation that failed); rows of "=" are around
# reports and banners; "!!!" and "Warn" are anybody's.
BADNESS_BY_ITSELF = [
    "Call Trace:",
    "=============================",
    "Warning: unable to open an initial console.",
    "NOHZ tick-stop error: Non-RCU local softirq work is pending, handler #08!!!",
    "** This means that this is a DEBUG kernel and it is     **",
]


@pytest.mark.parametrize("line", BADNESS)
def test_what_is_bad_to_rcutorture_is_trouble(line: str) -> None:
    assert kind_in_a_log(line) != "-"


@pytest.mark.parametrize("line", BADNESS_BY_ITSELF)
def test_what_only_stands_around_reports_is_none(line: str) -> None:
    assert kind_in_a_log(line) == "-"


def test_what_no_printk_holds_is_not_searched_to_its_end() -> None:
    line = "INFO: task {} blocked for more than 120 seconds."
    assert kind_of(line.format("a" * 900)) == "hung-task"
    assert kind_of(line.format("a" * 1100)) is None
