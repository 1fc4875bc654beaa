"""A watch says of each vCPU whether its next entry was told of each toggle, and puts all back."""

from pathlib import Path

import pytest
from support.stand_in import KNOB, write
from support.watched_host import PID, TIDS, DeafMsrs, Kernel, watched_host

from kvmtest import watch as watching
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.host.facts.tracefs import KPROBE_EVENTS, TRACING
from kvmtest.host.observe.trace import Hit
from kvmtest.judge import Verdict
from kvmtest.watch import Watched, WatchOptions, entry_after, watch

OPTIONS = WatchOptions(PID, toggles=4, seconds=0.05, stops=False)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Kernel]:
    kernel = type("ThisKernel", (Kernel,), {})
    monkeypatch.setattr(watching, "Journal", kernel)
    return kernel


def hit(time_us: int, flags: int = 0) -> Hit:
    return Hit(TIDS[0], 0, time_us, {"flags": flags}, "vmx_vcpu_run")


def is_flagged(flags: int) -> bool:
    return bool(flags & 4)


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ([], (False, False)),
        ([hit(90)], (False, False)),
        ([hit(90, 4)], (False, False)),
        ([hit(90), hit(111)], (True, False)),
        ([hit(111, 4)], (True, True)),
        ([hit(111, 5), hit(112)], (True, True)),
        # Too late.
        ([hit(111), hit(112, 4)], (True, False)),
        # An entry during the toggle may have the new bit or the old one.
        ([hit(105, 4), hit(111)], (True, True)),
        ([hit(105), hit(111, 4)], (True, True)),
        ([hit(105), hit(111)], (True, False)),
        ([hit(105, 4)], (True, True)),
        ([hit(105)], (False, False)),
    ],
)
def test_the_next_entry_is_that_during_the_toggle_or_the_first_after_it(
    hits: list[Hit], expected: tuple[bool, bool]
) -> None:
    assert entry_after(hits, 100, 110, is_flagged) == expected


def test_vcpus_that_see_each_toggle_pass(tmp_path: Path, kernel: type[Kernel]) -> None:
    machine = watched_host(tmp_path)
    said: list[str] = []
    watched = watch(machine, OPTIONS, said.append)
    assert (watched.judgement.verdict, watched.exit_status) == (Verdict.PASS, 0)
    assert [(each.vcpu, each.thread) for each in watched.vcpus] == [(0, 78), (1, 79)]
    assert [(each.saw, each.entered) for each in watched.vcpus] == [(4, 4)] * 2
    assert [set(each.exits) for each in watched.vcpus] == [{"HLT"}] * 2
    assert all(each.entry_rate == each.exit_rate for each in watched.vcpus)
    assert (watched.toggles, watched.undo_failures) == (4, [])
    # The stand-in's log takes no mark.
    assert ["the run's own mark" in each.what for each in watched.missing] == [True]
    assert machine.tree.read(KNOB) == "1"
    assert not list(machine.tree.path(f"{TRACING}/instances").glob("*/"))
    assert said[-1] == "toggle 4 of 4"


def test_a_vcpu_that_misses_a_toggle_fails(tmp_path: Path, kernel: type[Kernel]) -> None:
    kernel.misses = {TIDS[1]}
    watched = watch(watched_host(tmp_path), OPTIONS)
    assert (watched.judgement.verdict, watched.exit_status) == (Verdict.FAIL, 1)
    assert [(each.saw, each.entered) for each in watched.vcpus] == [(4, 4), (0, 4)]
    assert "the next entry of vCPU 1 after freeze_on_smi went to 0" in watched.judgement.reason


def test_a_vcpu_that_sleeps_decides_nothing(tmp_path: Path, kernel: type[Kernel]) -> None:
    kernel.asleep = {TIDS[1]}
    watched = watch(watched_host(tmp_path), OPTIONS)
    assert watched.judgement.verdict is Verdict.PASS
    assert [(each.saw, each.entered) for each in watched.vcpus] == [(4, 4), (0, 0)]
    kernel.asleep = set(TIDS)
    watched = watch(watched_host(tmp_path / "other"), OPTIONS)
    assert (watched.judgement.verdict, watched.exit_status) == (Verdict.INCONCLUSIVE, 4)
    assert "no vCPU entered the guest after a toggle" in watched.judgement.reason


def test_a_knob_that_does_not_reach_the_msr_decides_nothing(
    tmp_path: Path, kernel: type[Kernel]
) -> None:
    watched = watch(watched_host(tmp_path, DeafMsrs), OPTIONS)
    assert (watched.judgement.verdict, watched.exit_status) == (Verdict.INCONCLUSIVE, 4)
    assert "the host's bit 14 on every CPU with freeze_on_smi=1" in watched.judgement.reason


