"""MRTD, against the bytes that the ABI specification hashes."""

import hashlib

from support.tdx_standin.measurement import Measurement

GPA = 0x123456789000
PAGE = bytes(range(256)) * 16


def added(gpa: int) -> bytes:
    return b"MEM.PAGE.ADD" + bytes(4) + gpa.to_bytes(8, "little") + bytes(104)


def extended(gpa: int) -> bytes:
    return b"MR.EXTEND" + bytes(7) + gpa.to_bytes(8, "little") + bytes(104)


def test_an_empty_td_has_the_digest_of_nothing() -> None:
    assert Measurement().value() == hashlib.sha384(b"").digest()


def test_a_page_is_measured_by_its_address_and_then_its_chunks() -> None:
    measurement = Measurement()
    measurement.add_page(GPA)
    measurement.extend(GPA, PAGE)
    chunks = (extended(GPA + at) + PAGE[at : at + 256] for at in range(0, 4096, 256))
    assert measurement.value() == hashlib.sha384(added(GPA) + b"".join(chunks)).digest()


def test_a_page_that_is_only_added_is_measured_without_its_content() -> None:
    measurement = Measurement()
    measurement.add_page(GPA)
    assert measurement.value() == hashlib.sha384(added(GPA)).digest()


def test_the_order_of_pages_counts() -> None:
    values = []
    for order in ((0, 4096), (4096, 0)):
        measurement = Measurement()
        for gpa in order:
            measurement.add_page(gpa)
        values.append(measurement.value())
    assert values[0] != values[1]
