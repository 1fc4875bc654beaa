"""--require turns what nobody decided into a FAIL, and nothing else."""

import pytest

from kvmtest.judge import Judgement, Verdict
from kvmtest.judge.requirements import Requirement, enforce

REQUIREMENTS = [
    Requirement("witness:btf", frozenset({"kernel.fix-present"})),
    Requirement("kernel.fix-present", frozenset({"kernel.fix-present"})),
    Requirement("any.soak", frozenset({"any.soak"})),
]


@pytest.mark.parametrize("verdict", [Verdict.SKIP, Verdict.INCONCLUSIVE])
def test_what_is_required_and_not_decided_fails_and_says_by_whom(verdict: Verdict) -> None:
    judgement = enforce("kernel.fix-present", Judgement(verdict, "no BTF"), REQUIREMENTS)
    assert judgement == Judgement(
        Verdict.FAIL,
        f"--require witness:btf --require kernel.fix-present, but {verdict}: no BTF",
    )


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - {Verdict.SKIP, Verdict.INCONCLUSIVE}))
def test_what_is_decided_stays_as_it_is(verdict: Verdict) -> None:
    judgement = Judgement(verdict, "because")
    assert enforce("kernel.fix-present", judgement, REQUIREMENTS) is judgement


@pytest.mark.parametrize("verdict", Verdict)
def test_what_is_not_required_stays_as_it_is(verdict: Verdict) -> None:
    judgement = Judgement(verdict, "because")
    assert enforce("vmx.entry.fresh", judgement, REQUIREMENTS) is judgement
    assert enforce("kernel.fix-present", judgement, []) is judgement
