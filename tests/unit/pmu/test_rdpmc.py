"""c_helpers/rdpmc.c, up to the instruction itself, which faults where it is not allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest._native import ffi, lib


@given(st.sampled_from([32, 40, 48]), st.integers(-(2**62), 2**62), st.data())
def test_a_counter_is_signed_and_as_wide_as_the_kernel_says(
    width: int, offset: int, data: st.DataObject
) -> None:
    # perf starts a counter at minus what is left of its period, and offset makes up for it.
    value = data.draw(st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1))
    counter = value % 2**width
    assert lib.rdpmc_count(offset, counter, width) == (offset + value) % 2**64


@pytest.mark.parametrize(("rdpmc_allowed", "index"), [(False, 1), (True, 0), (False, 0)])
def test_a_counter_that_may_not_be_read_is_not_touched(rdpmc_allowed: bool, index: int) -> None:
    # struct perf_event_mmap_page: index at 12, offset at 16, capabilities at 40 (bit 2).
    page = ffi.new("uint32_t[1024]")
    page[3], page[4], page[10] = index, 77, rdpmc_allowed << 2
    counts = ffi.new("uint64_t[1]", [5])
    assert lib.rdpmc_read(ffi.new("void *[]", [page]), 1, counts) == -1
    assert counts[0] == 5


def test_no_counters_are_read_at_once() -> None:
    assert lib.rdpmc_read(ffi.NULL, 0, ffi.NULL) == 0
