"""kvmtest fleet: plans over hosts on paper, and over the lab with a stand-in of its emulator."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from support.evidence_samples import in_lab
from support.lab_emulator import BOCHS, Emulator, evidence
from support.paper_hosts import OWN_STATE, PaperHost
from support.sigkill import children

import kvmtest.commands.fleet_run
from kvmtest.cli import main
from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.drive import Opening
from kvmtest.fleet.plan import Plan
from kvmtest.fleet.tasks import Lane
from kvmtest.judge import Verdict
from kvmtest.target import Job, Outcome, TargetFailed

Capture = pytest.CaptureFixture[str]

PLAN = """\
hosts:
  spr: {ssh: root@spr}
  emr: {ssh: root@emr}
kernels:
  own: {own: true}
  new: {debian: 6.18}
runs:
  - {}
"""


class Fleet:
    """A plan over hosts on paper."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.hosts = {name: PaperHost.made(name, folder) for name in ("spr", "emr")}
        self.plan = folder / "plan.yaml"
        self.plan.write_text(PLAN)
        self.results = folder / "results"
        patch.setattr(kvmtest.commands.fleet_run, "opening", self._opening)

    def _opening(self, _: Plan, lane: Lane, *more: object, **named: object) -> Opening:
        return self.hosts[lane.host.name].opened

    def run(self, *words: str) -> int:
        return main(["fleet", "run", str(self.plan), "-o", str(self.results), *words])

    def resume(self) -> int:
        return main(["fleet", "resume", str(self.results)])

    def status(self) -> int:
        return main(["fleet", "status", str(self.results)])

    @property
    def kept(self) -> list[str]:
        found = self.results.rglob("evidence.json")
        return sorted(str(path.parent.relative_to(self.results)) for path in found)


ALL = ["emr/new/1", "emr/own/1", "spr/new/1", "spr/own/1"]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(tmp_path, monkeypatch)


def test_a_fleet_leaves_the_evidence_of_every_run_and_reports(
    fleet: Fleet, capsys: Capture
) -> None:
    assert fleet.run() == 0
    assert fleet.kept == ALL
    run = {path.name for path in (fleet.results / "spr/new/1").iterdir()}
    assert {"evidence.json", "ktap.txt", "junit.xml", "kernel.log"} <= run
    made = {path.name for path in fleet.results.iterdir()}
    assert {"plan.yaml", "matrix.html", "matrix.json", "junit.xml", "kcidb.json"} <= made
    assert (fleet.results / "plan.yaml").read_text() == PLAN
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == [
        "PASS:", "4", "of", "4", "runs", "pass", "exit", "0"
    ]  # fmt: skip
    assert "kvmtest: fleet: spr: new 1: PASS: 1 property holds in Linux new" in captured.err
    assert "2 of 2 runs kept, the host is as it was" in captured.err


def test_a_folder_that_holds_files_is_not_taken(fleet: Fleet, capsys: Capture) -> None:
    fleet.results.mkdir()
    (fleet.results / "mine").touch()
    assert fleet.run() == 2
    assert "it holds files (mine); choose a new folder" in capsys.readouterr().err
    (fleet.results / "mine").unlink()
    assert fleet.run() == 0
    assert fleet.run() == 2
    assert f"it holds a fleet's results; kvmtest fleet resume {fleet.results}" in (
        capsys.readouterr().err
    )


def test_a_lost_host_stops_no_other_and_a_resume_takes_it_up(fleet: Fleet, capsys: Capture) -> None:
    fleet.hosts["emr"].trouble(boot_own="lost", restore="lost")
    assert fleet.run() == 3
    assert fleet.kept == ["spr/new/1", "spr/own/1"]
    said = capsys.readouterr().out
    assert "ERROR: 2 of 4 runs left no evidence" in said
    assert "emr  0/2  LOST: emr does not answer" in said
    assert f"Next: kvmtest fleet resume {fleet.results}" in said
    fleet.hosts["emr"].trouble()
    before = fleet.hosts["spr"].history
    assert fleet.resume() == 0
    assert fleet.kept == ALL
    assert fleet.hosts["spr"].history == before
    assert fleet.hosts["emr"].state == OWN_STATE


def test_status_has_the_exit_status_of_the_fleet(fleet: Fleet, capsys: Capture) -> None:
    fleet.hosts["emr"].trouble(boot_new="unfit")
    assert fleet.run() == 3
    capsys.readouterr()
    assert fleet.status() == 3
    said = capsys.readouterr().out
    assert "emr  1/2  1 pass; 1 given up" in said
    assert "emr new 1: boot unfit: emr can't have that; give it another" in said
    fleet.hosts["emr"].trouble()
    assert (fleet.resume(), fleet.status()) == (0, 0)


