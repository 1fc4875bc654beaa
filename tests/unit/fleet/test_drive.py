"""kvmtest/fleet/drive.py: a lane's course on a host on paper, with its record on the disk."""

import os
import signal
from pathlib import Path

import pytest
from support.paper_hosts import OWN_STATE, PaperHost, start_of

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import load
from kvmtest.fleet.course import Course, Ending, Fact, Run
from kvmtest.fleet.drive import drive
from kvmtest.fleet.ledger import entries
from kvmtest.fleet.plan import parse
from kvmtest.fleet.results import LaneRecord, Results
from kvmtest.target import Job, Outcome

PLAN = """\
hosts: {spr: {ssh: root@spr}}
kernels: {own: {own: true}, new: {debian: 6.18}}
runs: [{repeat: 2}]
"""


class Fleet:
    """One host on paper, and the folder of its results."""

    def __init__(self, folder: Path) -> None:
        self.host = PaperHost.made("spr", folder)
        self.results = Results.create(folder / "results", parse(PLAN, folder / "plan.yaml"))
        (self.lane,) = self.results.lanes
        self.said: list[str] = []

    def drive(self) -> Course:
        results = Results.open(self.results.folder)
        with LaneRecord(
            results, self.lane, lambda evidence, _: f"kept {start_of(evidence)}"
        ) as record:
            return drive(record, results.plan.kernels, self.host.opened, self.said.append)

    @property
    def kept(self) -> list[str]:
        folder = self.results.folder / "spr"
        return sorted(
            str(path.parent.relative_to(folder)) for path in folder.rglob("evidence.json")
        )

    @property
    def did(self) -> list[str]:
        """What the host did, without the token in the names of jobs."""
        return [
            " ".join(str(value).removeprefix(f"{self.results.token}.") for value in entry.values())
            for entry in self.host.history
        ]


ALL = ["new/1", "new/2", "own/1", "own/2"]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_each_run_leaves_its_evidence_and_the_host_is_put_back(fleet: Fleet) -> None:
    course = fleet.drive()
    assert course.next is None
    assert fleet.kept == ALL
    assert fleet.did == [
        "own.1.0", "own.2.0", "new", "new.1.0", "new.2.0", "True",
    ]  # fmt: skip
    assert fleet.host.state == OWN_STATE
    evidence = load(fleet.results.evidence(fleet.lane, ("new", 2)))
    assert (evidence.machine.hostname, evidence.kernel.release) == ("spr", "new")
    files = {path.name for path in fleet.results.run_folder(fleet.lane, ("new", 2)).iterdir()}
    assert files == {"evidence.json", "kernel.log", "console.log"}


def test_a_step_is_written_down_before_it_is_done(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Fact] = []
    own_run = PaperHost.run

    def run(host: PaperHost, job: Job) -> Outcome:
        written.append(entries(fleet.results.ledger(fleet.lane))[-1].fact)
        return own_run(host, job)

    monkeypatch.setattr(PaperHost, "run", run)
    fleet.drive()
    assert written == [Run("own", 1), Run("own", 2), Run("new", 1), Run("new", 2)]


def test_what_is_done_is_not_done_again(fleet: Fleet) -> None:
    fleet.drive()
    before = fleet.did
    assert fleet.drive().next is None
    assert fleet.did == before


def test_evidence_that_was_removed_is_made_again(fleet: Fleet) -> None:
    fleet.drive()
    fleet.results.evidence(fleet.lane, ("new", 1)).unlink()
    fleet.drive()
    assert fleet.kept == ALL
    assert fleet.did[-3:] == ["new", "new.1.1", "True"]


def test_what_stays_on_the_screen_ends_in_a_newline(fleet: Fleet) -> None:
    fleet.drive()
    assert [text for text in fleet.said if not text.endswith("\n")][:3] == [
        "booting own", "running own 1", "running own 2",
    ]  # fmt: skip
    kept = [text for text in fleet.said if text.endswith("\n")]
    assert kept[0] == f"own 1: kept {fleet.results.token}.own.1.0 1\n"
    assert len(kept) == 4


