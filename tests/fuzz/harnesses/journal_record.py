"""host/changes/journal/record.py: the record of changes, as a power cut or another hand left it.

Every line is also given the checksum that it must have, which random bytes never have.
"""

import zlib

from fuzz.harness import Harness
from kvmtest.host.changes.journal import Entry, Header, JournalError, encode, parse

SEED = b"".join(
    encode(line)
    for line in (
        Header(17, 4711, "00000000-0000-4000-8000-000000000000", "2026-01-02T03:04:05Z", "kvmtest"),
        Entry(1, "write 0 to it", "write", {"path": "/sys/devices/cpu/freeze_on_smi", "text": "1"}),
        Entry(2, "append", "append", {"path": "/sys/kernel/tracing/kprobe_events", "text": "-:a"}),
        Entry(3, "make", "rmdir", {"path": "/sys/kernel/tracing/instances/a"}),
        Entry(4, "reload", "reload", {"module": "kvm_intel", "parameters": ["nested=Y"]}),
        Entry(5, "write", "variable", {"path": "/sys/firmware/efi/efivars/a-b", "data": "07"}),
    )
)


def _parse(data: bytes) -> None:
    record = parse(summed(data))
    if record.header:
        again = b"".join(map(encode, (record.header, *record.entries)))
        assert parse(again) == record
    parse(data)


def summed(data: bytes) -> bytes:
    lines = [line.partition(b" ")[2] for line in data.split(b"\n")]
    return b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in lines[:-1])


HARNESS = Harness(parse=_parse, seeds=(SEED, SEED[:-7], b""), refusals=(JournalError,))
