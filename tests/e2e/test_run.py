"""`kvmtest run` from beginning to end: verdicts, statuses, and the files of a run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.stand_in import (
    BTF,
    KMSG,
    KNOB,
    UNFIXED,
    command,
    environment,
    intel_host,
    need_free_machine,
    need_kvm,
    run_kvmtest,
    snapshot,
    write,
)

from kvmtest.evidence import KernelLogRecord, WarningsRecord, load
from kvmtest.host.changes.clear_warn_once import CLEAR
from kvmtest.host.changes.journal import RECORD, Journal
from kvmtest.host.tree import Tree
from kvmtest.judge import Verdict
from kvmtest.properties import PROPERTIES, find

FIX = ["--only", "kernel.fix-present"]
FILES = {"evidence.json", "junit.xml", "ktap.txt", "kernel.log"}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return intel_host(tmp_path / "host")


# Exit statuses


def test_a_pass_is_0(tree: Tree) -> None:
    ended = run_kvmtest("run", "--root", tree.root, *FIX)
    assert (ended.status, ended.err) == (0, "")
    assert re.match(r"PASS: 1 property holds in Linux \S+ +exit 0\n", ended.out)


def test_a_fail_is_1(tree: Tree) -> None:
    write(tree, BTF, UNFIXED)
    ended = run_kvmtest("run", "--root", tree.root)
    assert ended.status == 1
    assert re.match(r"FAIL: Linux \S+ lacks the fix +exit 1\n", ended.out)
    assert "HOST_OWNED_DEBUGCTL: no, expected yes" in " ".join(ended.out.split())


def test_nothing_decided_is_4(tree: Tree) -> None:
    tree.path(BTF).unlink()
    ended = run_kvmtest("run", "--root", tree.root)
    assert (ended.status, ended.err) == (4, "")


@pytest.mark.parametrize(
    ("btf", "status"), [(None, 0), (UNFIXED, 1), (b"junk", 125)], ids=["good", "bad", "skip"]
)
def test_bisect_has_statuses_for_git(tree: Tree, btf: bytes | None, status: int) -> None:
    if btf is not None:
        write(tree, BTF, btf)
    assert run_kvmtest("run", "--root", tree.root, "--bisect", *FIX).status == status


def test_a_required_skip_fails(tree: Tree) -> None:
    words = ["run", "--root", tree.root, "--require", "feature:kprobes"]
    ended = run_kvmtest(*words)
    assert ended.status == 1
    assert "--require feature:kprobes, but SKIP" in " ".join(ended.out.split())


def verdicts(output: Path) -> dict[str, Verdict]:
    return {r.id: r.verdict for r in load(output).results}


@pytest.mark.parametrize(
    "required", ["kernel.fix-present", "witness:btf", "feature:knob", "feature:nested"]
)
def test_a_requirement_that_is_met_changes_nothing(
    tree: Tree, tmp_path: Path, required: str
) -> None:
    words = ["run", "--root", tree.root, "-o"]
    plain = run_kvmtest(*words, tmp_path / "plain")
    ended = run_kvmtest(*words, tmp_path / "required", "--require", required)
    assert ended.status == plain.status
    assert ended.out.replace("/required", "/plain") == plain.out
    assert verdicts(tmp_path / "required") == verdicts(tmp_path / "plain")
    (became,) = load(tmp_path / "required").requirements
    assert (became.text, became.met, became.reason) == (required, True, "")


@pytest.mark.parametrize("required", ["witness:vmcs", "witness:leak", "feature:kvm", "feature:tdx"])
def test_a_requirement_that_is_not_met_fails_in_every_report(
    tree: Tree, tmp_path: Path, required: str
) -> None:
    output = tmp_path / "out"
    words = ["run", "--root", tree.root, "--require", required]
    ended = run_kvmtest(*words, "-o", output)
    assert (ended.status, ended.err) == (1, "")
    (became,) = load(output).requirements
    assert not became.met
    assert f"--require {required} is not met: " in ended.out
    failed = {p for p, verdict in verdicts(output).items() if verdict is Verdict.FAIL}
    assert failed
    if required != "feature:tdx":
        assert all(find(p).has_check for p in failed), "a later version's check is not missed"
    for p in failed:
        assert re.search(rf"^not ok \d+ {re.escape(p)}", (output / "ktap.txt").read_text(), re.M)
    failures = ElementTree.parse(output / "junit.xml").getroot()[0].get("failures")
    assert failures == str(len(failed))
    assert run_kvmtest("replay", output).status == 0
    reported = run_kvmtest("report", output)
    assert f"--require {required} is not met: " in reported.out
    assert run_kvmtest(*words, "--bisect").status == 125


# The files of a run


def test_the_files_of_a_run_agree_with_each_other(tree: Tree, tmp_path: Path) -> None:
    before = snapshot(tree)
    output = tmp_path / "out" / "run1"
    ended = run_kvmtest("run", "--root", tree.root, "-o", output)
    assert ended.status == 0
    assert {path.name for path in output.iterdir()} == FILES
    evidence = load(output)
    assert [r.id for r in evidence.results] == [p.id for p in PROPERTIES]
    assert evidence.exit_status == 0
    assert evidence.kvmtest.command[:2] == ["kvmtest", "run"]
    assert evidence.kvmtest.started <= evidence.kvmtest.ended
    assert evidence.machine.kind == "stand-in"
    (change,) = evidence.journal.changes
    assert (change.path, change.old, change.undone) == (KNOB, "1", True)
    suite = ElementTree.parse(output / "junit.xml").getroot()[0]
    assert int(suite.get("tests", "0")) == len(PROPERTIES)
    assert (output / "ktap.txt").read_text().startswith(f"KTAP version 1\n1..{len(PROPERTIES)}\n")
    assert snapshot(tree) == before


def test_a_report_shows_what_the_run_showed(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shown = run_kvmtest("run", "--root", tree.root, "-o", output).out
    reported = run_kvmtest("report", output)
    assert (reported.status, reported.err) == (0, "")
    assert shown == reported.out
    tables = run_kvmtest("run", "--root", tree.root, "-v").out.splitlines()
    reported = run_kvmtest("report", output, "-v")
    # All but what each says of itself: the report's head, and the run's last line.
    assert tables[:-1] == reported.out.splitlines()[4:-1]
    ktap = run_kvmtest("report", output, "--ktap").out
    assert ktap == (output / "ktap.txt").read_text()


def test_a_run_of_this_machine_has_valid_evidence_and_leaves_it_alone(tmp_path: Path) -> None:
    need_kvm()
    knobs = {str(p): p.read_text() for p in Path("/sys/devices").glob("cpu*/freeze_on_smi")}
    output = tmp_path / "out"
    # Whoever else works here now has the machine first.
    need_free_machine()
    words = ["--only", "guest.rdmsr-hides", "--only", "any.no-warnings", *FIX]
    ended = run_kvmtest("run", "--allow-other-vms", "-o", output, *words)
    evidence = load(output)
    assert evidence.exit_status == ended.status
    assert ended.status in (0, 1, 4), ended
    assert evidence.machine.kind == "host"
    assert [r.verdict for r in evidence.results if r.verdict is Verdict.ERROR] == []
    assert not Tree().exists(RECORD)
    assert {name: Path(name).read_text() for name in knobs} == knobs


def test_no_output_folder_is_made_without_o(tree: Tree, tmp_path: Path) -> None:
    run_kvmtest("run", "--root", tree.root, *FIX, cwd=tree.root)
    assert [p.name for p in tmp_path.iterdir()] == ["host"]


# Choosing


def test_only_decides_the_named_properties_in_the_order_of_the_table(
    tree: Tree, tmp_path: Path
) -> None:
    words = ["--only", "host.knob-effective", *FIX]
    run_kvmtest("run", "--root", tree.root, *words, "-o", tmp_path / "out")
    ids = [r.id for r in load(tmp_path / "out").results]
    assert ids == ["kernel.fix-present", "host.knob-effective"]


def test_m_decides_the_properties_that_its_markers_select(tree: Tree, tmp_path: Path) -> None:
    words = ["-m", "amd and not intel", "-o", tmp_path / "out"]
    ended = run_kvmtest("run", "--root", tree.root, *words)
    wanted = [p.id for p in PROPERTIES if "amd" in p.markers and "intel" not in p.markers]
    assert [r.id for r in load(tmp_path / "out").results] == wanted
    assert ended.status == 4


def test_a_quiet_run_writes_and_decides_all_the_same(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "out"
    ended = run_kvmtest("run", "--root", tree.root, *FIX, "--quiet", "-o", output)
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(r"PASS: 1 property holds in Linux \S+ \(exit 0\)\n", ended.out)
    assert {path.name for path in output.iterdir()} == FILES
    write(tree, BTF, UNFIXED)
    ended = run_kvmtest("run", "--root", tree.root, *FIX, "-q")
    assert (ended.status, ended.err) == (1, "")
    assert re.fullmatch(r"FAIL: Linux \S+ lacks the fix \(exit 1\)\n", ended.out)


# A dry run


def test_a_dry_run_lists_the_changes_and_makes_none(tree: Tree, tmp_path: Path) -> None:
    tree.path(KNOB).chmod(0o444)
    before = snapshot(tree)
    ended = run_kvmtest("run", "--root", tree.root, "--dry-run", "-o", tmp_path / "out")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"would write 0 to {KNOB} (was 1)\n"
    assert snapshot(tree) == before
    assert not (tmp_path / "out").exists()


def test_a_dry_run_runs_beside_a_run(tree: Tree) -> None:
    with Journal.open(tree):
        ended = run_kvmtest("run", "--root", tree.root, "--dry-run", *FIX)
    assert (ended.status, ended.out) == (0, "would change nothing on this machine\n")


# After a dead run


def left_by_a_dead_run(tree: Tree) -> None:
    """Leave what a power cut leaves: a changed knob and its record, and no guardian."""
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        record = tree.path(RECORD).read_bytes()
    write(tree, RECORD, record)
    write(tree, KNOB, "0\n")


def test_a_run_undoes_what_a_dead_one_left_and_says_so(tree: Tree, tmp_path: Path) -> None:
    left_by_a_dead_run(tree)
    ended = run_kvmtest("run", "--root", tree.root, *FIX, "-o", tmp_path / "out")
    assert ended.status == 0
    assert ended.complaint == f"undone for a dead run: write 0 to {KNOB} (was 1)"
    assert tree.read(KNOB) == "1"
    assert load(tmp_path / "out").journal.recovered == [f"write 0 to {KNOB} (was 1)"]


def test_restore_undoes_what_a_dead_run_left(tree: Tree) -> None:
    left_by_a_dead_run(tree)
    ended = run_kvmtest("restore", "--root", tree.root)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"undone: write 0 to {KNOB} (was 1)\n"
    assert (tree.read(KNOB), tree.exists(RECORD)) == ("1", False)


def test_restore_with_nothing_to_do_says_so(tree: Tree) -> None:
    before = snapshot(tree)
    ended = run_kvmtest("restore", "--root", tree.root)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == "nothing to restore: no dead run left a change\n"
    assert snapshot(tree) == before


def test_restore_tells_what_it_could_not_undo(tree: Tree) -> None:
    left_by_a_dead_run(tree)
    tree.path(KNOB).unlink()
    tree.path(KNOB).mkdir()
    ended = run_kvmtest("restore", "--root", tree.root)
    assert ended.status == 3
    assert ended.complaint.startswith("not undone: write 0 to ")
    assert tree.exists(RECORD)


def test_a_run_refuses_where_a_dead_one_can_not_be_undone(tree: Tree) -> None:
    left_by_a_dead_run(tree)
    tree.path(KNOB).unlink()
    tree.path(KNOB).mkdir()
    ended = run_kvmtest("run", "--root", tree.root, *FIX)
    assert (ended.status, ended.out) == (3, "")
    assert "left changes that can't be undone" in ended.complaint


# Output


@pytest.mark.parametrize("words", [["run"], ["list"], ["doctor"], ["list", "--json"]])
def test_a_reader_that_goes_away_gets_no_traceback(
    tree: Tree, tmp_path: Path, words: list[str]
) -> None:
    if words[0] != "list":
        words = [*words, "--root", str(tree.root)]
    if words[0] == "run":
        words = [*words, "-o", str(tmp_path / "out")]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        command(*words), stdout=writing, stderr=subprocess.PIPE, env=environment()
    )
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert err == b""
    if words[0] == "run":
        assert process.returncode == load(tmp_path / "out").exit_status == 0
    else:
        assert process.returncode == 141


def test_a_stream_that_has_no_letter_for_it_costs_no_report(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run_kvmtest("run", "--root", tree.root, *FIX, "-o", output)
    path = output / "evidence.json"
    path.write_text(path.read_text().replace('"reason": "', '"reason": "\u00b1\u2713'))
    for words in ([], ["-v"], ["--ktap"]):
        ended = run_kvmtest("report", output, *words, env=environment(PYTHONIOENCODING="ascii"))
        assert (ended.status, ended.err) == (0, "")
    assert (
        "\\xb1\\u2713btf"
        in run_kvmtest("report", output, "-v", env=environment(PYTHONIOENCODING="ascii")).out
    )


def test_head_gets_its_line(tree: Tree) -> None:
    run = subprocess.Popen(
        command("run", "--root", tree.root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert run.stdout
    head = subprocess.run(["head", "-1"], stdin=run.stdout, capture_output=True, text=True)
    run.stdout.close()
    assert head.stdout.startswith("PASS: ")
    assert run.stderr
    assert run.stderr.read() == b""
    run.stderr.close()
    assert run.wait() == 0


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_nothing(tree: Tree, tmp_path: Path, closed: str) -> None:
    words = shlex.join(command("run", "--root", tree.root, "-o", tmp_path / "out"))
    shell = ["sh", "-c", f"exec {words} {closed}"]
    done = subprocess.run(shell, capture_output=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert load(tmp_path / "out").exit_status == 0
    assert tree.read(KNOB) == "1"


@pytest.mark.parametrize("words", [["list", "--json"], ["doctor", "--json"]])
def test_json_is_json(tree: Tree, words: list[str]) -> None:
    if words[0] == "doctor":
        words = [*words, "--root", str(tree.root)]
    ended = run_kvmtest(*words)
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)


def test_doctor_of_this_machine_is_json_too() -> None:
    ended = run_kvmtest("doctor", "--json")
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)["machine"]["kind"] == "host"


def test_the_evidence_has_the_taint_and_whether_warnings_got_their_once_back(
    tree: Tree, tmp_path: Path
) -> None:
    write(tree, "/proc/sys/kernel/tainted", "512\n")
    write(tree, CLEAR, "")
    run_kvmtest("run", "--root", tree.root, *FIX, "-o", tmp_path / "out")
    evidence = load(tmp_path / "out")
    assert evidence.kernel.warnings == WarningsRecord(512, 512, None)
    assert [c.sentence for c in evidence.journal.changes] == [f"write 1 to {CLEAR} (for good)"]
    assert tree.read(CLEAR) == "1"


def test_a_dry_run_lists_that_warnings_get_their_once_back(tree: Tree) -> None:
    write(tree, CLEAR, "")
    ended = run_kvmtest("run", "--root", tree.root, *FIX, "--dry-run")
    assert f"would write 1 to {CLEAR} (for good)\n" in ended.out
    assert tree.read(CLEAR) == ""


def test_the_log_of_the_run_is_kept(tree: Tree, tmp_path: Path) -> None:
    write(tree, KMSG, b"6,1,1,-;before the run\n")
    run_kvmtest("run", "--root", tree.root, *FIX, "-o", tmp_path / "out")
    assert (tmp_path / "out" / "kernel.log").read_text() == ""
    assert load(tmp_path / "out").kernel_log == KernelLogRecord(None, 0, 0)


# Known defects

# Makes kernel.fix-present a property that every kernel is known to break.
BREAKING = """\
import sys
from kvmtest import known_defects, cli
row = known_defects.KnownDefect("kernel.fix-present", "all", lambda machine: True, "docs/x.md")
known_defects.KNOWN_DEFECTS = (row,)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [([], 4), (["--strict"], 1), (["--bisect"], 125), (["--bisect", "--strict"], 1)],
    ids=["default", "strict", "bisect", "bisect, strict"],
)
def test_a_known_defect_counts_in_a_strict_run_alone(
    tree: Tree, tmp_path: Path, words: list[str], status: int
) -> None:
    write(tree, BTF, UNFIXED)
    output = tmp_path / "out"
    argv = ["run", "--root", str(tree.root), "-o", str(output), *FIX, *words]
    done = subprocess.run(
        [sys.executable, "-c", BREAKING, *argv], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == status, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0].endswith(f"exit {status}")
    assert ("1 fail" if "--strict" in words else "1 known defect") in said
    assert any("known defect" in line and "docs/x.md" in line for line in said)
    evidence = load(output)
    assert (evidence.strict, evidence.results[0].known_defect) == ("--strict" in words, "docs/x.md")
    assert ("XFAIL" in (output / "ktap.txt").read_text()) is ("--strict" not in words)
    failures = ElementTree.parse(output / "junit.xml").getroot()[0].get("failures")
    assert failures == ("1" if "--strict" in words else "0")