@pytest.mark.parametrize(
    ("trouble", "did", "said"),
    [
        ({"boot_new": "wrong"}, ["True", "True"], "boot of new: wrong kernel: spr came back"),
        ({"boot_new": "unfit"}, ["True"], "boot of new: unfit: spr can't have that"),
        ({"boot_new": "lost"}, ["True", "True"], "boot of new: lost: spr does not answer"),
    ],
)
def test_a_kernel_that_is_not_to_be_had_costs_no_other(
    fleet: Fleet, trouble: dict[str, str], did: list[str], said: str
) -> None:
    fleet.host.trouble(**trouble)
    course = fleet.drive()
    assert fleet.kept == ["own/1", "own/2"]
    assert fleet.did == ["own.1.0", "own.2.0", *did]
    assert set(course.failed) == {("new", 1), ("new", 2)}
    assert any(text.startswith(said) for text in fleet.said)
    assert fleet.host.state == OWN_STATE


def test_a_run_that_takes_too_long_says_so(fleet: Fleet) -> None:
    fleet.host.trouble(ran="late")
    course = fleet.drive()
    assert {each.ended.ending for each in course.failed.values()} == {Ending.LATE}


def test_a_run_without_evidence_leaves_its_console_in_printable_text(fleet: Fleet) -> None:
    fleet.host.trouble(ran="failed")
    course = fleet.drive()
    assert len(course.failed) == 4
    folder = fleet.results.run_folder(fleet.lane, ("own", 1))
    assert sorted(path.name for path in folder.iterdir()) == ["console-0.log", "console-1.log"]
    assert (folder / "console-0.log").read_text() == "console\ufffd[2J of a failure"
    fleet.host.trouble()
    fleet.drive()
    assert fleet.kept == ALL


def test_a_host_that_does_not_come_back_is_lost_and_taken_up_again_by_a_resume(
    fleet: Fleet,
) -> None:
    fleet.host.trouble(boot_new="lost", restore="lost")
    course = fleet.drive()
    assert course.lost == "spr does not answer"
    assert fleet.kept == ["own/1", "own/2"]
    fleet.host.trouble()
    assert not fleet.drive().lost
    assert fleet.kept == ALL
    assert fleet.host.state == OWN_STATE


def test_a_host_that_can_not_be_opened_is_not_put_back(fleet: Fleet) -> None:
    fleet.host.trouble(open="unfit")
    course = fleet.drive()
    assert len(course.failed) == 4
    assert not course.lost
    assert fleet.did == []


def test_an_interrupt_puts_the_host_back_and_counts_for_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_run = PaperHost.run

    def run(host: PaperHost, job: Job) -> Outcome:
        if ".new.1." in job.id and "new.1.0" not in fleet.did:
            own_run(host, job)
            os.kill(os.getpid(), signal.SIGINT)
        return own_run(host, job)

    monkeypatch.setattr(PaperHost, "run", run)
    with pytest.raises(KeyboardInterrupt):
        fleet.drive()
    assert fleet.kept == ["own/1", "own/2"]
    assert fleet.host.state == OWN_STATE
    fleet.drive()
    assert fleet.kept == ALL
    assert fleet.did[4:] == ["True", "new", "new.1.1", "new.2.0", "True"]


def test_an_interrupt_while_evidence_is_kept_or_the_host_put_back_waits(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_keep = LaneRecord.keep

    def keep(record: LaneRecord, *arguments: object) -> tuple[int, str]:
        os.kill(os.getpid(), signal.SIGINT)
        return own_keep(record, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LaneRecord, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        fleet.drive()
    assert fleet.kept == ["own/1"]
    assert fleet.did == ["own.1.0", "True"]


def test_a_ledger_that_can_not_be_written_leaves_no_host_changed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_note = LaneRecord.note

    def note(record: LaneRecord, fact: Fact) -> None:
        if fleet.host.state["kernel"] == "new":
            raise EnvironmentUnfit("no space; free some")
        own_note(record, fact)

    monkeypatch.setattr(LaneRecord, "note", note)
    with pytest.raises(EnvironmentUnfit, match="no space"):
        fleet.drive()
    assert fleet.host.state == OWN_STATE


def test_a_job_that_was_at_work_when_all_died_is_taken_up(fleet: Fleet) -> None:
    pid = os.fork()
    if pid == 0:
        fleet.host.run = lambda job: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign,return-value]
        fleet.drive()
    os.waitpid(pid, 0)
    fleet.drive()
    assert fleet.kept == ALL
    assert fleet.did[0] == "own.1.0"


def test_where_nobody_hears_the_course_goes_on(fleet: Fleet) -> None:
    class Gone(list[str]):
        def append(self, text: str) -> None:
            raise BrokenPipeError

    fleet.said = Gone()
    assert fleet.drive().next is None
    assert fleet.kept == ALL
    assert fleet.host.state == OWN_STATE
