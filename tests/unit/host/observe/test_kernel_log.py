"""The kernel log is followed from a mark on, and trouble in it is told from innocent lines."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvmtest.host.observe.kernel_log import (
    KernelLog,
    LogError,
    LogSlice,
    Record,
    _Since,
    parse_record,
    split_records,
    troubles,
)
from kvmtest.host.observe.kernel_troubles import FORMS, kind_of
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

CUT_HERE = "------------[ cut here ]------------"
END_TRACE = "---[ end trace 0000000000000000 ]---"


def record(sequence: int, message: str, facility: int = 0) -> Record:
    return Record(4, facility, sequence, sequence * 1000, "-", message)


def log(*lines: str) -> list[Record]:
    return [record(number, line) for number, line in enumerate(lines)]


def kinds(*lines: str) -> list[str]:
    return [trouble.kind for trouble in troubles(log(*lines))]


# Records


def test_the_abi_s_own_example_is_parsed() -> None:
    got = parse_record(
        b"7,160,424069,-;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)\n"
        b" SUBSYSTEM=acpi\n"
        b" DEVICE=+acpi:PNP0A03:00\n"
    )
    assert (got.level, got.facility, got.sequence, got.time_us) == (7, 0, 160, 424069)
    assert got.message.endswith("0x0cf7] (ignored)")
    assert got.dictionary == {"SUBSYSTEM": "acpi", "DEVICE": "+acpi:PNP0A03:00"}
    assert got.is_from_kernel


def test_facility_level_flag_and_caller_come_from_the_prefix() -> None:
    got = parse_record(b"30,9,1,c,caller=T1;systemd[1]: x; y\n")
    assert (got.level, got.facility, got.flags) == (6, 3, "c")
    assert got.message == "systemd[1]: x; y"
    assert not got.is_from_kernel


def test_escapes_are_bytes_of_utf_8() -> None:
    got = parse_record(rb"6,1,1,-;a\x5cb \xc3\xa4\x0ac \xff")
    assert got.message == "a\\b ä\nc \ufffd"


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"6,1,1,-", b"6,1;x", b";", b"a,1,1,-;x", b"6,-1,1,-;x", "²,1,1,-;x".encode()],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(LogError, match="no record"):
        parse_record(data)


def escaped(text: bytes) -> bytes:
    """Escape as msg_add_ext_text in kernel/printk/printk.c does."""
    return b"".join(bytes([c]) if 32 <= c < 127 and c != 0x5C else b"\\x%02x" % c for c in text)


@given(st.integers(0, 191), st.integers(0, 2**63), st.integers(0, 2**53), st.text())
def test_what_the_kernel_formats_reads_back(
    priority: int, sequence: int, time_us: int, message: str
) -> None:
    data = b"%d,%d,%d,-;%s\n" % (priority, sequence, time_us, escaped(message.encode()))
    got = parse_record(data)
    assert (got.facility * 8 + got.level, got.sequence, got.time_us) == (
        priority,
        sequence,
        time_us,
    )
    assert got.message == message


@given(st.binary() | st.binary().map(b"6,1,1,-;".__add__))
def test_any_bytes_are_a_record_or_an_error(data: bytes) -> None:
    try:
        got = parse_record(data)
    except LogError:
        return
    assert isinstance(troubles([got]), list)


# Bodies with and without what has to be decoded, continued or cut.
BODIES = st.text("a~ ;,\\[]\n x0f\x7f\x80", max_size=12).map(str.encode)
HEADS = [
    b"4,5,6,-", b"30,9,1,c,caller=T1", b"6,1,1,", b"x,1,1,-", b"6,1", b"192,1,1,-", b"6,1_0,1,-",
    b"6,%s,1,-" % (b"1" * 21), b"6,1,%s,-" % (b"1" * 21), b"06,1,1,-", b"6,1,\xb2,-",
]  # fmt: skip


@example(b"4,5,6,-", b"\\x41", b"\n")
@given(st.sampled_from(HEADS), BODIES, st.sampled_from([b"", b"\n"]))
def test_a_plain_record_is_read_as_any_other(head: bytes, body: bytes, end: bytes) -> None:
    def read(data: bytes) -> Record | str:
        try:
            return parse_record(data)
        except LogError as error:
            return str(error)

    data = head + b";" + body + end
    quick = read(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvmtest.host.observe.kernel_log._plain", lambda _: None)
        assert read(data) == quick


def test_a_file_of_records_is_split_before_each_prefix() -> None:
    assert split_records(b"6,1,1,-;a\n K=v\n\n6,2,2,-;b\n") == [b"6,1,1,-;a\n K=v", b"6,2,2,-;b"]


# Troubles

REAL_LINES = {
    "soft-lockup": [
        "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [CPU 0/KVM:2719]",
        "NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
    ],
    "hard-lockup": [
        "watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
        "watchdog: CPU4: Watchdog detected hard LOCKUP on cpu 4",
    ],
    "rcu-stall": [
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 21 jiffies",
        "INFO: rcu_sched self-detected stall on CPU",
        "INFO: rcu_tasks detected stalls on tasks:",
        "rcu: rcu_preempt kthread starved for 5250 jiffies! g1421 f0x0 RCU_GP_WAIT_FQS(5)",
    ],
    "hung-task": [
        "INFO: task kworker/u8:2:97 blocked for more than 120 seconds.",
        "INFO: task CPU 0/KVM:2719 blocked for more than 241 seconds.",
        "INFO: task dd:812 blocked in I/O wait for more than 122 seconds.",
    ],
    "kasan": [
        "BUG: KASAN: slab-use-after-free in vmx_vcpu_run+0x1b3/0x2f0 [kvm_intel]",
        "KASAN: null-ptr-deref in range [0x0000000000000008-0x000000000000000f]",
    ],
    "ubsan": ["UBSAN: array-index-out-of-bounds in arch/x86/kvm/vmx/vmx.c:1234:5"],
    "refcount": ["refcount_t: underflow; use-after-free."],
    "unchecked-msr": [
        "unchecked MSR access error: WRMSR to 0x1d9 (tried to write 0x0000000000004000) at rIP: "
        "0xffffffff8102a6c4 (native_write_msr+0x4/0x20)",
        "unchecked MSR access error: RDMSR from 0x34 at rIP: 0xffffffff810 (native_read_msr+0x4)",
    ],
    "kernel-bug": ["kernel BUG at arch/x86/kvm/x86.c:11011!"],
    "panic": [
        "Kernel panic - not syncing: Fatal exception in interrupt",
        "traps: PANIC: double fault, error_code: 0x0",
    ],
    "protection-fault": [
        "general protection fault, probably for non-canonical address 0xdead000000000122: 0000 "
        "[#1] PREEMPT SMP NOPTI",
        "Oops: general protection fault, maybe for address 0xffffc900: 0000 [#1] SMP",
        "general protection fault: 0000 [#1] SMP PTI",
    ],
    "oops": [
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "Oops: Oops: 0000 [#1] SMP NOPTI",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        "divide error: 0000 [#3] SMP",
    ],
    "bug": [
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "BUG: unable to handle page fault for address: ffffc90000e6c000",
        "BUG: scheduling while atomic: CPU 0/KVM/2719/0x00000002",
        "BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 34s!",
    ],
    "warning": [
        "WARNING: CPU: 1 PID: 2719 at arch/x86/kvm/vmx/tdx.c:1043 tdx_vcpu_run+0x2f3 [kvm_intel]",
        "WARNING: arch/x86/kvm/vmx/nested.c:4911 at nested_vmx_vmexit+0x6f1/0x9a0, CPU#1: x/9",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
    ],
    "irq": ['irq 16: nobody cared (try booting with the "irqpoll" option)'],
    "cut-here": [CUT_HERE],
}


def test_every_kind_has_real_lines() -> None:
    assert REAL_LINES.keys() <= {form.kind for form in FORMS}


@pytest.mark.parametrize(
    ("kind", "line"), [(kind, line) for kind, lines in REAL_LINES.items() for line in lines]
)
def test_a_real_line_of_each_kind_is_recognised(kind: str, line: str) -> None:
    (trouble,) = troubles(log("an ordinary line", line))
    assert (trouble.kind, trouble.headline) == (kind, line)
    assert trouble.sequence == 1


@pytest.mark.parametrize(
    "line",
    [
        "Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/html/latest/",
        "[Firmware Bug]: TSC doesn't count with P0 frequency!",
        "kvm: DEBUG: vcpu 0 has run",
        "FORWARNING: not a warning",
        "WARNINGS are off",
        "DEBUG: BUG: none",
        "kvm [2719]: ignored rdmsr: 0x1d9 data 0x0",
        "kvm_intel: VMCS 0000000012345678, last attempted VM-entry on CPU 1",
        "DebugCtl = 0x0000000000004000  DebugExceptions = 0x0000000000000000",
        "traps: a.out[812] general protection fault ip:401136 sp:7ffd0 error:0 in a.out[401000]",
        "a.out[813]: segfault at 0 ip 0000000000401136 sp 00007ffd error 4 in a.out[401000]",
        'audit: type=1400 audit(1700000000.000:42): apparmor="DENIED" info="BUG: "',
        "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "watchdog: Delayed init of the lockup detector failed: -19",
        "rcu: INFO: Hierarchical RCU implementation.",
        "rcu: Hierarchical SRCU implementation.",
        "kasan: KernelAddressSanitizer initialized",
        "process (1): drop_caches: 10",
        "irq 9: Affinity broken due to vector space exhaustion.",
        "",
    ],
)
def test_an_innocent_line_is_no_trouble(line: str) -> None:
    assert kinds(line) == []


def test_what_userspace_writes_is_never_trouble() -> None:
    lines = [line for lines in REAL_LINES.values() for line in lines]
    assert troubles(record(n, line, facility=1) for n, line in enumerate(lines)) == []


WARN = (
    CUT_HERE,
    "WARNING: CPU: 1 PID: 2719 at arch/x86/kvm/vmx/tdx.c:1043 tdx_vcpu_run+0x2f3 [kvm_intel]",
    "Modules linked in: kvm_intel kvm",
    "Call Trace:",
    " <TASK>",
    " vcpu_enter_guest+0x6f1/0x9a0 [kvm]",
    " </TASK>",
    END_TRACE,
)


def test_a_warning_is_one_trouble_from_cut_here_to_end_trace() -> None:
    (trouble,) = troubles(log("before", *WARN, "after"))
    assert trouble.kind == "warning"
    assert trouble.headline == WARN[1]
    assert trouble.lines == WARN
    assert (trouble.sequence, trouble.time_us) == (1, 1000)


def test_the_message_of_a_warning_gives_its_kind() -> None:
    lines = (CUT_HERE, "refcount_t: underflow; use-after-free.", *WARN[1:])
    (trouble,) = troubles(log(*lines))
    assert trouble.kind == "refcount"
    assert trouble.lines == lines


def test_two_warnings_are_two_troubles() -> None:
    assert kinds(*WARN, *WARN) == ["warning", "warning"]


def test_a_warning_cut_short_by_another_is_still_counted() -> None:
    assert kinds(*WARN[:3], *WARN) == ["warning", "warning"]


def test_an_oops_belongs_to_the_bug_before_it() -> None:
    lines = (
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "#PF: supervisor read access in kernel mode",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "RIP: 0010:vmx_vcpu_run+0x1b3/0x2f0 [kvm_intel]",
        END_TRACE,
        "Kernel panic - not syncing: Fatal exception",
    )
    bug, panic = troubles(log(*lines))
    assert (bug.kind, panic.kind) == ("bug", "panic")
    assert bug.lines == lines[:5]


def test_a_kernel_bug_is_one_trouble_with_its_oops() -> None:
    lines = (CUT_HERE, "kernel BUG at mm/slub.c:1!", "invalid opcode: 0000 [#1] SMP", END_TRACE)
    assert kinds(*lines) == ["kernel-bug"]


def test_a_report_without_end_marker_ends_at_the_next_trouble() -> None:
    stall = REAL_LINES["rcu-stall"][0]
    hung = REAL_LINES["hung-task"][0]
    lockdep = REAL_LINES["warning"][2]
    found = troubles(log(stall, "Call Trace:", hung, hung, lockdep, *WARN))
    assert [trouble.kind for trouble in found] == [
        "rcu-stall",
        "hung-task",
        "hung-task",
        "warning",
        "warning",
    ]
    assert found[0].lines == (stall, "Call Trace:")


def test_a_report_without_end_marker_is_bounded() -> None:
    (trouble,) = troubles(log(REAL_LINES["irq"][0], *["noise"] * 1000))
    assert len(trouble.lines) == 200


def test_cut_here_alone_is_trouble_already() -> None:
    assert kinds(CUT_HERE, "Modules linked in: kvm") == ["cut-here"]


def test_lines_of_one_message_are_looked_at_one_by_one() -> None:
    assert kinds("first\nBUG: second") == ["bug"]


# Messages of several lines, and lines of several records


@pytest.mark.parametrize(
    ("message", "kind", "headline"),
    [
        # A task may have newlines in its name.
        (
            "INFO: task a\nb:2719 blocked for more than 143 seconds.",
            "hung-task",
            "INFO: task a b:2719 blocked for more than 143 seconds.",
        ),
        ("INFO: task \n\n\nx\n:1 blocked in I/O wait for more than 1 seconds.", "hung-task", ""),
        ("WARNING: a\nb/2719 still has locks held!", "warning", ""),
        ("\n=====\nWARNING: suspicious RCU usage\n6.1.0 Not tainted", "warning", ""),
        (
            "kvm: Invalid SPTE change: cannot replace a present leaf\nSPTE with another present "
            "leaf SPTE mapping a\ndifferent PFN!\nas_id: 0 gfn: 1f",
            "kvm",
            "kvm: Invalid SPTE change: cannot replace a present leaf",
        ),
    ],
)
def test_lines_of_one_message_that_tell_only_together_do(
    message: str, kind: str, headline: str
) -> None:
    escaped_message = escaped(message.encode()).decode()
    (trouble,) = troubles([parse_record(f"4,1,1,-;{escaped_message}\n".encode())])
    assert trouble.kind == kind
    assert trouble.headline == headline or not headline
    assert "\n".join(trouble.lines) == message[message.index(trouble.lines[0]) :]


@pytest.mark.parametrize(
    "message",
    [
        "=====\nWARNING: the mand mount option is being deprecated and\n         will be removed "
        "in v5.15!\n=====",
        "WARNING:\tnothing\nCPU: 0 PID: 1 at home",
        "kvm: Running KVM with ignore_msrs=1 and report_ignored_msrs=0 is not a\na supported",
        "The buggy address is located 8 bytes inside of\n 64-byte region [ffff888003a40000, ff)",
    ],
)
def test_a_message_of_several_innocent_lines_is_no_trouble(message: str) -> None:
    assert kinds(message) == []


def fragments(*parts: str, caller: str = "") -> list[Record]:
    """Return a record that no newline ended, and what came to go on with it: flag "c"."""
    flags = ["-", *"c" * (len(parts) - 1)]
    mark = f",caller={caller}" if caller else ""
    return [
        parse_record(f"4,{n},{n},{flag}{mark};{part}\n".encode())
        for n, (flag, part) in enumerate(zip(flags, parts, strict=True))
    ]


@pytest.mark.parametrize(
    "parts",
    [
        ("INFO: task CPU 0/KVM:2719", " blocked for more than 120 seconds."),
        ("INFO: task CPU 0/KVM:2719", "blocked for more than 120 seconds."),
        ("INFO: ", "task CPU 0/KVM:2719 ", "blocked ", "for more than ", "120 seconds."),
        ("rcu: INFO: rcu_preempt ", "self-detected stall on CPU"),
        ("kvm_intel: vmwrite ", "failed: field=2802 val=4000 err=12"),
        ("x", "BUG: scheduling while atomic: swapper/0/0/0x00000100"),
    ],
)
def test_a_line_in_fragments_is_read_as_one(parts: tuple[str, ...]) -> None:
    assert len(troubles(fragments(*parts))) == 1


def test_a_fragment_is_joined_past_what_another_cpu_printed_in_between() -> None:
    first, second = fragments("kvm_intel: vmread ", "failed: field=4824")
    (trouble,) = troubles([first, record(7, "usb 1-1: reset"), record(8, "eth0: up"), second])
    assert (trouble.kind, trouble.headline) == ("kvm", "kvm_intel: vmread failed: field=4824")


def test_the_third_fragment_is_joined_too_where_another_cpu_printed_after_the_first() -> None:
    first, second, third = fragments("INFO: task a:1 ", "blocked for more ", "than 9 seconds.")
    assert len(troubles([first, record(7, "usb 1-1: reset"), second, third])) == 1


def test_a_line_that_begins_with_a_fragment_is_read_as_one() -> None:
    """Up to Linux 4.9: flag "c" begins a line, "+" goes on with it."""
    parts = [("-", "usb 1-1: reset"), ("c", "kvm_intel: vm"), ("+", "write "), ("+", "failed: f")]
    lines = [f"4,{n},{n},{flag};{part}".encode() for n, (flag, part) in enumerate(parts)]
    (trouble,) = troubles(map(parse_record, lines))
    assert trouble.headline == "kvm_intel: vmwrite failed: f"


def test_a_fragment_is_joined_to_the_same_caller_s_line_alone() -> None:
    first, second = fragments("kvm_intel: vmread ", "failed: field=4824", caller="T2719")
    assert len(troubles([first, second])) == 1
    assert troubles([first, second._replace(caller="C1")]) == []


def test_fragments_of_a_report_are_its_lines() -> None:
    lines = ("BUG: workqueue lockup - pool", " cpus=1 node=0", " stuck for 34s!")
    (trouble,) = troubles(fragments(*lines))
    assert trouble.lines == lines


def test_fragments_that_tell_nothing_are_no_trouble() -> None:
    assert troubles(fragments("Modules linked in:", " kvm_intel", " kvm", "")) == []


def test_caller_and_flag_are_kept() -> None:
    assert parse_record(b"4,1,1,c,caller=C1;x\n").caller == "C1"
    assert parse_record(b"4,1,1,-,caller=T77;\xff\n").caller == "T77"
    assert parse_record(b"4,1,1,-;x\n").caller == ""


# The order of 7.x: a WARN's own line first, then its message.
WARN_OF_7_3 = (
    CUT_HERE,
    "WARNING: lib/refcount.c:28 at refcount_warn_saturate+0x9b/0x110, CPU#1: CPU 0/KVM/2719",
    "refcount_t: underflow; use-after-free.",
    *WARN[2:],
)


def test_the_message_of_a_warning_may_follow_it() -> None:
    (trouble,) = troubles(log(*WARN_OF_7_3))
    assert (trouble.kind, trouble.lines) == ("warning", WARN_OF_7_3)


@pytest.mark.parametrize(
    "lines",
    [
        (
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "rcu: \t(detected by 0, t=5252 jiffies, g=1421, q=7 ncpus=2)",
            "rcu: All QSes seen, last rcu_preempt kthread activity 5251 (4295-4290), jiffies",
            "rcu: rcu_preempt kthread starved for 5251 jiffies! g1421 f0x2 RCU_GP_WAIT_FQS(5)",
            "rcu: RCU grace-period kthread stack dump:",
        ),
        (
            "=============================================================================",
            "BUG kmalloc-64 (Not tainted): Poison overwritten",
            "--------------------------------------------------",
            "0xffff888003a40000-0xffff888003a40000 @offset=0. First byte 0x6a instead of 0x6b",
            "FIX kmalloc-64: Restoring Poison 0xffff888003a40000-0xffff888003a40000=0x6b",
            "FIX kmalloc-64: Marking all objects used",
        ),
        (
            "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable "
            "because the skew is too large:",
            "clocksource:                       'hpet' wd_nsec: 503 wd_now: a1 wd_last: b1",
            "clocksource:                       Clocksource 'tsc' skewed -3 ns (0 ms) over",
            "tsc: Marking TSC unstable due to clocksource watchdog",
            "TSC found unstable after boot, most likely due to broken BIOS. Use 'tsc=unstable'.",
            "sched_clock: Marking unstable (12, 3)<-(15, -3)",
        ),
        (
            "list_del corruption. prev->next should be ffff888003a40000, but was dead000000000122",
            CUT_HERE,
            "kernel BUG at lib/list_debug.c:62!",
            "Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
            END_TRACE,
        ),
        (
            "Uhhuh. NMI received for unknown reason 3d on CPU 1.",
            "Dazed and confused, but trying to continue",
        ),
    ],
)
def test_what_goes_on_with_a_report_is_none_of_its_own(lines: tuple[str, ...]) -> None:
    (trouble,) = troubles(log("usb 1-1: reset", *lines))
    assert trouble.lines[-1] == lines[-1]


@pytest.mark.parametrize(
    "line",
    [
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "BUG kmalloc-64 (Not tainted): Poison overwritten",
        "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable because",
    ],
)
def test_a_second_report_of_a_kind_is_one_of_its_own(line: str) -> None:
    assert len(kinds(line, "between", line)) == 2


def test_the_lines_of_a_machine_check_are_one_trouble() -> None:
    lines = [
        "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 7: 8c00004000010092",
        "mce: [Hardware Error]: TSC 0 ADDR 3ac8a1000 MISC 152a1a86",
        "mce: [Hardware Error]: PROCESSOR 0:806f8 TIME 1700000000 SOCKET 0 APIC 2 microcode 2b0005",
    ]
    assert kinds(*lines, "usb 1-1: reset", lines[0]) == ["hardware", "hardware"]


@given(st.lists(st.sampled_from([*WARN, *(lines[0] for lines in REAL_LINES.values()), "x"])))
def test_no_recognised_line_is_outside_every_report(lines: list[str]) -> None:
    reported = sum(len(trouble.lines) for trouble in troubles(log(*lines)))
    assert reported >= sum(kind_of(line) is not None for line in lines)


# Following


def written(root: Path, data: bytes) -> Tree:
    (root / "dev").mkdir(exist_ok=True)
    with (root / "dev/kmsg").open("ab") as file:
        file.write(data)
    return Tree(root)


def opened(tree: Tree) -> KernelLog:
    kernel_log = KernelLog.open(tree)
    assert isinstance(kernel_log, KernelLog)
    return kernel_log


def test_a_plain_file_is_followed_from_its_end(tmp_path: Path) -> None:
    tree = written(tmp_path, b"6,1,1,-;old\n")
    with opened(tree) as kernel_log:
        mark = kernel_log.write_marker()
        assert mark.token is None
        assert mark.unproven is not None
        assert "plain file" in mark.unproven.what
        written(tmp_path, b"6,2,2,-;new\n K=v\n6,3,3,-;newer\n")
        assert [r.message for r in kernel_log.since_marker().records] == ["new", "newer"]
        written(tmp_path, b"6,4,4,-;newest\n")
        assert [r.sequence for r in kernel_log.since_marker().records] == [2, 3, 4]
        kernel_log.write_marker()
        assert kernel_log.since_marker().records == ()


def test_a_gap_in_the_sequence_counts_as_lost(tmp_path: Path) -> None:
    with opened(written(tmp_path, b"")) as kernel_log:
        kernel_log.write_marker()
        written(tmp_path, b"6,10,1,-;a\n6,11,1,-;b\n6,15,1,-;c\n")
        assert kernel_log.since_marker().lost == 3


def test_a_position_divides_what_came_and_what_was_lost_before_and_after_it(
    tmp_path: Path,
) -> None:
    with opened(written(tmp_path, b"")) as kernel_log:
        written(tmp_path, b"6,1,0,-;one\n6,4,0,-;two\n")
        here = kernel_log.here()
        assert kernel_log.since(here) == LogSlice((), 0)
        written(tmp_path, b"6,5,0,-;three\n6,7,0,-;four\n")
        later = kernel_log.since(here)
        assert ([r.message for r in later.records], later.lost) == (["three", "four"], 1)
        whole = kernel_log.since_marker()
        assert ([r.sequence for r in whole.records], whole.lost) == ([1, 4, 5, 7], 3)


def test_records_are_forgotten_unless_they_show_trouble(tmp_path: Path) -> None:
    with opened(written(tmp_path, b"")) as kernel_log:
        written(tmp_path, b"6,1,0,-;one\n")
        here = kernel_log.here()
        written(tmp_path, b"6,2,0,-;two\n6,4,0,-;three\n")
        kernel_log.drain()
        kernel_log.forget(here)
        assert [r.message for r in kernel_log.since_marker().records] == ["one"]
        assert kernel_log.since_marker().lost == 1
        trouble = "BUG: kernel NULL pointer dereference, address: 0000000000000000"
        written(tmp_path, f"6,5,0,-;four\n1,6,0,-;{trouble}\n".encode())
        kernel_log.drain()
        kernel_log.forget(here)
        assert [r.message for r in kernel_log.since_marker().records] == ["one", "four", trouble]


def test_an_overrun_counts_by_the_gap_that_it_leaves() -> None:
    since = _Since(sequence=7)
    since.overrun()
    assert since.slice().lost == 1
    since.take(b"4,12,12000,-;x\n")
    assert since.slice().lost == 4


def test_an_overrun_before_any_known_record_counts_once() -> None:
    since = _Since()
    since.overrun()
    since.take(b"4,12,12000,-;x\n")
    since.take(b"4,13,13000,-;y\n")
    assert since.slice().lost == 1


def test_a_damaged_log_is_an_error(tmp_path: Path) -> None:
    with opened(written(tmp_path, b"")) as kernel_log:
        written(tmp_path, b"not a record\n")
        with pytest.raises(LogError, match="no record"):
            kernel_log.since_marker()


def test_no_kmsg_is_missing(tmp_path: Path) -> None:
    missing = KernelLog.open(Tree(tmp_path))
    assert isinstance(missing, Missing)
    assert missing.what == "/dev/kmsg is absent"


def test_a_pipe_in_kmsg_s_place_is_missing(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev/kmsg")
    missing = KernelLog.open(Tree(tmp_path))
    assert isinstance(missing, Missing)
    assert "not the kernel log" in missing.what


def test_closing_twice_does_nothing(tmp_path: Path) -> None:
    kernel_log = opened(written(tmp_path, b""))
    kernel_log.close()
    kernel_log.close()


# The real log


@pytest.fixture
def real() -> Iterator[KernelLog]:
    kernel_log = KernelLog.open(Tree())
    if isinstance(kernel_log, Missing):
        pytest.skip(str(kernel_log))
    with kernel_log:
        yield kernel_log


def write_line(line: str) -> None:
    try:
        with Path("/dev/kmsg").open("w") as kmsg:
            kmsg.write(f"<6>{line}\n")
    except OSError as error:
        pytest.skip(f"/dev/kmsg can't be written: {error}")


def test_a_marker_comes_back_from_the_real_log(real: KernelLog) -> None:
    write_line("kvmtest: before the mark")
    mark = real.write_marker()
    assert mark.unproven is None
    assert mark.token
    write_line("kvmtest: after the mark \\ ä")
    got = real.since_marker()
    messages = [r.message for r in got.records]
    assert "kvmtest: after the mark \\ ä" in messages
    assert "kvmtest: before the mark" not in messages
    assert not any(mark.token in message for message in messages)
    assert got.lost == 0


def test_trouble_that_userspace_writes_to_the_real_log_is_ignored(real: KernelLog) -> None:
    real.write_marker()
    write_line("WARNING: kvmtest writes this line to see it ignored")
    records = real.since_marker().records
    assert any("to see it ignored" in r.message for r in records)
    assert not any("ignored" in trouble.headline for trouble in troubles(records))


def test_marks_can_follow_each_other_faster_than_the_rate_limit(real: KernelLog) -> None:
    write_line("kvmtest: marks")
    assert all(real.write_marker().unproven is None for _ in range(30))


def test_every_record_of_the_real_log_is_parsed(real: KernelLog) -> None:
    os.lseek(real._descriptor, 0, os.SEEK_SET)
    records = real.since_marker().records
    assert records
    assert all(r.sequence >= 0 for r in records)


def test_what_was_drained_is_not_lost_when_the_kernel_overwrites_it(tmp_path: Path) -> None:
    path = tmp_path / "dev/kmsg"
    path.parent.mkdir()
    path.write_bytes(b"")
    log = KernelLog.open(Tree(tmp_path))
    assert isinstance(log, KernelLog)
    with log, path.open("r+b") as file:
        file.write(b"6,1,1,-;one\n")
        file.flush()
        log.drain()
        file.seek(0)
        file.write(b"6,9,9,-;two\n")
        assert [r.message for r in log.since_marker().records] == ["one"]