def test_the_matrix_is_made_anew_from_what_is_kept(fleet: Fleet) -> None:
    fleet.run()
    for name in ("matrix.html", "matrix.json"):
        (fleet.results / name).unlink()
    assert main(["fleet", "matrix", str(fleet.results)]) == 0
    assert (fleet.results / "matrix.html").exists()
    assert json.loads((fleet.results / "matrix.json").read_text())


def test_a_run_that_was_tried_again_is_told(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    own = PaperHost.run

    def run(host: PaperHost, job: Job) -> Outcome:
        if host.name == "spr" and job.id.endswith(".new.1.0"):
            raise TargetFailed("its kernel panicked", "")
        return own(host, job)

    monkeypatch.setattr(PaperHost, "run", run)
    assert fleet.run() == 0
    said = capsys.readouterr().out
    assert "spr  2/2  2 pass; 1 tried again" in said
    assert "emr  2/2  2 pass\n" in said


def test_a_report_that_can_not_be_written_is_no_pass(fleet: Fleet, capsys: Capture) -> None:
    assert fleet.run() == 0
    (fleet.results / "matrix.json").unlink()
    (fleet.results / "matrix.json").mkdir()
    capsys.readouterr()
    assert fleet.resume() == 3
    captured = capsys.readouterr()
    assert captured.out.startswith(f"ERROR: can't write {fleet.results}/matrix.json"[:60])
    assert "matrix.json: Is a directory" in captured.err
    (fleet.results / "matrix.json").rmdir()
    assert fleet.resume() == 0


def test_evidence_that_can_no_longer_be_read_is_no_pass(fleet: Fleet, capsys: Capture) -> None:
    assert fleet.run() == 0
    (fleet.results / "spr/new/1/evidence.json").write_text("{")
    capsys.readouterr()
    assert fleet.resume() == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("ERROR: spr/new/1: ")
    assert "not JSON, or cut short" in captured.err


def test_a_host_that_can_not_be_given_back_is_no_pass(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    @contextmanager
    def opened(host: PaperHost) -> Iterator[PaperHost]:
        yield host
        raise EnvironmentUnfit(f"the place of {host.name} is not released; release it")

    monkeypatch.setattr(PaperHost, "opened", opened)
    assert fleet.run() == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("ERROR: spr: the place of spr is not released; release it")
    assert "kvmtest: emr: the place of emr is not released; release it" in captured.err
    assert fleet.kept == ALL


def test_a_dry_run_says_what_would_be_done_and_does_nothing(fleet: Fleet, capsys: Capture) -> None:
    assert fleet.run("--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[:6] == [
        "spr (ssh root@spr)",
        "  boot own",
        "  run own 1",
        "  boot new",
        "  run new 1",
        "  put back: its own kernel, nothing left there",
    ]
    assert not fleet.results.exists()
    assert fleet.hosts["spr"].history == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("- {}", "- {require: [vmx.nothing]}", "plan.yaml:8: on spr: "),
        ("- {}", "- {options: --only none.such}", "plan.yaml:8: on spr: "),
        ("- {}", "- {hosts: [x]}", "plan.yaml:8: there is no host x"),
        ("6.18}", "6.18", "plan.yaml:7: "),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_its_line(
    fleet: Fleet, capsys: Capture, old: str, new: str, said: str
) -> None:
    fleet.plan.write_text(PLAN.replace(old, new))
    assert fleet.run() == 2
    assert said in capsys.readouterr().err
    assert not fleet.results.exists()


def test_a_plan_that_was_changed_is_no_resume(fleet: Fleet, capsys: Capture) -> None:
    fleet.run()
    (fleet.results / "plan.yaml").write_text(PLAN.replace("6.18", "6.19"))
    assert fleet.resume() == 2
    assert "was changed since the fleet began" in capsys.readouterr().err


def test_a_folder_that_is_no_fleet_s_is_an_error_of_one_line(
    tmp_path: Path, capsys: Capture
) -> None:
    for command in ("resume", "status", "matrix"):
        assert main(["fleet", command, str(tmp_path)]) == 3
        assert capsys.readouterr().err.count("\n") == 1


def test_without_a_folder_only_a_dry_run_is_possible(fleet: Fleet, capsys: Capture) -> None:
    assert main(["fleet", "run", str(fleet.plan)]) == 2
    assert "name the folder of the results: -o DIR" in capsys.readouterr().err


class Hanging:
    """Hosts that hang for ever, and the command that waits for them."""

    def __init__(self, folder: Path) -> None:
        self._fifo = folder / "hangs"
        os.mkfifo(self._fifo)
        self._said, self._says = os.pipe()

    def hang(self) -> None:
        os.write(self._says, b"hangs\n")
        self._fifo.read_text()

    def await_hosts(self) -> None:
        """Wait until both hosts hang."""
        said = b""
        while said.count(b"\n") < 2:
            said += os.read(self._said, 100)

    @contextmanager
    def started(self, fleet: Fleet) -> Iterator[ForkProcess]:
        command = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(fleet.run()))
        command.start()
        try:
            yield command
        finally:
            # They hang for ever where the command does not end.
            for host in children(command.pid or 0):
                os.kill(host, signal.SIGKILL)
            command.kill()


def test_a_second_ctrl_c_leaves_hosts_to_a_resume(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    hanging = Hanging(tmp_path)
    monkeypatch.setattr(PaperHost, "run", lambda *_: hanging.hang())
    monkeypatch.setattr(PaperHost, "restore", lambda *_: hanging.hang())
    with hanging.started(fleet) as command:
        for _ in range(2):
            # At work, then being put back.
            hanging.await_hosts()
            os.kill(command.pid or 0, signal.SIGINT)
        # Far less than the patience after the first one.
        command.join(60)
        assert command.exitcode == 130
    monkeypatch.undo()
    monkeypatch.setattr(kvmtest.commands.fleet_run, "opening", fleet._opening)
    capsys.readouterr()
    assert fleet.status() == 3
    assert capsys.readouterr().out.count("NOT put back yet") == 2
    assert fleet.resume() == 0
    assert fleet.kept == ALL
    assert [host.state for host in fleet.hosts.values()] == 2 * [OWN_STATE]


def test_ctrl_c_puts_hosts_back_and_leaves_a_folder_to_resume(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    own = PaperHost.run
    hanging = Hanging(tmp_path)

    def run(host: PaperHost, job: Job) -> Outcome:
        outcome = own(host, job)
        if ".new." in job.id:
            hanging.hang()
        return outcome

    monkeypatch.setattr(PaperHost, "run", run)
    with hanging.started(fleet) as command:
        hanging.await_hosts()
        assert fleet.status() == 3
        assert f"At work: pid {command.pid} (" in capsys.readouterr().out
        assert fleet.resume() == 3
        assert "works on it; wait for its end, or stop it" in capsys.readouterr().err
        os.kill(command.pid or 0, signal.SIGINT)
        command.join()
    assert command.exitcode == 130
    assert fleet.kept == ["emr/own/1", "spr/own/1"]
    assert [host.state for host in fleet.hosts.values()] == 2 * [OWN_STATE]
    monkeypatch.setattr(PaperHost, "run", own)
    assert fleet.resume() == 0
    assert fleet.kept == ALL


LAB = """\
hosts:
  emulated: {lab: intel, cpus: 1, parameters: [kvm_intel.ept=0]}
kernels:
  tree: {tree: tree}
runs:
  - {options: --only any.soak, repeat: REPEAT}
"""


@pytest.mark.parametrize(("repeat", "starts"), [(1, {"cold"}), (2, {"booted", "ready"})])
def test_a_lab_machine_is_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeat: int, starts: set[str]
) -> None:
    emulator = Emulator.install(tmp_path, monkeypatch)
    emulator.leaves(in_lab(evidence({"any.soak": Verdict.PASS}), BOCHS), 0)
    plan = tmp_path / "plan.yaml"
    plan.write_text(LAB.replace("REPEAT", str(repeat)))
    results = tmp_path / "results"
    assert main(["fleet", "run", str(plan), "-o", str(results)]) == 0
    assert len(list(results.rglob("evidence.json"))) == repeat
    assert "--only=any.soak" in emulator.job()["command"]
    assert ["modprobe", "kvm_intel", "nested=1", "ept=0"] in emulator.job()["commands"]
    assert starts <= set(emulator.starts()), "a machine is saved where several runs need it"


def test_a_lab_machine_that_fails_is_tried_again_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    emulator = Emulator.install(tmp_path, monkeypatch)
    (emulator.folder / "panic").touch()
    plan = tmp_path / "plan.yaml"
    plan.write_text(LAB.replace("REPEAT", "1"))
    results = tmp_path / "results"
    assert main(["fleet", "run", str(plan), "-o", str(results)]) == 3
    assert "Kernel panic - not syncing: no init" in capsys.readouterr().err
    consoles = sorted(path.name for path in (results / "emulated/tree/1").iterdir())
    assert consoles == ["console-0.log", "console-1.log"]
