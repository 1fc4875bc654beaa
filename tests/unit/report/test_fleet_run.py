"""kvmtest/report/fleet_run.py: a run is called as the plan calls it."""

from support.evidence_samples import evidence_of

from kvmtest.evidence import Result
from kvmtest.fleet.gaps import Gap, WhyNot
from kvmtest.judge import Verdict
from kvmtest.report.fleet_run import by_host, kernels, with_evidence, without
from kvmtest.report.matrix_run import of_evidence


def test_evidence_is_of_the_host_that_the_plan_names() -> None:
    passed = Result("any.soak", Verdict.PASS, "r")
    row = of_evidence("x", evidence_of([passed], hostname="says-another"), "link")
    first, second = (with_evidence("spr", "new", number, row) for number in (1, 2))
    assert (first.run.name, second.run.name) == ("spr", "spr 2")
    assert first.run.machine.startswith("Intel")
    assert not first.is_wrong


def test_a_gap_says_why_in_one_line_and_is_never_good() -> None:
    run = without("spr", "new", 1, WhyNot(Gap.LOST, "no answer\nfor 900 s"))
    assert run.run.failure == "lost: no answer for 900 s"
    assert run.is_wrong
    assert without("spr", "new", 1, WhyNot(Gap.NOT_RUN)).run.failure == "not run"


def test_hosts_and_kernels_keep_the_order_of_the_plan() -> None:
    never = WhyNot(Gap.NOT_RUN)
    runs = [without(*key, never) for key in (("b", "2", 1), ("b", "1", 1), ("a", "2", 1))]
    assert kernels(runs) == ["2", "1"]
    assert {host: len(mine) for host, mine in by_host(runs).items()} == {"b": 2, "a": 1}
    assert list(by_host(runs)) == ["b", "a"]
