"""The table of the series, and what follows from findings on its commits."""

import re

import pytest

from kvmtest.kernels.series import (
    FIX,
    QUIRK,
    SERIES,
    TDX,
    VMCS12_CHECK,
    Commit,
    Evidence,
    Finding,
    State,
    advice,
    finding_of,
    merged,
    unknown,
)


def found(absent: tuple[Commit, ...] = (), unseen: tuple[Commit, ...] = ()) -> tuple[Finding, ...]:
    """Return findings of which all others are present."""
    states = dict.fromkeys(SERIES, State.PRESENT)
    states |= dict.fromkeys(absent, State.ABSENT) | dict.fromkeys(unseen, State.UNKNOWN)
    return tuple(Finding(commit, state, (Evidence.TYPES,)) for commit, state in states.items())


def test_a_commit_is_named_by_twelve_digits_and_its_release() -> None:
    assert len({commit.id for commit in SERIES}) == len(SERIES) == 9
    for commit in SERIES:
        assert re.fullmatch("[0-9a-f]{12}", commit.id)
        assert commit.mainline in {(6, 17), (7, 0)}
    assert [commit.id[:4] for commit in (TDX, VMCS12_CHECK, FIX, QUIRK)] == [
        "7d39",
        "0956",
        "6b1d",
        "e2ff",
    ]


def test_types_and_code_that_agree_are_both_the_evidence() -> None:
    types = Finding(FIX, State.PRESENT, (Evidence.TYPES,), "a member")
    code = Finding(FIX, State.PRESENT, (Evidence.CODE,), "a test of bit 2")
    both = finding_of(FIX, merged([types], [code]))
    assert both.evidence == (Evidence.TYPES, Evidence.CODE)
    assert both.observation == "a member; a test of bit 2"


def test_code_that_denies_a_commit_outweighs_types() -> None:
    types = Finding(FIX, State.PRESENT, (Evidence.TYPES,), "HOST_OWNED_DEBUGCTL is there")
    code = Finding(FIX, State.ABSENT, (Evidence.CODE,), "vmx_vcpu_run tests no flag")
    both = finding_of(FIX, merged([types], [code]))
    assert both.state is State.ABSENT
    assert both.evidence == (Evidence.CODE,)
    assert both.observation == "vmx_vcpu_run tests no flag, although HOST_OWNED_DEBUGCTL is there"


def test_looks_that_decide_nothing_leave_their_reason() -> None:
    one, other = unknown("no types"), unknown("no capstone")
    assert finding_of(FIX, merged(one, other)).observation == "no types; no capstone"
    assert {finding.state for finding in merged(one)} == {State.UNKNOWN}


def test_without_the_check_of_vmcs12_and_with_the_fix_no_quirk_is_needed() -> None:
    kernel = merged(found(absent=(VMCS12_CHECK, QUIRK)))
    assert finding_of(QUIRK, kernel).unneeded
    assert finding_of(VMCS12_CHECK, kernel).is_missing


def test_without_the_fix_the_quirk_is_to_come_with_the_series() -> None:
    kernel = merged(found(absent=(VMCS12_CHECK, FIX, QUIRK)))
    assert finding_of(QUIRK, kernel).is_missing


@pytest.mark.parametrize(
    ("absent", "version", "words"),
    [
        ((), (7, 3, 4), "Nothing is missing."),
        ((QUIRK,), (6, 12, 74), "Backport e2ffe85b6d2b, or take 6.12.78, which has it."),
        (
            (QUIRK,),
            (6, 1, 192),
            "Backport e2ffe85b6d2b: no 6.1.y release has it, mainline v7.0 does.",
        ),
        (
            SERIES[1:],
            (6, 12, 40),
            "Backport 2478b1b220c4, 80c64c7afea1, 17ec2f965344, 8a4351ac302c, 095686e6fcb4, "
            "7d0cce6cbe71, 6b1dd26544d0 and e2ffe85b6d2b, or take 6.12.78, which has them.",
        ),
        (
            SERIES,
            (5, 10, 262),
            "Backport the whole series, 7d390a9da823 to 6b1dd26544d0, and e2ffe85b6d2b: "
            "no 5.10.y release has them, mainline v7.0 does.",
        ),
        (
            (FIX, QUIRK),
            (6, 6, 90),
            "Backport 6b1dd26544d0 and e2ffe85b6d2b: 6.6.103 has them but e2ffe85b6d2b, which "
            "mainline v7.0 has.",
        ),
        ((FIX,), None, "Backport 6b1dd26544d0 (all in mainline v6.17)."),
        ((FIX,), (7, 3, 4), "Backport 6b1dd26544d0, or take 7.3, which has it."),
        (
            (FIX, QUIRK),
            (6, 19, 2),
            "Backport 6b1dd26544d0 and e2ffe85b6d2b, or take 6.19.9, which has them.",
        ),
        (
            (FIX, QUIRK),
            (6, 17, 8),
            "Backport 6b1dd26544d0 and e2ffe85b6d2b: 6.17 has them but e2ffe85b6d2b, which "
            "mainline v7.0 has.",
        ),
    ],
)
def test_advice_is_one_sentence(
    absent: tuple[Commit, ...], version: tuple[int, int, int] | None, words: str
) -> None:
    assert advice(found(absent=absent), version) == words


def test_what_is_not_needed_is_not_advised() -> None:
    kernel = [
        Finding(TDX, State.ABSENT, unneeded="it has no TDX") if each.commit == TDX else each
        for each in found()
    ]
    assert advice(kernel, (6, 12, 118)) == "Nothing is missing."


def test_what_could_not_be_seen_is_told() -> None:
    assert "17ec2f965344 could not be seen" in advice(found(unseen=(SERIES[3],)), (7, 3, 4))
    assert advice(unknown(), (6, 12, 1)).startswith("Nothing can be advised")
