"""make chaos, fleets: kills are counted, and what is lost is told."""

import sys

import fleet_chaos
import pytest
from support.paper_hosts import PaperHost

from kvmtest.fleet.results import LaneRecord
from kvmtest.target import Job, Outcome

SEED = 20261130
KILLS = 9

Capture = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, kills: int = KILLS) -> int:
    monkeypatch.setattr(sys, "argv", ["fleet_chaos", f"--kills={kills}", f"--seed={SEED}"])
    return fleet_chaos.main()


def test_nothing_is_lost_or_doubled_whoever_is_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    # Few kills meet a host at work by chance alone.
    monkeypatch.setattr(fleet_chaos, "LEAST", 0.1)
    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"fleet chaos: seed {SEED}" in said
    assert f"{KILLS} fleets killed in " in said
    assert said.rstrip().endswith("; 0 problems")
    for way in fleet_chaos.WAYS:
        assert f"\n{way} " in said


def test_a_host_that_is_not_put_back_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(PaperHost, "restore", lambda *_: None)
    assert run(monkeypatch, 1) == 1
    assert "spr is not as it was" in capsys.readouterr().out


def test_a_job_that_is_started_again_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    own = PaperHost.run

    def run_anew(host: PaperHost, job: Job) -> Outcome:
        host._become({"job": job.id})
        return own(host, job)

    monkeypatch.setattr(PaperHost, "run", run_anew)
    assert run(monkeypatch, 1) == 1
    assert "was started 2 times" in capsys.readouterr().out


def test_evidence_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(LaneRecord, "keep", lambda *_: (0, "forgotten"))
    assert run(monkeypatch, 1) == 1
    assert "spr/own/1/evidence.json is missing" in capsys.readouterr().out
