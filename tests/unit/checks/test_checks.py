"""The checks see what is there, their controls hold where they should, and each can fail."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.stand_in import (
    BTF,
    KMSG,
    KNOB,
    UNFIXED,
    intel_host,
    kvm_btf,
    kvm_intel_btf,
    need_kvm,
    need_root,
    write,
)

from kvmtest.checks import Context, check_of
from kvmtest.checks import guest as guest_view
from kvmtest.checks.context import RunLog
from kvmtest.checks.kernel import told_by_log
from kvmtest.cli import main
from kvmtest.guests import Guest, long_guest
from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.msr import IA32_DEBUGCTL, IA32_DEBUGCTL_FREEZE_WHILE_SMM, MsrAccess
from kvmtest.host.machine import Machine
from kvmtest.host.observe.earlier_warnings import EarlierWarnings
from kvmtest.host.observe.kernel_log import KernelLog, LogSlice, Mark, parse_record
from kvmtest.host.observe.tracing import RunProbe
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Judgement, Reading, Role, Verdict, judge
from kvmtest.kvm import Vcpu, Vm
from kvmtest.missing import Missing
from kvmtest.properties import find

NO_LOG = Missing("no kernel log in this test")


@contextmanager
def context_of(machine: Machine, log: RunLog | Missing = NO_LOG) -> Iterator[Context]:
    """Give a context whose journal changes stand-in trees, and of the live machine nothing."""
    with ExitStack() as stack:
        journal = Journal.open(machine.tree, dry_run=machine.tree.is_live)
        stack.callback(journal.close)
        if isinstance(log, RunLog):
            stack.callback(log.log.close)
        probe = RunProbe(machine.tree, journal)
        stack.callback(probe.close)
        yield Context(machine, journal, log, probe)


def observe(
    property_id: str, machine: Machine, log: RunLog | Missing = NO_LOG
) -> list[Reading | Absence]:
    with context_of(machine, log) as context:
        return list(check_of(find(property_id))(context))


def judged(observations: Sequence[Reading | Absence]) -> Judgement:
    readings = [o for o in observations if isinstance(o, Reading)]
    return judge(readings, [o for o in observations if isinstance(o, Absence)])


def controls(observations: Sequence[Reading | Absence]) -> list[Reading]:
    readings = [o for o in observations if isinstance(o, Reading)]
    found = [r for r in readings if r.role is Role.CONTROL]
    assert all(r.remedy for r in found), "a control that can't be mended"
    return found


# kernel.fix-present


def test_fix_present_has_a_control_that_holds_on_this_kernel() -> None:
    machine = Machine(Tree())
    if isinstance(machine.fix, Missing):
        pytest.skip(f"needs BTF of KVM: {machine.fix}")
    observations = observe("kernel.fix-present", machine)
    assert [c.agrees for c in controls(observations)] == [True]
    assert judged(observations).verdict in (Verdict.PASS, Verdict.FAIL)


@pytest.mark.parametrize(
    ("btf", "verdict"),
    [
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), Verdict.PASS),
        (UNFIXED, Verdict.FAIL),
        (kvm_btf("run"), Verdict.FAIL),
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL"), Verdict.FAIL),
        (kvm_btf("vcpu_run", KVM_RUN_LOAD_DEBUGCTL=4), Verdict.FAIL),
        (kvm_btf("vcpu_run", KVM_RUN_FORCE_IMMEDIATE_EXIT=1), Verdict.FAIL),
        (kvm_btf("HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), Verdict.INCONCLUSIVE),
        (kvm_btf("name"), Verdict.INCONCLUSIVE),
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", kvm=False, f=4), Verdict.INCONCLUSIVE),
        (kvm_btf("vcpu_run", kvm=False), Verdict.INCONCLUSIVE),
        (b"no BTF at all", Verdict.SKIP),
    ],
    ids=[
        "fixed",
        "unfixed",
        "old",
        "no flag",
        "no member",
        "flags",
        "no control",
        "blank",
        "types without KVM, fixed",
        "types without KVM, unfixed",
        "junk",
    ],
)
def test_fix_present_follows_the_types(tmp_path: Path, btf: bytes, verdict: Verdict) -> None:
    machine = Machine(intel_host(tmp_path, btf=btf))
    assert judged(observe("kernel.fix-present", machine)).verdict is verdict


def modules_over(root: Path, vmlinux: bytes, **modules: bytes) -> Machine:
    """Return a host whose modules kvm and kvm_intel are loaded, each with this BTF."""
    tree = intel_host(root, btf=vmlinux)
    write(tree, "/sys/module/kvm/initstate", "live\n")
    tree.path("/sys/kernel/btf/kvm_intel").unlink()
    for name, btf in modules.items():
        write(tree, f"/sys/kernel/btf/{name}", btf)
    return Machine(tree)


OLD, NEW = ("vcpu_run",), ("vcpu_run", "HOST_OWNED_DEBUGCTL")
FLAG = {"KVM_RUN_LOAD_DEBUGCTL": 4}
#: What kernel images with KVM as a module have: the types, from headers, and no function of KVM's.
OLD_IMAGE, NEW_IMAGE = kvm_btf(*OLD, kvm=False), kvm_btf(*NEW, kvm=False, **FLAG)


@pytest.mark.parametrize(
    ("vmlinux", "kvm", "kvm_intel", "verdict"),
    [
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), None, Verdict.PASS),
        (NEW_IMAGE, kvm_btf(*OLD, over=NEW_IMAGE), None, Verdict.FAIL),
        (NEW_IMAGE, kvm_btf(over=NEW_IMAGE), None, Verdict.PASS),
        (OLD_IMAGE, kvm_btf(over=OLD_IMAGE), None, Verdict.FAIL),
        (NEW_IMAGE, kvm_btf(over=NEW_IMAGE, kvm=False), None, Verdict.INCONCLUSIVE),
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), NEW, Verdict.PASS),
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), OLD, Verdict.FAIL),
        (NEW_IMAGE, kvm_btf(over=NEW_IMAGE), OLD, Verdict.FAIL),
        (OLD_IMAGE, kvm_btf(over=OLD_IMAGE), NEW, Verdict.FAIL),
        (OLD_IMAGE, kvm_btf(*NEW, over=OLD_IMAGE, **FLAG), ("name",), Verdict.INCONCLUSIVE),
    ],
    ids=[
        "fixed modules over an old image",
        "old modules over a fixed image",
        "the image's own modules, fixed",
        "the image's own modules, old",
        "a module that shows nothing of KVM",
        "both modules fixed over an old image",
        "kvm fixed, kvm_intel old",
        "kvm the image's, kvm_intel old",
        "kvm the image's, kvm_intel fixed",
        "kvm fixed, kvm_intel stripped",
    ],
)
def test_the_loaded_modules_types_decide(
    tmp_path: Path, vmlinux: bytes, kvm: bytes, kvm_intel: Sequence[str] | None, verdict: Verdict
) -> None:
    modules = {"kvm": kvm}
    if kvm_intel is not None:
        modules["kvm_intel"] = kvm_intel_btf(vmlinux, "vcpu", ops=kvm_intel)
    machine = modules_over(tmp_path, vmlinux, **modules)
    judgement = judged(observe("kernel.fix-present", machine))
    assert judgement.verdict is verdict, judgement.reason
    expected = {Verdict.PASS: 0, Verdict.FAIL: 1}.get(verdict, 4)
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == expected, (
        "kvmtest kernel inspect disagrees"
    )


def test_a_mixed_build_is_named_by_module(tmp_path: Path) -> None:
    kvm = kvm_btf(*NEW, over=OLD_IMAGE, **FLAG)
    kvm_intel = kvm_intel_btf(OLD_IMAGE, "vcpu", ops=OLD)
    machine = modules_over(tmp_path, OLD_IMAGE, kvm=kvm, kvm_intel=kvm_intel)
    reason = judged(observe("kernel.fix-present", machine)).reason
    assert "modules of different builds (1 of 1 in kvm; 0 of 1 in kvm_intel)" in reason


def test_kvm_intel_without_a_copy_of_its_own_leaves_it_to_kvm(tmp_path: Path) -> None:
    kvm = kvm_btf(*NEW, over=OLD_IMAGE, **FLAG)
    kvm_intel = kvm_intel_btf(OLD_IMAGE, "vcpu", "run_flags")
    machine = modules_over(tmp_path, OLD_IMAGE, kvm=kvm, kvm_intel=kvm_intel)
    judgement = judged(observe("kernel.fix-present", machine))
    assert judgement.verdict is Verdict.PASS, judgement.reason


@pytest.mark.parametrize("image", [OLD_IMAGE, NEW_IMAGE])
def test_an_image_without_kvm_decides_nothing_until_kvm_is_loaded(
    tmp_path: Path, image: bytes
) -> None:
    tree = intel_host(tmp_path, btf=image)
    for module in ("kvm", "kvm_intel"):
        shutil.rmtree(tree.path(f"/sys/module/{module}"))
    tree.path("/sys/kernel/btf/kvm_intel").unlink()
    judgement = judged(observe("kernel.fix-present", Machine(tree)))
    assert judgement.verdict is Verdict.SKIP
    assert judgement.reason == (
        "btf: module kvm is not loaded, so that no BTF describes it; modprobe kvm_intel"
    )
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == 4


def test_types_without_kvm_say_what_would_decide_it(tmp_path: Path) -> None:
    judgement = judged(observe("kernel.fix-present", Machine(intel_host(tmp_path, btf=NEW_IMAGE))))
    assert "something of KVM's own in this BTF, such as the function kvm_vcpu_ioctl: no" in (
        judgement.reason
    )
    assert "modprobe kvm_intel" in judgement.reason


def test_fix_present_names_what_is_missing(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path(BTF).unlink()
    (absence,) = observe("kernel.fix-present", Machine(tree))
    assert isinstance(absence, Absence)
    assert "BTF" in absence.missing.what


# host.knob-effective


class FollowingMsrs(MsrAccess):
    """Stands in for MSRs: DEBUGCTL says what the knob says, but for CPUs that are deaf."""

    deaf: Sequence[int] = ()
    tsc_step = 1000
    reads = 0

    def read(self, index: int, cpu: int) -> int:
        type(self).reads += 1
        if index != IA32_DEBUGCTL:
            return type(self).reads * self.tsc_step
        on = cpu not in self.deaf and self.tree.read(KNOB) == "1"
        return IA32_DEBUGCTL_FREEZE_WHILE_SMM if on else 0


def knob_effective(root: Path, msrs: type[FollowingMsrs], knob: int = 1) -> Judgement:
    tree = intel_host(root, knob=knob)
    machine = Machine(tree)
    vars(machine)["msr"] = msrs(tree, (0, 1), None)
    observations = observe("host.knob-effective", machine)
    assert tree.read(KNOB) == str(knob), "the knob is not put back"
    assert len(controls(observations)) == 2
    return judged(observations)


@pytest.mark.parametrize("knob", [0, 1])
def test_knob_effective_passes_where_every_cpu_follows(tmp_path: Path, knob: int) -> None:
    judgement = knob_effective(tmp_path, FollowingMsrs, knob)
    assert judgement.verdict is Verdict.PASS
    assert "(and 7 more)" in judgement.reason, "two CPUs, four writes"


@pytest.mark.parametrize("cpu", [0, 1])
def test_knob_effective_fails_where_one_cpu_does_not_follow(tmp_path: Path, cpu: int) -> None:
    class Deaf(FollowingMsrs):
        deaf = (cpu,)

    judgement = knob_effective(tmp_path, Deaf)
    assert judgement.verdict is Verdict.FAIL
    assert f"MSR 0x1d9 bit 14 of CPU {cpu} with the knob at 1: 0, expected 1" in judgement.reason


def test_knob_effective_decides_nothing_where_the_tsc_stands_still(tmp_path: Path) -> None:
    class Frozen(FollowingMsrs):
        tsc_step = 0

    judgement = knob_effective(tmp_path, Frozen)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "the TSC of CPU 0" in judgement.reason


def test_dead_msr_files_are_no_proof_against_the_knob(tmp_path: Path) -> None:
    observations = observe("host.knob-effective", Machine(intel_host(tmp_path)))
    assert judged(observations).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("gone", [KNOB, "/dev/cpu/0/msr"])
def test_knob_effective_is_absent_without_knob_or_msrs(tmp_path: Path, gone: str) -> None:
    tree = intel_host(tmp_path)
    tree.path(gone).unlink()
    (absence,) = observe("host.knob-effective", Machine(tree))
    assert isinstance(absence, Absence)


def test_knob_effective_writes_the_knob_both_ways_through_the_journal(tmp_path: Path) -> None:
    machine = Machine(intel_host(tmp_path, knob=1))
    with context_of(machine) as context:
        list(check_of(find("host.knob-effective"))(context))
        (change,) = context.journal.changes
        assert (change.path, change.old, change.writes) == (KNOB, "1", 4)


# guest.rdmsr-hides


def without_knob() -> Machine:
    """Return this machine, its knob out of reach: a test changes nothing on it."""
    need_kvm()
    machine = Machine(Tree())
    vars(machine)["knob"] = Missing("the knob is left alone in tests")
    return machine


def test_rdmsr_hides_has_controls_that_hold_here() -> None:
    if Tree().read("/sys/module/kvm/parameters/ignore_msrs") not in (None, "N"):
        pytest.skip("needs kvm.ignore_msrs=N: an MSR that is none is to fault")
    observations = observe("guest.rdmsr-hides", without_knob())
    found = controls(observations)
    assert [c.agrees for c in found] == [True] * 3, list(map(str, found))
    claims = [o for o in observations if isinstance(o, Reading) and o.role is Role.CLAIM]
    assert len(claims) == 2
    assert judged(observations).verdict in (Verdict.PASS, Verdict.FAIL)


#: IA32_SYSENTER_ESP: like DEBUGCTL an MSR that a guest has, and here it shows bit 14.
IA32_SYSENTER_ESP = 0x175


@pytest.mark.parametrize("value", [IA32_DEBUGCTL_FREEZE_WHILE_SMM, 0x7FFF])
def test_rdmsr_hides_fails_where_a_guest_sees_the_bit(
    monkeypatch: pytest.MonkeyPatch, value: int
) -> None:
    def showing(vm: Vm, vcpu: Vcpu) -> Guest:
        vcpu.set_msr(IA32_SYSENTER_ESP, value)
        return long_guest(vm, vcpu)

    monkeypatch.setattr(guest_view, "long_guest", showing)
    monkeypatch.setattr(guest_view, "IA32_DEBUGCTL", IA32_SYSENTER_ESP)
    judgement = judged(observe("guest.rdmsr-hides", without_knob()))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reason.startswith("guest: bit 14 in the guest's RDMSR 0x1d9: 1, expected 0")


def test_rdmsr_hides_does_not_take_other_bits_for_the_host_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def showing(vm: Vm, vcpu: Vcpu) -> Guest:
        vcpu.set_msr(IA32_SYSENTER_ESP, 0x3FFF)
        return long_guest(vm, vcpu)

    monkeypatch.setattr(guest_view, "long_guest", showing)
    monkeypatch.setattr(guest_view, "IA32_DEBUGCTL", IA32_SYSENTER_ESP)
    assert judged(observe("guest.rdmsr-hides", without_knob())).verdict is not Verdict.FAIL


def test_rdmsr_hides_decides_nothing_where_the_guest_shows_other_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The TSC is never what was put into it a moment ago.
    monkeypatch.setattr(guest_view, "IA32_SYSENTER_EIP", 0x10)
    judgement = judged(observe("guest.rdmsr-hides", without_knob()))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "control did not hold" in judgement.reason


# any.no-warnings

WARN = b"4,%d,100,-;WARNING: CPU: 1 PID: 77 at arch/x86/kvm/vmx/vmx.c:123 vmx_vcpu_run+0x1/0x2\n"
PROVEN = Mark("token", None)


def stand_in_log(root: Path, lines: bytes, mark: Mark = PROVEN) -> RunLog:
    """Return a log that gains ``lines`` after its mark."""
    tree = Tree(root)
    path = write(tree, KMSG, b"4,1,10,-;WARNING: CPU: 0 PID: 1 at old.c:1 before_the_run+0x1/0x2\n")
    log = KernelLog.open(tree)
    assert isinstance(log, KernelLog)
    log.mark()
    with path.open("ab") as file:
        file.write(lines)
    return RunLog(log, mark)


@pytest.mark.parametrize(
    ("lines", "mark", "verdict"),
    [
        (b"6,2,50,-;kvm: nothing special\n", PROVEN, Verdict.PASS),
        (b"", PROVEN, Verdict.PASS),
        (WARN % 2, PROVEN, Verdict.FAIL),
        (b"12,2,100,-;WARNING: said by a program of the user's\n", PROVEN, Verdict.PASS),
        (WARN % 2 + WARN % 5, PROVEN, Verdict.FAIL),
        (b"6,2,50,-;a\n6,5,60,-;b\n", PROVEN, Verdict.INCONCLUSIVE),
        (WARN % 2, Mark(None, Missing("no marker")), Verdict.FAIL),
        (b"", Mark(None, Missing("no marker")), Verdict.INCONCLUSIVE),
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
    tmp_path: Path, lines: bytes, mark: Mark, verdict: Verdict
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
    observations = observe("any.no-warnings", Machine(Tree()), RunLog(log, log.mark()))
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
    readings = list(told_by_log(run, gained, after, 2000))
    run.log.close()
    judgement = judged(readings)
    assert judgement.verdict is verdict
    assert said in " ".join([judgement.reason, *map(str, readings)])
    if verdict is not Verdict.PASS:
        assert said in judgement.reason


def test_where_a_warning_may_be_silent_the_reason_says_what_to_do(tmp_path: Path) -> None:
    run = RunLog(stand_in_log(tmp_path, b"").log, PROVEN, EarlierWarnings(W, CANT))
    reason = judged(list(told_by_log(run, QUIET, W, 2000))).reason
    run.log.close()
    assert "debugfs can't be mounted" in reason
    assert reason.endswith("mount it, or boot anew")


def test_no_warnings_is_absent_without_a_log() -> None:
    assert observe("any.no-warnings", Machine(Tree())) == [Absence("klog", NO_LOG)]


# All of them


@pytest.mark.parametrize(
    "property_id", ["kernel.fix-present", "host.knob-effective", "guest.rdmsr-hides"]
)
def test_a_check_of_the_live_machine_leaves_its_files_alone(property_id: str) -> None:
    if property_id == "guest.rdmsr-hides":
        need_kvm()
    machine = Machine(Tree())
    knob = machine.knob
    before = None if isinstance(knob, Missing) else knob.values()
    observe(property_id, machine)
    assert before == (None if isinstance(knob, Missing) else knob.values())
