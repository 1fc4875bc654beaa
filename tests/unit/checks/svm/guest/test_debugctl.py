"""svm.guest.debugctl: what is expected of which kernel, and what it comes to on a KVM."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_kvm import Decide, mutants_of

from kvmtest.checks.svm.guest.debugctl import WRITES, Expected, expected
from kvmtest.judge import Verdict

VALUES = st.one_of(st.sampled_from(WRITES), st.integers(0, (1 << 64) - 1))
VERSIONS = st.one_of(st.none(), st.tuples(*[st.integers(0, 250)] * 3))


@given(VALUES, VERSIONS)
def test_without_virtual_lbrs_any_write_is_taken_and_dropped(
    value: int, version: tuple[int, int, int] | None
) -> None:
    assert expected(value, lbrv=False, version=version) == Expected("taken", 0)


@given(VALUES, VERSIONS)
def test_no_kernel_gives_a_guest_bits_that_only_intel_has(
    value: int, version: tuple[int, int, int] | None
) -> None:
    outcome, read = expected(value, lbrv=True, version=version)
    assert (outcome == "refused") == bool(value >> 6)
    assert read is None or not read >> 6


@pytest.mark.parametrize(
    ("version", "keeps"),
    [
        ((5, 10, 0), True),
        ((6, 12, 18), True),
        ((6, 12, 19), False),
        ((6, 12, 117), False),
        ((6, 14, 0), False),
        ((7, 3, 4), False),
    ],
)
def test_old_kernels_keep_bits_that_later_ones_drop(
    version: tuple[int, int, int], *, keeps: bool
) -> None:
    for value in (1 << 1, 1 << 2, 0b111110, 0b111111):
        wanted = value if keeps else value & 1
        assert expected(value, lbrv=True, version=version) == Expected("taken", wanted)


@pytest.mark.parametrize("version", [None, (6, 1, 192), (6, 6, 100), (6, 13, 5)])
def test_where_a_backport_is_not_known_nothing_is_claimed_of_these_bits(
    version: tuple[int, int, int] | None,
) -> None:
    assert expected(1 << 1, lbrv=True, version=version) == Expected("taken", None)
    assert expected(1, lbrv=True, version=version) == Expected("taken", 1)
    assert expected(1 << 14, lbrv=True, version=version) == Expected("refused", 0)


def test_a_kvm_without_virtual_lbrs_passes(decide: Decide) -> None:
    decided = decide("svm.guest.debugctl")
    assert (decided.verdict, decided.speakers) == (Verdict.PASS, {"guest"})


@pytest.mark.parametrize(("owner", "mutant"), mutants_of("svm.guest.debugctl"))
def test_a_mutant_fails_its_owner(decide: Decide, owner: str, mutant: str) -> None:
    assert decide(owner, mutant).verdict is Verdict.FAIL


@pytest.mark.parametrize("hidden", ["MSRs", "faults"])
def test_where_the_guest_reads_msrs_wrongly_nothing_is_decided(decide: Decide, hidden: str) -> None:
    assert decide("svm.guest.debugctl", hides=hidden).verdict is Verdict.INCONCLUSIVE


def test_on_a_cpu_that_has_no_virtual_lbrs_a_kvm_with_them_decides_nothing(decide: Decide) -> None:
    assert decide("svm.guest.debugctl", lbrv=True).verdict is Verdict.INCONCLUSIVE
