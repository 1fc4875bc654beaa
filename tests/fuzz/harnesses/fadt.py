"""host/facts/fadt.py: the ACPI table FACP, as it is, and with length and sum made right."""

from support.stand_in import XEON, fadt_table

from fuzz.harness import Harness
from kvmtest.host.facts.fadt import FadtError, parse_fadt


def parse(data: bytes) -> None:
    fadt = parse_fadt(mended(data))
    assert 0 in fadt.refused or len(fadt.refused) >= 1
    fadt.hardware_reduced  # noqa: B018
    parse_fadt(data)


def mended(data: bytes) -> bytes:
    """Make length and checksum right, which random bytes never have."""
    table = bytearray(data)
    table[4:8] = len(table).to_bytes(4, "little")
    table[9:10] = b"\0"
    table[9:10] = bytes([-sum(table) & 0xFF])
    return bytes(table)


HARNESS = Harness(
    parse=parse,
    seeds=(fadt_table(XEON), fadt_table(XEON, 116)),
    refusals=(FadtError,),
    longest=512,
)
