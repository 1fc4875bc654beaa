"""A group's read is taken apart: event by event, and a group that lost its counters is told."""

import struct

import pytest

from kvmtest.pmu.counts import Counts, GroupFormat

FORMAT = GroupFormat(["instructions:u", "cycles:u"], [71, 72])


def data(enabled: int, running: int, *values_and_ids: int) -> bytes:
    return struct.pack("=5Q", 2, enabled, running, *values_and_ids[:2]) + struct.pack(
        "=2Q", *values_and_ids[2:]
    )


def test_counts_have_their_events_names() -> None:
    read = data(1000, 900, 5, 71, 2**64 - 1, 72)
    assert FORMAT.size == len(read)
    counts = FORMAT.decode(read)
    assert counts == Counts(("instructions:u", "cycles:u"), (5, 2**64 - 1), 1000, 900)
    assert counts.by_name() == {"instructions:u": 5, "cycles:u": 2**64 - 1}
    assert counts.of("cycles:u") == 2**64 - 1
    with pytest.raises(KeyError):
        counts.of("cycles")


def test_what_happened_between_two_reads_is_their_difference() -> None:
    before, after = (
        FORMAT.decode(data(10, 9, 1, 71, 2, 72)),
        FORMAT.decode(data(30, 27, 11, 71, 102, 72)),
    )
    assert before
    assert after
    assert after - before == Counts(before.names, (10, 100), 20, 18)


def test_end_of_file_has_no_counts() -> None:
    assert FORMAT.decode(b"") is None


def test_counts_of_other_events_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(72, 71\), not of \(71, 72\)"):
        FORMAT.decode(data(10, 10, 1, 72, 2, 71))
