"""make chaos: kills are counted, and a host that is not put back is told."""

import sys
from collections.abc import Generator

import chaos
import pytest
from support.sigkill import FILES, KNOBS, StandIn

from kvmtest.checks import Context
from kvmtest.host.changes.journal import Journal
from kvmtest.judge import Reading

SEED = 20261129
KILLS = 36

Capture = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, kills: int = KILLS) -> int:
    monkeypatch.setattr(sys, "argv", ["chaos", f"--kills={kills}", f"--seed={SEED}"])
    return chaos.main()


def test_all_hosts_are_put_back_whoever_is_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"chaos: seed {SEED}" in said
    assert f"{KILLS} runs killed in " in said
    assert said.rstrip().endswith("; 0 hosts not restored")
    for way in chaos.WAYS:
        assert f"\n{way.name} " in said


def test_a_run_that_changes_the_host_behind_the_journal_s_back_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def cheat(journal: Journal, stand_in: StandIn) -> None:
        path = stand_in.tree.path(KNOBS[0])
        for _ in range(200):
            path.write_text("0\n")
            journal.write("/proc/sys/kernel/nmi_watchdog", "0")
        path.write_text(FILES[KNOBS[0]])

    monkeypatch.setattr(chaos, "meddle", cheat)
    assert run(monkeypatch, 6) == 1
    assert f"NOT RESTORED (seed {SEED}): run" in capsys.readouterr().out


def test_kills_that_meet_few_changes_prove_little(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(chaos, "WAYS", (chaos.Way("run"),))
    monkeypatch.setattr(chaos, "LEAST", 1.1)
    assert run(monkeypatch, 3) == 1
    assert "of 3 kills met a change: that proves little" in capsys.readouterr().out


def test_a_run_that_changes_nothing_is_no_victim(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def idle(_: Context) -> Generator[Reading, None, None]:
        yield from ()

    monkeypatch.setattr(chaos, "_meddling", lambda *_: lambda prop: idle)
    assert run(monkeypatch, 3) == 1
    assert "a run records no changes" in capsys.readouterr().out
