"""host/observe/kernel_log.py: records, and the reports of trouble in them."""

from fuzz.harness import Harness
from kvmtest.host.observe.kernel_log import (
    LogError,
    parse_record,
    split_records,
    troubles,
)
from kvmtest.host.observe.kernel_troubles import FORMS

KINDS = {form.kind for form in FORMS}
LINES = (
    "------------[ cut here ]------------",
    "WARNING: CPU: 1 PID: 5 at arch/x86/kvm/vmx/vmx.c:7600 vmx_vcpu_run+0x1/0x2 [kvm_intel]",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kvmtest:17]",
    "unchecked MSR access error: WRMSR to 0x1d9 (tried to write 0x0000000000004000) at rIP: 0x1",
    "---[ end trace 0000000000000000 ]---",
    "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable",
    "kvm_intel: vmwrite failed: field=2802 val=4000 err=12",
    "BUG kmalloc-64 (Not tainted): Poison overwritten",
    "[ BUG: Invalid wait context ]",
)


def parse(data: bytes) -> None:
    records = [parse_record(part) for part in split_records(data)]
    for trouble in troubles(records):
        assert trouble.kind in KINDS, trouble
        assert trouble.headline, trouble
        assert trouble.lines, trouble
    assert not troubles(record for record in records if not record.is_from_kernel)


def kmsg(lines: tuple[str, ...]) -> bytes:
    return "".join(f"4,{at},{at * 10},-;{line}\n" for at, line in enumerate(lines, 1)).encode()


HARNESS = Harness(
    parse=parse,
    seeds=(
        kmsg(LINES),
        *(kmsg((line,)) for line in LINES),
        b"6,1,2,c,caller=T1;usb 1-1: new\\x0adevice\n SUBSYSTEM=usb\n DEVICE=c189:1\n",
        b"12,1,2,-;from user space\n",
    ),
    refusals=(LogError,),
    longest=2048,
)
