"""any.no-warnings follows the log and the taint, and its controls can fail."""

from pathlib import Path

import pytest
from support.observing import NO_LOG, controls, judged, observe
from support.stand_in import (
    KMSG,
    need_kvm,
    need_root,
    write,
)

from kvmtest.checks.any.no_warnings import log_readings
from kvmtest.checks.context import RunLog
from kvmtest.host.changes.clear_warn_once import EarlierWarnings
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog, LogSlice, Marker, parse_record
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Reading, Role, Verdict
from kvmtest.missing import Missing

WARN = b"4,%d,100,-;WARNING: CPU: 1 PID: 77 at arch/x86/kvm/vmx/vmx.c:123 vmx_vcpu_run+0x1/0x2\n"
PROVEN = Marker("token", None)


def stand_in_log(root: Path, lines: bytes, marker: Marker = PROVEN) -> RunLog:
    """Return a log that gains ``lines`` after its marker."""
    tree = Tree(root)
    path = write(tree, KMSG, b"4,1,10,-;WARNING: CPU: 0 PID: 1 at old.c:1 before_the_run+0x1/0x2\n")
    log = KernelLog.open(tree)
    assert isinstance(log, KernelLog)
    log.write_marker()
    with path.open("ab") as file:
        file.write(lines)
    return RunLog(log, marker)


@pytest.mark.parametrize(
    ("lines", "mark", "verdict"),
    [
        (b"6,2,50,-;kvm: nothing special\n", PROVEN, Verdict.PASS),
        (b"", PROVEN, Verdict.PASS),
        (WARN % 2, PROVEN, Verdict.FAIL),
        (b"12,2,100,-;WARNING: said by a program of the user's\n", PROVEN, Verdict.PASS),
        (WARN % 2 + WARN % 5, PROVEN, Verdict.FAIL),
        (b"6,2,50,-;a\n6,5,60,-;b\n", PROVEN, Verdict.INCONCLUSIVE),
        (WARN % 2, Marker(None, Missing("no marker")), Verdict.FAIL),
        (b"", Marker(None, Missing("no marker")), Verdict.INCONCLUSIVE),
    ],
    ids=[
        "quiet",
        "empty",
        "warn",
        "userspace",
        "warn, lost lines",
        "lost lines",
        "warn, no mark",
        "no mark",
    ],
)
def test_no_warnings_follows_the_log(
    tmp_path: Path, lines: bytes, mark: Marker, verdict: Verdict
) -> None:
    need_kvm()
    log = stand_in_log(tmp_path, lines, mark)
    assert judged(observe("any.no-warnings", Machine(Tree()), log)).verdict is verdict


def test_no_warnings_shows_the_headline(tmp_path: Path) -> None:
    need_kvm()
    observations = observe("any.no-warnings", Machine(Tree()), stand_in_log(tmp_path, WARN % 2))
    (claim,) = [o for o in observations if isinstance(o, Reading) and o.role is Role.CLAIM]
    assert (claim.observed, claim.expected) == (1, 0)
    assert "vmx_vcpu_run" in str(claim.raw["headlines"])


def test_no_warnings_has_controls_that_hold_here() -> None:
    need_kvm()
    need_root()
    log = KernelLog.open(Tree())
    if isinstance(log, Missing):
        pytest.skip(f"needs /dev/kmsg: {log}")
    observations = observe("any.no-warnings", Machine(Tree()), RunLog(log, log.write_marker()))
    assert [c.agrees for c in controls(observations)] == [True, True]
    (entries,) = [o for o in observations if isinstance(o, Reading) and o.role is Role.MEASURE]
    assert isinstance(entries.observed, int)
    assert entries.observed >= 2000


LOUD = LogSlice((parse_record(WARN % 2),), 0)
QUIET = LogSlice((), 0)
CANT = Missing("debugfs can't be mounted", "mount it")
W = 1 << 9


@pytest.mark.parametrize(
    ("before", "after", "gained", "verdict", "said"),
    [
        (EarlierWarnings(0, None), 0, QUIET, Verdict.PASS, "would show"),
        (EarlierWarnings(0, CANT), 0, QUIET, Verdict.PASS, "taints"),
        (EarlierWarnings(1, CANT), 1, QUIET, Verdict.PASS, "taints"),
        (EarlierWarnings(W, None), W, QUIET, Verdict.PASS, "their once was given back"),
        (EarlierWarnings(W, CANT), W, QUIET, Verdict.INCONCLUSIVE, "may have fired before"),
        (EarlierWarnings(CANT, CANT), W, QUIET, Verdict.INCONCLUSIVE, "may have fired before"),
        (EarlierWarnings(CANT, None), W, QUIET, Verdict.PASS, "their once was given back"),
        (EarlierWarnings(0, None), W, QUIET, Verdict.FAIL, "W (WARN)"),
        (EarlierWarnings(W, CANT), W | 1 << 14, QUIET, Verdict.FAIL, "L (soft lockup)"),
        (EarlierWarnings(W, CANT), W, LOUD, Verdict.FAIL, "warnings since"),
        (EarlierWarnings(0, CANT), 1 << 12, QUIET, Verdict.PASS, "taints"),
    ],
)
def test_silence_counts_where_a_warning_could_have_been_heard(
    tmp_path: Path,
    before: EarlierWarnings,
    after: int,
    gained: LogSlice,
    verdict: Verdict,
    said: str,
) -> None:
    run = RunLog(stand_in_log(tmp_path, b"").log, PROVEN, before)
    readings = list(log_readings(run, gained, after))
    run.log.close()
    judgement = judged(readings)
    assert judgement.verdict is verdict
    assert said in " ".join([judgement.reason, *map(str, readings)])
    if verdict is not Verdict.PASS:
        assert said in judgement.reason


def test_where_a_warning_may_be_silent_the_reason_says_what_to_do(tmp_path: Path) -> None:
    run = RunLog(stand_in_log(tmp_path, b"").log, PROVEN, EarlierWarnings(W, CANT))
    reason = judged(list(log_readings(run, QUIET, W))).reason
    run.log.close()
    assert "debugfs can't be mounted" in reason
    assert reason.endswith("mount it, or boot anew")


def test_no_warnings_is_absent_without_a_log() -> None:
    assert observe("any.no-warnings", Machine(Tree())) == [Absence("klog", NO_LOG)]
