"""The lines of a VMCS dump, as kvm_intel of Linux 6.12 writes them."""

from collections.abc import Iterable, Sequence

from kvmtest.host.observe.kernel_log import Record

PREFIX = "kvm_intel: "

LINES = """\
VMCS 0000000084fa93d4, last attempted VM-entry on CPU {cpu}
*** Guest State ***
CR0: actual=0x0000000080000033, shadow=0x0000000080000033, gh_mask=fffffffffffefff7
CR3 = 0x0000000000002000
RSP = 0x0000000000008000  RIP = 0x000000000000801e
CS:   sel=0x0008, attr=0x0a09b, limit=0xffffffff, base=0x0000000000000000
FS:   sel=0x0010, attr=0x0c093, limit=0xffffffff, base=0x{fs_base:016x}
GS:   sel=0x0010, attr=0x0c093, limit=0xffffffff, base=0x0000000000000000
GDTR:                           limit=0x00000017, base=0x0000000000008440
EFER= 0x0000000000000500
DebugCtl = 0x{debugctl:016x}  DebugExceptions = 0x{exceptions:016x}
Interruptibility = 00000000  ActivityState = 00000000
*** Host State ***
RIP = 0xffffffffc039bc70  RSP = 0xffffc900005d7b08
CS=0010 SS=0018 DS=0000 ES=0000 FS=0000 GS=0000 TR=0040
FSBase=00007f4786f0eb80 GSBase=ffff88801a000000 TRBase=fffffe0000003000
*** Control State ***
CPUBased=0xb5986dfa SecondaryExec=0x0200146a TertiaryExec=0x0000000000000000
PinBased=0x0000007f EntryControls={controls:08x} ExitControls=002befff
VMExit: intr_info=00000000 errcode=00000000 ilen=00000003
        reason=80000021 qualification=0000000000000000
Virtual processor ID = 0x0001
"""


def dump_lines(
    fs_base: int,
    debugctl: int,
    *,
    cpu: int = 0,
    exceptions: int = 0,
    controls: int = 0xD3FF,
    prefix: str = PREFIX,
) -> list[str]:
    text = LINES.format(
        fs_base=fs_base, debugctl=debugctl, cpu=cpu, exceptions=exceptions, controls=controls
    )
    return [f"{prefix}{line}" for line in text.splitlines()]


def records(lines: Iterable[str], facility: int = 0) -> list[Record]:
    """Return the lines as records of the kernel log."""
    return [Record(3, facility, at, at * 10, "-", line) for at, line in enumerate(lines, 1)]


def as_kmsg(lines: Sequence[str], first: int = 1) -> bytes:
    """Return the lines as /dev/kmsg has them, from that sequence number on."""
    return "".join(f"3,{first + at},{at},-;{line}\n" for at, line in enumerate(lines)).encode()
