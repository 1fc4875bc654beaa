"""A missing thing has a reason in short, for lines with little room."""

import pytest

from kvmtest.missing import Missing

PMU = "this virtual machine has no PMU (no cpu PMU in sysfs)"


@pytest.mark.parametrize(
    ("what", "brief"),
    [
        ("module msr is not loaded", "module msr is not loaded"),
        (PMU, "this virtual machine has no PMU"),
        (f"there is no freeze_on_smi: {PMU}", "this virtual machine has no PMU"),
        (f"nothing counts SMIs: {PMU}; there is no MSR", "this virtual machine has no PMU"),
        ("a (b) c (d), e", "a c, e"),
        ("it may not be opened (EPERM): CAP_SYS_RAWIO is missing", "CAP_SYS_RAWIO is missing"),
    ],
)
def test_a_reason_in_short_is_the_first_cause_without_parentheses(what: str, brief: str) -> None:
    assert Missing(what).brief == brief
