"""kvmtest/fleet/results.py: what a fleet's folder holds, and what is no fleet's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.paper_hosts import evidence_by

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.evidence import load
from kvmtest.fleet.course import Boot, Ended, Ending, Restore, Run
from kvmtest.fleet.ledger import Ledger
from kvmtest.fleet.plan import parse
from kvmtest.fleet.results import LaneRecord, Results
from kvmtest.target import Outcome, TargetFailed

PLAN = "hosts: {a: {ssh: root@a}, l: {lab: intel}}\nkernels: {k: {tree: tree}}\nruns: [{}]\n"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "tree").mkdir()
    return Results.create(tmp_path / "results", parse(PLAN, tmp_path / "plan.yaml"))


def test_a_folder_can_be_opened_wherever_the_plan_s_copy_is(
    results: Results, tmp_path: Path
) -> None:
    again = Results.open(results.folder)
    assert again == results
    assert again.plan.kernels["k"].paths == (tmp_path / "tree",)


def test_each_fleet_names_its_jobs_by_a_token_of_its_own(results: Results, tmp_path: Path) -> None:
    other = Results.create(tmp_path / "other", results.plan)
    step = Run("k", 1, 2)
    assert results.job_id(step) != other.job_id(step)
    assert results.job_id(step) == f"{results.token}.k.1.2"


def test_what_a_killed_fleet_left_before_it_began_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("plan.yaml", "fleet.lock", ".plan.yaml.17", ".fleet.json.17"):
        (folder / name).touch()
    (tmp_path / "tree").mkdir()
    assert Results.create(folder, parse(PLAN, tmp_path / "plan.yaml")).plan.text == PLAN


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("fleet.json", "{", EnvironmentUnfit, "fleet.json: this is not what it was"),
        ("fleet.json", "[]", EnvironmentUnfit, "fleet.json: this is not what it was"),
        ("plan.yaml", PLAN + "\n", UsageError, "was changed since the fleet began"),
        (
            "a/ledger.jsonl",
            '{"at": 1, "ended": "done"}\n',
            EnvironmentUnfit,
            "does not fit the plan",
        ),
    ],
)
def test_what_was_changed_by_others_is_refused(
    results: Results, name: str, text: str, error: type[Exception], said: str
) -> None:
    path = results.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

    def read() -> None:
        again = Results.open(results.folder)
        again.course(again.lanes[0])

    with pytest.raises(error, match=said):
        read()


def test_another_schema_is_refused(results: Results) -> None:
    path = results.folder / "fleet.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": "kvmtest-fleet/9"}))
    with pytest.raises(EnvironmentUnfit, match="its schema is kvmtest-fleet/9"):
        Results.open(results.folder)


def test_evidence_counts_that_its_ledger_does_not_know_of(results: Results) -> None:
    lane = results.lanes[0]
    with LaneRecord(results, lane, lambda *_: "") as record:
        record.note(Boot("k"))
        record.note(Ended(Ending.DONE))
        record.note(Run("k", 1))
        record.keep(Run("k", 1), Outcome(0, evidence_by("a", "k", "x")))
    with LaneRecord(results, lane, lambda *_: "") as record:
        assert record.course.done == {("k", 1): 0}
        assert record.course.next == Restore()


@pytest.mark.parametrize("status", [0, 1, 3, 4, 130])
def test_evidence_that_says_another_status_than_its_run_had_is_not_kept(
    results: Results, status: int
) -> None:
    lane = results.lanes[0]
    evidence = replace(evidence_by("a", "k", "x"), exit_status=0 if status else 1)
    with (
        LaneRecord(results, lane, lambda *_: "") as record,
        pytest.raises(TargetFailed, match=f"^kvmtest ended with status {status}, and its evid"),
    ):
        record.keep(Run("k", 1), Outcome(status, evidence))
    assert not results.evidence(lane, ("k", 1)).exists()


def test_logs_are_bounded_and_printable_and_names_are_ours(results: Results) -> None:
    lane = results.lanes[0]
    files = {"kernel.log": b"\x1b[2Jboot\n\xff", "../../evil": b"x", "matrix.html": b"x"}
    with LaneRecord(results, lane, lambda *_: "words") as record:
        outcome = Outcome(0, evidence_by("a", "k", "x"), files, "line\x07\n")
        assert record.keep(Run("k", 1), outcome) == (0, "words")
    folder = results.run_folder(lane, ("k", 1))
    assert {path.name for path in folder.iterdir()} == {
        "evidence.json",
        "kernel.log",
        "console.log",
    }
    assert (folder / "kernel.log").read_text() == "\ufffd[2Jboot\n\ufffd"
    assert (folder / "console.log").read_text() == "line\ufffd\n"
    assert load(folder) == outcome.evidence


def test_a_lab_machine_s_ledger_is_its_kernel_s(results: Results) -> None:
    ssh, lab = results.lanes
    assert results.ledger(ssh) == results.folder / "a/ledger.jsonl"
    assert results.ledger(lab) == results.folder / "l/k/ledger.jsonl"
    results.ledger(lab).parent.mkdir(parents=True)
    with Ledger(results.ledger(lab)) as ledger:
        ledger.write(Boot("k"))
    assert results.course(lab).at == Boot("k")
