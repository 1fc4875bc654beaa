"""kvmtest/kvm/tdx_status.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.kvm.tdx_status import line_in_words, status_in_words

# Values of arch/x86/include/asm/shared/tdx_errno.h and arch/x86/include/asm/tdx.h.
STATUSES = {
    0: "TDX_SUCCESS",
    0x8000020000000000 | 0x92: "TDX_OPERAND_BUSY (SEPT); try again",
    0xC000010000000000 | 0x01: "TDX_OPERAND_INVALID (RCX); change that operand",
    0xC000010000000000 | 0x40: "TDX_OPERAND_INVALID (ATTRIBUTES); change that operand",
    0xC000010000000000: "TDX_OPERAND_INVALID (RAX); change that operand",
    0xC000010000000000 | 0x777: "TDX_OPERAND_INVALID (detail 0x777); change that operand",
    0x8000020300000000: "TDX_RND_NO_ENTROPY; try again",
    0x6000000700000000: "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE",
    0x8000FF00FFFF0000: "the SEAMCALL failed at once: no TDX module is loaded, or not allowed here",
    0x8000FF000000000D: "the SEAMCALL took #GP: the firmware did not enable SEAM",
    0x8000FF0000000006: "the SEAMCALL took #UD: VMX is off on this CPU",
    0x8000FF0000000001: "the SEAMCALL failed in software (0x8000ff0000000001)",
    0xC000123400000000: "non-recoverable error 0xc000123400000000 of the TDX module",
    0x8000123400000001: "error 0x8000123400000001 of the TDX module",
    0x0000123400000000: "status 0x0000123400000000 of the TDX module",
}


@pytest.mark.parametrize(("status", "words"), list(STATUSES.items()))
def test_a_status_is_told_by_name_operand_and_remedy(status: int, words: str) -> None:
    assert status_in_words(status) == words


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_any_status_has_words_on_one_line(status: int) -> None:
    words = status_in_words(status)
    assert words
    assert words.isprintable()


# As arch/x86/kvm/vmx/tdx.c and arch/x86/virt/vmx/tdx/ print them.
LINES = {
    "SEAMCALL TDH_MEM_PAGE_AUG failed: 0xc0000b0d00000001, entry 0x0, level_state 0x0":
        "TDX_EPT_ENTRY_STATE_INCORRECT (RCX)",
    "SEAMCALL (0x000000000000000d) failed: 0x8000020000000092":
        "TDX_OPERAND_BUSY (SEPT); try again",
    "TD vp_enter_ret 0x6000000700000000": "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE",
    "TDH_VP_RD[MANAGEMENT.0x20] failed 0xc000010000000001":
        "TDX_OPERAND_INVALID (RCX); change that operand",
}  # fmt: skip


@pytest.mark.parametrize(("line", "words"), list(LINES.items()))
def test_a_status_in_the_kernel_log_is_told_in_words(line: str, words: str) -> None:
    assert line_in_words(line) == f"{line} ({words})"


@pytest.mark.parametrize("line", ["kvm: disabled by bios", "failed: 0x12", "SEAMCALL failed: -5"])
def test_a_line_without_a_status_stays_as_it_is(line: str) -> None:
    assert line_in_words(line) == line
