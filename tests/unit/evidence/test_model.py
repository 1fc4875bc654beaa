"""Evidence becomes JSON and comes back the same."""

import json

from hypothesis import given
from support.evidence_samples import evidence_of
from support.evidence_strategies import EVIDENCE, RESULTS

from kvmtest.evidence import SCHEMA, Evidence, Result
from kvmtest.judge import Role, Verdict, claim, control, measure


@given(EVIDENCE)
def test_evidence_survives_json(evidence: Evidence) -> None:
    data = json.loads(json.dumps(evidence.to_dict()))
    assert Evidence.from_dict(data) == evidence


@given(RESULTS)
def test_what_comes_back_has_its_types(result: Result) -> None:
    data = evidence_of([result]).to_dict()
    (back,) = Evidence.from_dict(json.loads(json.dumps(data))).results
    assert isinstance(back.verdict, Verdict)
    assert all(isinstance(reading.role, Role) for reading in back.readings)
    assert [str(reading) for reading in back.readings] == [str(r) for r in result.readings]


def test_a_lab_s_name_says_which_modules_are_not_its_kernel_s() -> None:
    lab = {"emulator": "Bochs", "version": "2.7", "model": "m", "lacks": {}}
    names = []
    parts: list[dict[str, object]] = [
        {},
        {"details": {}},
        {"details": {"modules_laid_over": "kvm.ko"}},
    ]
    for details in parts:
        names.append(evidence_of(lab={**lab, **details}).machine_name)
    stock = "lab (Bochs 2.7, m)"
    assert names == [stock, stock, "lab (Bochs 2.7, m; kvm.ko laid over the kernel's)"]


@given(EVIDENCE)
def test_the_summary_counts_every_result_once(evidence: Evidence) -> None:
    assert set(evidence.summary) == set(Verdict)
    assert sum(evidence.summary.values()) == len(evidence.results)


def test_the_top_level_is_what_the_design_promises() -> None:
    data = evidence_of().to_dict()
    assert data["schema"] == SCHEMA
    promised = "schema kvmtest machine host kernel journal results summary exit_status"
    assert set(promised.split()) <= set(data)


def test_readings_know_bools_from_numbers_after_the_round_trip() -> None:
    readings = [
        control("btf", "c", True, True, "do"),
        claim("btf", "x", 1, True),
        measure("btf", "m", 0.5),
    ]
    result = Result("kernel.fix-present", Verdict.FAIL, "r", readings=readings)
    data = evidence_of([result]).to_dict()
    (back,) = Evidence.from_dict(json.loads(json.dumps(data))).results
    assert [type(r.observed) for r in back.readings] == [bool, int, float]
    assert [r.agrees for r in back.readings] == [r.agrees for r in readings]
