"""host/observe/vmcs_dump.py: the lines of dumps in the kernel log."""

from support.vmcs_lines import dump_lines, records

from fuzz.harness import Harness
from kvmtest.host.observe.vmcs_dump import dump_of, parse_dumps

FS_BASE = 0xDEAD_BEEF_0000_0001
OTHER = dump_lines(1, 0, prefix="")


def parse(data: bytes) -> None:
    log = records(data.decode(errors="replace").split("\n"))
    parse_dumps(log)
    dump_of(log, FS_BASE)


def text(lines: list[str]) -> bytes:
    return "\n".join(lines).encode()


HARNESS = Harness(
    parse=parse,
    seeds=(
        text(dump_lines(FS_BASE, 1 << 14)),
        text(OTHER + dump_lines(FS_BASE, 0, cpu=-1)),
        text([line for line in OTHER if "Control State" not in line]),
    ),
)