def test_trouble_in_the_kernel_log_fails(tmp_path: Path, kernel: type[Kernel]) -> None:
    kernel.warns = True
    watched = watch(watched_host(tmp_path), OPTIONS)
    assert (watched.judgement.verdict, watched.exit_status) == (Verdict.FAIL, 1)
    assert "klog: warnings since the run began" in watched.judgement.reason


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (KNOB, "no freeze_on_smi"),
        (KPROBE_EVENTS, "kprobe_events"),
        (f"{TRACING}/events/kvm/kvm_entry/enable", "no tracepoint kvm:kvm_entry"),
        ("/sys/kernel/debug/kvm/78-12/vcpu1/pid", "no thread was seen to run vCPU 1"),
    ],
)
def test_what_the_machine_lacks_is_named(
    tmp_path: Path, kernel: type[Kernel], gone: str, said: str
) -> None:
    machine = watched_host(tmp_path)
    path = machine.tree.path(gone)
    path.unlink()
    if gone.endswith("enable"):
        path.parent.rmdir()
    kernel.asleep = {TIDS[1]}
    watched = watch(machine, OPTIONS)
    assert said in str(watched.missing[0])
    decides = gone not in (KNOB, KPROBE_EVENTS)
    assert watched.exit_status == (0 if decides else 4)


def test_entries_tell_which_thread_runs_a_vcpu(tmp_path: Path, kernel: type[Kernel]) -> None:
    machine = watched_host(tmp_path)
    for number in (0, 1):
        machine.tree.path(f"/sys/kernel/debug/kvm/78-12/vcpu{number}/pid").unlink()
    watched = watch(machine, OPTIONS)
    assert watched.judgement.verdict is Verdict.PASS
    assert [each.thread for each in watched.vcpus] == list(TIDS)


def test_without_toggles_only_rates_are_measured(tmp_path: Path, kernel: type[Kernel]) -> None:
    machine = watched_host(tmp_path)
    watched = watch(machine, WatchOptions(PID, toggles=0, seconds=0.05, stops=False))
    assert (watched.toggles, watched.exit_status) == (0, 4)
    assert "nothing was toggled" in watched.judgement.reason
    assert watched.vcpus[0].entry_rate


def test_a_watch_that_is_over_puts_all_back(tmp_path: Path, kernel: type[Kernel]) -> None:
    machine = watched_host(tmp_path)
    said: list[str] = []
    watched = watch(machine, OPTIONS, said.append, lambda: "toggle 2 of 4" in said)
    assert watched.toggles == 2
    assert machine.tree.read(KNOB) == "1"


def test_others_vms_are_left_alone(tmp_path: Path, kernel: type[Kernel]) -> None:
    machine = watched_host(tmp_path)
    write(machine.tree, "/proc/99/comm", "other\n")
    machine.tree.path("/proc/99/fd").mkdir()
    machine.tree.path("/proc/99/fd/3").symlink_to("anon_inode:kvm-vm")
    with pytest.raises(EnvironmentUnfit, match="other VMs run here: other"):
        watch(machine, OPTIONS)
    assert machine.tree.read(KNOB) == "1"
    allowed = WatchOptions(PID, toggles=2, seconds=0.05, stops=False, allow_other_vms=True)
    assert watch(machine, allowed).exit_status == 0


@pytest.mark.parametrize(
    ("pid", "error", "said"),
    [(5, UsageError, "no process has the ID 5"), (6, UsageError, "has no vCPU open")],
)
def test_a_process_that_is_no_vmm_is_refused(
    tmp_path: Path, pid: int, error: type[KvmtestError], said: str
) -> None:
    machine = watched_host(tmp_path)
    write(machine.tree, "/proc/6/comm", "bash\n")
    machine.tree.path("/proc/6/fd").mkdir()
    with pytest.raises(error, match=said):
        watch(machine, WatchOptions(pid, stops=False))


def test_what_could_not_be_undone_is_an_error(tmp_path: Path, kernel: type[Kernel]) -> None:
    watched = watch(watched_host(tmp_path), OPTIONS)
    values = {name: getattr(watched, name) for name in Watched.__match_args__}
    assert Watched(**{**values, "undo_failures": ["the knob"]}).exit_status == 3
    assert watched.to_dict()["exit_status"] == 0
    assert watched.to_dict()["vcpus"][0]["saw"] == 4
