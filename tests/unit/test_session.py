"""A session keeps what was observed, whatever happens, and gives the machine back."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.stand_in import KMSG, KNOB, intel_host, snapshot, write

import kvmtest.session as session_module
from kvmtest.checks import Check, Context
from kvmtest.checks.context import RunLog
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.host.changes.clear_warn_once import CLEAR, EarlierWarnings
from kvmtest.host.changes.journal import RECORD, Journal
from kvmtest.host.changes.lock import LockHeld
from kvmtest.host.facts.census import Census, HypervisorProcess
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog, LogError, LogSlice
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Reading, Verdict, claim, control, measure
from kvmtest.missing import Missing
from kvmtest.properties import Property, find
from kvmtest.run_options import RunOptions
from kvmtest.session import Session

PROPERTY = Property("btf.test", "a claim", (), (), ("btf",), "a test")
GOOD = [control("btf", "the control", 1, 1, "mend it"), claim("btf", "the claim", 1, 1)]


class Checked(Protocol):
    """Makes a check the one of every property, in a session with these options."""

    def __call__(self, check: Check, *require: str, **options: Any) -> Session: ...


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return intel_host(tmp_path)


@pytest.fixture
def session(tree: Tree) -> Iterator[Session]:
    made = Session(RunOptions(root=tree.root))
    yield made
    made.end()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, tree: Tree) -> Iterator[Checked]:
    with ExitStack() as sessions:

        def use(check: Check, *require: str, **options: Any) -> Session:
            monkeypatch.setattr(session_module, "check_of", lambda prop: check)
            made = Session(RunOptions(root=tree.root, require=require, **options))
            sessions.callback(made.end)
            return made

        yield use


def good(context: Context) -> Iterator[Reading | Absence]:
    yield from GOOD


def breaking(error: BaseException) -> Check:
    def check(context: Context) -> Iterator[Reading | Absence]:
        yield from GOOD
        raise error

    return check


# Deciding


def test_readings_are_judged_and_kept(checked: Checked) -> None:
    session = checked(good)
    result = session.decide(PROPERTY)
    assert (result.id, result.verdict, result.readings) == ("btf.test", Verdict.PASS, GOOD)
    assert session.end().results == [result]
    assert (result.detail, result.missing, result.seconds >= 0) == ("", [], True)


def test_readings_before_an_error_of_ours_are_kept(checked: Checked) -> None:
    result = checked(breaking(KvmtestError("KVM_RUN: no; try again"))).decide(PROPERTY)
    assert (result.verdict, result.reason) == (Verdict.ERROR, "KVM_RUN: no; try again")
    assert result.readings == GOOD
    assert "in check" in result.detail


def test_readings_before_any_error_are_kept_and_its_kind_is_named(checked: Checked) -> None:
    result = checked(breaking(ZeroDivisionError("by\nzero"))).decide(PROPERTY)
    assert (result.verdict, result.reason) == (Verdict.ERROR, "ZeroDivisionError: by")
    assert result.readings == GOOD
    assert "Traceback" in result.detail


def test_an_error_without_words_has_a_reason(checked: Checked) -> None:
    assert checked(breaking(AssertionError())).decide(PROPERTY).reason == "AssertionError: "


def test_an_interruption_is_kept_and_goes_on(checked: Checked) -> None:
    session = checked(breaking(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        session.decide(PROPERTY)
    (result,) = session.end().results
    assert (result.verdict, result.reason) == (Verdict.ERROR, "interrupted")
    assert result.readings == GOOD


def test_a_check_that_says_nothing_decides_nothing(checked: Checked) -> None:
    def silent(context: Context) -> Iterator[Reading | Absence]:
        yield from ()

    assert checked(silent).decide(PROPERTY).verdict is Verdict.INCONCLUSIVE


def test_whoever_wants_to_know_hears_what_a_check_is_at(
    monkeypatch: pytest.MonkeyPatch, tree: Tree
) -> None:
    def telling(context: Context) -> Iterator[Reading | Absence]:
        context.on_step("12 s left")
        yield from GOOD

    monkeypatch.setattr(session_module, "check_of", lambda prop: telling)
    heard: list[str] = []
    session = Session(RunOptions(root=tree.root), on_step=heard.append)
    session.decide(PROPERTY)
    session.end()
    assert heard == ["12 s left"]


def test_a_check_that_does_not_exist_is_an_error(session: Session) -> None:
    for property_id in ("no-module.f", "kernel.no-function", "vmx.entry.no-module", "nonsense"):
        result = session.decide(Property(property_id, "c", (), (), ("btf",), "s"))
        assert result.verdict is Verdict.ERROR
        assert result.detail


def test_a_missing_precondition_skips_the_check(checked: Checked) -> None:
    session = checked(breaking(AssertionError("the check was run")))
    result = session.decide(find("any.soak"))
    assert result.verdict is Verdict.SKIP


def test_a_skip_names_all_that_is_missing(tmp_path: Path) -> None:
    session = Session(RunOptions(root=tmp_path))
    result = session.decide(find("vmx.entry.fresh"))
    session.end()
    assert result.verdict is Verdict.SKIP
    assert len(result.missing) == 5
    assert all(str(missing) in result.reason for missing in result.missing)
    assert result.readings == []


def test_a_property_without_a_check_says_so(session: Session) -> None:
    prop = Property("btf.test", "c", (), (), ("btf",), "s", has_check=False)
    result = session.decide(prop)
    assert result.verdict is Verdict.SKIP
    assert "has no check for it yet" in result.reason


def test_a_precondition_that_breaks_is_an_error(
    monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    def broken(machine: Machine, prop: Property) -> list[Missing]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(session_module, "lacking", broken)
    result = session.decide(PROPERTY)
    assert (result.verdict, session.end().results) == (Verdict.ERROR, [result])
    assert "Input/output error" in result.reason


def test_a_witness_that_could_not_look_is_kept_beside_one_that_could(checked: Checked) -> None:
    absent = Absence("vmcs", Missing("gone meanwhile"))

    def check(context: Context) -> Iterator[Reading | Absence]:
        yield from GOOD
        yield absent
        yield absent

    prop = Property("btf.test", "c", (), (), ("btf", "runflags"), "s")
    result = checked(check).decide(prop)
    assert result.verdict is Verdict.PASS
    assert [a.witness for a in result.absences] == ["runflags", "vmcs"]


def test_a_figure_is_measured(checked: Checked) -> None:
    def check(context: Context) -> Iterator[Reading | Absence]:
        yield measure("btf", "copies", 3)

    assert checked(check).decide(PROPERTY).verdict is Verdict.MEASURED


# Requirements


def test_a_required_skip_fails(tmp_path: Path) -> None:
    session = Session(RunOptions(root=tmp_path, require=("any.soak",)))
    results = [session.decide(find(i)) for i in ("any.soak", "vmx.entry.fresh")]
    session.end()
    assert [r.verdict for r in results] == [Verdict.FAIL, Verdict.SKIP]
    assert results[0].reason.startswith("--require any.soak, but SKIP: ")
    assert results[0].missing, "what is missing is still told"


def test_a_required_witness_must_speak(checked: Checked) -> None:
    session = checked(good, "witness:btf", "witness:vmcs")
    looked = Property("kernel.fix-present", "c", (), (), ("btf",), "s")
    silent = Property("vmx.entry.toggled-back", "c", (), (), ("btf", "vmcs"), "s")
    results = [session.decide(looked), session.decide(silent)]
    assert [r.verdict for r in results] == [Verdict.PASS, Verdict.FAIL]
    assert results[1].reason.startswith("--require witness:vmcs, but vmcs did not look: ")
    btf, vmcs = session.end().required
    assert (btf.met, btf.reason, vmcs.met) == (True, "", False)
    assert vmcs.reason.startswith("vmx.entry.toggled-back: vmcs did not look: ")


def test_a_required_feature_must_be_there(tmp_path: Path) -> None:
    session = Session(RunOptions(root=intel_host(tmp_path).root, require=("feature:tdx",)))
    results = [session.decide(find(i)) for i in ("tdx.flag-never", "kernel.fix-present")]
    assert [r.verdict for r in results] == [Verdict.FAIL, Verdict.PASS]
    assert session.end().required[0].reason.startswith("this KVM has no TDX")


def test_a_session_that_does_not_enforce_still_knows_what_was_not_met(tmp_path: Path) -> None:
    session = Session(RunOptions(root=tmp_path, require=("any.soak",), bisect=True))
    result = session.decide(find("any.soak"))
    assert (result.verdict, result.demands) == (Verdict.SKIP, [])
    assert not session.end().required[0].met


def test_what_was_not_run_is_not_met(tmp_path: Path) -> None:
    required = ("any.soak", "witness:btf", "feature:knob")
    record = Session(RunOptions(root=tmp_path, require=required)).end()
    assert [r.met for r in record.required] == [False] * 3
    assert record.required[0].reason == "any.soak was not run"
    assert record.problems[0] == "--require any.soak: any.soak was not run"
    assert record.status == 3


def test_a_check_that_breaks_has_not_met_what_is_required(checked: Checked) -> None:
    session = checked(breaking(ZeroDivisionError()), "witness:btf")
    prop = Property("kernel.fix-present", "c", (), (), ("btf",), "s")
    assert session.decide(prop).verdict is Verdict.ERROR
    assert not session.end().required[0].met


# Beginning and end


def test_a_session_begins_once_and_may_end_twice(session: Session, tree: Tree) -> None:
    before = snapshot(tree)
    assert session.begin() is session.begin()
    assert session.end().log == LogSlice((), 0)
    assert session.end().results == []
    assert snapshot(tree) == before


def test_changes_are_undone_when_their_check_ends_and_all_are_listed(
    checked: Checked, tree: Tree
) -> None:
    def check(context: Context) -> Iterator[Reading | Absence]:
        assert tree.read(KNOB) == "1", "a check finds what the one before left"
        context.journal.write(KNOB, "0")
        assert tree.exists(RECORD)
        yield from GOOD

    before = snapshot(tree)
    session = checked(check)
    for _ in range(2):
        assert session.decide(PROPERTY).verdict is Verdict.PASS
        assert snapshot(tree) == before
    record = session.end()
    assert snapshot(tree) == before
    changes = [(c.path, c.old, c.new, c.undone) for c in record.changes]
    assert changes == [(KNOB, "1", "0", True)] * 2
    assert record.undo_failures == []


@pytest.mark.parametrize("error", [KvmtestError("no"), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_check_that_breaks_is_closed_before_its_changes_are_undone(
    checked: Checked, tree: Tree, error: BaseException
) -> None:
    seen: list[str | None] = []

    def check(context: Context) -> Iterator[Reading | Absence]:
        context.journal.write(KNOB, "0")
        try:
            yield GOOD[0]
            raise error
        finally:
            seen.append(tree.read(KNOB))

    session = checked(check)
    with suppress(KeyboardInterrupt):
        session.decide(PROPERTY)
    assert seen == ["0"]
    assert tree.read(KNOB) == "1"


def test_a_check_is_closed_where_its_reader_breaks(
    checked: Checked, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    class Breaking(list[Reading]):
        def append(self, reading: Reading) -> None:
            raise KeyboardInterrupt

    def check(context: Context) -> Iterator[Reading | Absence]:
        context.journal.write(KNOB, "0")
        try:
            yield GOOD[0]
        finally:
            seen.append(tree.read(KNOB))

    session = checked(check)
    observe = session._observe
    monkeypatch.setattr(
        session, "_observe", lambda prop, context, readings, absences: observe(
            prop, context, Breaking(), absences
        )
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        session.decide(PROPERTY)
    assert seen == ["0"]
    assert tree.read(KNOB) == "1"


def test_what_can_not_be_undone_is_told(checked: Checked, tree: Tree) -> None:
    name = "/sys/kernel/tracing/instances/kvmtest"
    tree.path(name).parent.mkdir(parents=True)

    def check(context: Context) -> Iterator[Reading | Absence]:
        context.journal.make_directory(name)
        write(tree, f"{name}/held", "")
        yield from GOOD

    session = checked(check)
    session.decide(PROPERTY)
    record = session.end()
    (failure,) = record.undo_failures
    assert record.status == 3
    assert "not undone: Directory not empty" in failure


def test_a_second_session_is_refused_until_the_first_ends(tree: Tree) -> None:
    first, second = (Session(RunOptions(root=tree.root)) for _ in range(2))
    first.begin()
    with pytest.raises(LockHeld, match=f"pid {os.getpid()}"):
        second.begin()
    second.end()
    first.end()
    second.begin()
    second.end()


def test_a_dry_run_takes_no_lock_and_changes_nothing(checked: Checked, tree: Tree) -> None:
    def check(context: Context) -> Iterator[Reading | Absence]:
        context.journal.write(KNOB, "0")
        yield from GOOD

    before = snapshot(tree)
    session = checked(check, dry_run=True)
    first = Session(RunOptions(root=tree.root))
    first.begin()
    session.decide(PROPERTY)
    assert tree.read(KNOB) == "1"
    record = session.end()
    first.end()
    assert snapshot(tree) == before
    assert [c.sentence for c in record.changes] == [f"write 0 to {KNOB} (was 1)"]
    assert record.log == Missing("a dry run does not mark the kernel log")


def test_what_a_dead_run_left_is_told(tree: Tree) -> None:
    pid = os.fork()
    if pid == 0:
        Journal.open(tree).write(KNOB, "0")
        tree.path("/left").write_bytes(tree.path(RECORD).read_bytes())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with Journal.open(tree):  # Waits for the dead one's guardian.
        pass
    tree.path(RECORD).write_bytes(tree.path("/left").read_bytes())
    write(tree, KNOB, "0\n")
    session = Session(RunOptions(root=tree.root))
    session.begin()
    record = session.end()
    assert tree.read(KNOB) == "1"
    assert record.recovered == [f"write 0 to {KNOB} (was 1)"]


# The kernel log


def test_the_log_since_the_beginning_is_kept(session: Session, tree: Tree) -> None:
    write(tree, KMSG, b"6,1,1,-;before\n")
    session.begin()
    with tree.path(KMSG).open("ab") as file:
        file.write(b"6,2,2,-;during\n")
    log = session.end().log
    assert isinstance(log, LogSlice)
    assert [r.message for r in log.records] == ["during"]


def test_what_warned_before_gets_its_once_back_and_the_taint_is_kept(
    session: Session, tree: Tree
) -> None:
    write(tree, CLEAR, "")
    write(tree, "/proc/sys/kernel/tainted", "512\n")
    log = session.begin().kernel_log
    assert isinstance(log, RunLog)
    assert log.before == EarlierWarnings(512, None)
    assert tree.read(CLEAR) == "1"
    write(tree, "/proc/sys/kernel/tainted", "4608\n")
    record = session.end()
    assert (record.before, record.taint_after) == (log.before, 4608)
    assert [change.sentence for change in record.changes] == [f"write 1 to {CLEAR} (for good)"]


def test_a_log_that_can_not_be_opened_is_missing(session: Session, tree: Tree) -> None:
    tree.path(KMSG).unlink()
    session.begin()
    assert isinstance(session.end().log, Missing)


def open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    return {f"{entry.name} {entry.readlink()}" for entry in folder.iterdir() if entry.exists()}


def test_a_log_that_breaks_at_the_end_costs_neither_verdicts_nor_the_undo(
    checked: Checked, tree: Tree
) -> None:
    def check(context: Context) -> Iterator[Reading | Absence]:
        context.journal.write(KNOB, "0")
        yield from GOOD

    before, files = snapshot(tree), open_files()
    session = checked(check)
    session.decide(PROPERTY)
    with tree.path(KMSG).open("ab") as file:
        file.write(b"no record\n")
    record = session.end()
    tree.path(KMSG).write_bytes(b"")
    assert snapshot(tree) == before
    assert isinstance(record.log, Missing)
    assert "is no record of the kernel log" in record.log.what
    assert [r.verdict for r in record.results] == [Verdict.PASS]
    assert open_files() == files


def test_a_log_that_breaks_at_the_mark_gives_the_machine_back(
    monkeypatch: pytest.MonkeyPatch, session: Session, tree: Tree
) -> None:
    def broken(log: KernelLog) -> None:
        raise LogError("the log can't be read on")

    files = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(KernelLog, "write_marker", broken)
        with pytest.raises(KvmtestError, match="can't be read on"):
            session.begin()
    assert open_files() == files
    session.begin()
    session.end()


def test_a_machine_without_a_place_for_the_lock_is_unfit(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    write(tree, "/run/lock", "a file")
    session = Session(RunOptions(root=tree.root))
    with pytest.raises(EnvironmentUnfit, match="can't open the lock"):
        session.decide(PROPERTY)


@pytest.mark.parametrize(("device", "hypervisor"), [("vboxdrv", "VirtualBox"), ("vmmon", "VMware")])
def test_a_session_does_not_begin_beside_vms_of_other_hypervisors(
    tree: Tree, device: str, hypervisor: str
) -> None:
    write(tree, "/proc/77/comm", "headless\n")
    tree.path("/proc/77/fd").mkdir()
    tree.path("/proc/77/fd/3").symlink_to(f"/dev/{device}")
    words = rf"other VMs run here: headless \(pid 77, a VM of {hypervisor}\)"
    with pytest.raises(EnvironmentUnfit, match=words):
        Session(RunOptions(root=tree.root)).begin()


def test_a_session_does_not_begin_beside_other_vms(tree: Tree) -> None:
    other = HypervisorProcess(pid=77, name="qemu", command=("qemu",), vms=1, vcpus=2, devices=1)
    session = Session(RunOptions(root=tree.root))
    vars(session.machine)["census"] = Census((other,), (), ())
    with pytest.raises(EnvironmentUnfit, match="other VMs run here: qemu"):
        session.begin()
    Journal.open(tree).close()  # The machine is free again.
    allowed = Session(RunOptions(root=tree.root, allow_other_vms=True))
    vars(allowed.machine)["census"] = session.machine.census
    allowed.begin()
    allowed.end()


# Known defects

FINDING = "docs/findings/lost-update-while-emulating.md"
BAD = [control("btf", "the control", 1, 1, "mend it"), claim("btf", "the claim", 0, 1)]
UNTOLD = [claim("btf", "the claim", 0, 1)]


@pytest.mark.parametrize(
    ("readings", "verdict", "finding"),
    [(BAD, Verdict.FAIL, FINDING), (GOOD, Verdict.PASS, FINDING), (UNTOLD, Verdict.FAIL, "")],
    ids=["shows", "does not show", "required"],
)
def test_a_known_defect_is_told_of_what_a_witness_decided(
    checked: Checked, readings: list[Reading], verdict: Verdict, finding: str
) -> None:
    def check(context: Context) -> Iterator[Reading | Absence]:
        yield from readings

    session = checked(check, "vmx.entry.after-emulation")
    prop = Property("vmx.entry.after-emulation", "c", (), (), ("btf",), "s")
    result = session.decide(prop)
    assert (result.verdict, result.known_defect) == (verdict, finding)
    assert result.is_known_failure is (readings is BAD)


def test_a_known_defect_does_not_excuse_a_witness_that_is_required_and_silent(
    checked: Checked,
) -> None:
    def check(context: Context) -> Iterator[Reading | Absence]:
        yield from BAD

    session = checked(check, "witness:vmcs")
    prop = Property("vmx.entry.after-emulation", "c", (), (), ("btf", "vmcs"), "s")
    result = session.decide(prop)
    assert (result.verdict, result.is_known_failure) == (Verdict.FAIL, False)
    assert "without it FAIL: btf: the claim: 0, expected 1" in result.reason


def test_a_session_does_not_begin_with_an_smi_source_that_makes_no_sense(tree: Tree) -> None:
    with pytest.raises(UsageError, match="it takes a byte"):
        Session(RunOptions(root=tree.root, smi_source="apm-port:x")).begin()
    session = Session(RunOptions(root=tree.root, smi_source="passive"))
    try:
        assert session.begin().machine.smi_source == "passive"
    finally:
        session.end()
