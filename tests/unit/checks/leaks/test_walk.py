"""The leak walk finds each fault at its own step: on a KVM of a few lines, whole and broken."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.debugctl_model import FAULTS, FREEZE_IN_SMM, Host, Refused, Vmcs12, Vmx

from kvmtest._native import lib
from kvmtest.checks.leaks import walk as leak_walk
from kvmtest.checks.leaks.smis import PROOFS, SMIS_PER_WINDOW
from kvmtest.checks.leaks.walk import LENGTH, OFF, ON, REFERENCE, SLOW_TIMES, STEPS, Step
from kvmtest.checks.leaks.watchers import Disturbed
from kvmtest.checks.leaks.windows import arm_under
from kvmtest.checks.stimuli import nesting
from kvmtest.checks.stimuli.stimulus import Stimulus
from kvmtest.checks.witnesses import leak as leak_witness
from kvmtest.checks.witnesses.leak import look_for_leaks
from kvmtest.errors import KvmtestError
from kvmtest.guests import commands
from kvmtest.guests.l1 import FAILED_ENTRY, VmExit
from kvmtest.guests.vmcs12 import ENTRY_LOAD_DEBUG_CONTROLS
from kvmtest.judge import Absence, Reading, Role, Verdict, control, judge
from kvmtest.judge.leak import conclude_again
from kvmtest.judge.samples import Arm, Samples, Window
from kvmtest.kvm import MsrRefused
from kvmtest.lab.mutants import MUTANTS
from kvmtest.properties import PROPERTIES

PER_SMI, SMIS = 11, 5

#: The property that looks at a step; and the step that must notice a fault.
OWNERS = {
    Step.TOGGLED: "vmx.entry.toggled",
    Step.NEW: "vmx.entry.fresh",
    Step.REFUSED: "vmx.guest.wrmsr-refused",
    Step.WRITTEN: "vmx.guest.write-keeps-host-bit",
    Step.MIGRATED: "vmx.entry.migrated",
    Step.RUNNING: "vmx.entry.toggled-running",
    Step.L2: "nvmx.entry.l2",
    Step.FREEZE12: "nvmx.vmcs12.freeze-bit",
    Step.RESTORED: "nvmx.restore",
    Step.VMFAIL: "nvmx.entry.vmfail-reload",
}
#: Noticed by several steps here: one lags a toggle behind, one is of any entry to L2 that does not
#: load vmcs12's DEBUGCTL, and one has any guest set bit 14.
WIDE = {"snapshot-stored-late", "restored-without-host-bit", "bit-14-by-guest"}
FOUND_AT = {
    mutant.name: step
    for mutant in MUTANTS
    for step, owner in OWNERS.items()
    if mutant.leak == owner and mutant.name not in WIDE
}


class Kvm(Host):
    """A KVM, whole or with a fault; one vCPU at a time, which is its own guest."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.has_failed_entry = False
        self.create()

    def create(self) -> None:
        """Make a new vCPU, and run it for a moment."""
        self.model = FAULTS.get(self.fault, Vmx)(self)
        self.enter()

    def enter(self) -> None:
        """Be in a KVM_RUN."""
        self.model.vcpu_run()
        self.model.vcpu_enter_guest()

    @property
    def bit(self) -> int:
        return self.model.vmcs & FREEZE_IN_SMM

    def write(self, value: int, *, by_host: bool) -> None:
        """Write DEBUGCTL. Raises MsrRefused."""
        try:
            self.model.set_debugctl(value, by_host=by_host)
        except Refused:
            raise MsrRefused("KVM_SET_MSRS", 0x1D9, value) from None

    # The guest and its vCPU

    def execute(self, command: commands.Command, *, timeout: float = 1.0) -> list[commands.Result]:
        self.enter()
        if command == commands.nop():
            return [commands.Result((0, 0, 0, 0))]
        fault = None
        try:
            self.write(command.arguments[1], by_host=False)
        except MsrRefused:
            fault = commands.Fault(13, 0, 0)
        return [commands.Result((0, 0, 0, 0), fault)]

    def complete(self) -> None:
        pass

    def set_msr(self, index: int, value: int) -> None:
        assert index == 0x1D9
        self.write(value, by_host=True)


class Nested:
    """L1 and L2 on that KVM: the bit of vmcs01 waits while L2 runs."""

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    @property
    def is_in_l2(self) -> bool:
        return self.kvm.model.vmcs01 is not None

    def enter_l2(self) -> None:
        self.kvm.model.enter_l2()
        self.kvm.enter()

    def leave_l2(self) -> None:
        self.kvm.model.leave_l2()
        self.kvm.enter()

    def remove_virtual_apic_page(self) -> None:
        pass

    def fail_entry(self) -> bool:
        self.kvm.has_failed_entry = True
        self.kvm.enter()
        self.kvm.model.fail_l2()
        return True


class Saved:
    """A saved L2: its vCPU is taken out of L2 when it is restored."""

    @classmethod
    def of(cls, _: object) -> "Saved":
        return cls()

    def restore(self, guest: Any) -> None:
        guest.kvm.model.leave_l2()
        guest.kvm.model.enter_l2(pending=False)


class CodedL1:
    """L1 with code on that KVM."""

    def __init__(self, guest: Any) -> None:
        self.kvm: Kvm = guest.kvm
        self.fields = dict.fromkeys(
            ("vm_entry_controls", "vm_exit_controls", "guest_ia32_debugctl"), 0
        )
        self.read = self.fields.__getitem__

    def write(self, **fields: int) -> None:
        self.fields |= fields
        loads = bool(self.fields["vm_entry_controls"] & ENTRY_LOAD_DEBUG_CONTROLS)
        self.vmcs12 = Vmcs12(self.fields["guest_ia32_debugctl"], loads)

    @property
    def is_in_l2(self) -> bool:
        return self.kvm.model.is_in_l2

    def enter(self) -> VmExit | None:
        self.kvm.enter()
        try:
            self.kvm.model.check_guest_state(self.vmcs12)
        except Refused:
            return VmExit(FAILED_ENTRY | 33, 0, 0)
        self.kvm.model.enter_l2(self.vmcs12)
        self.kvm.model.vcpu_enter_guest()
        return None

    def leave(self) -> None:
        self.kvm.enter()
        self.kvm.model.leave_l2()
        self.kvm.model.vcpu_enter_guest()

    def try_command(self, command: commands.Command) -> None:
        assert command == commands.vmxoff()
        assert not self.is_in_l2


class GuestOf:
    """A guest on that KVM, which is its own vCPU."""

    def __init__(self, kvm: Kvm) -> None:
        self.execute = kvm.execute
        self.vcpu = self.kvm = kvm


class FakeWatchers:
    """One guest; ``per_smi`` is what an SMI counts where the bit is 0."""

    def __init__(self, kvm: Kvm, per_smi: int = PER_SMI, noise: Callable[[], int] = int) -> None:
        self.kvm = kvm
        self.watcher: Any = SimpleNamespace(
            guest=GuestOf(kvm), vcpu=0,
            settle=kvm.enter,
        )  # fmt: skip
        self.is_late = False
        self.lengths: set[float] = set()
        self._per_smi = per_smi
        self._noise = noise

    def replace_guests(self, _: object) -> Iterator[Reading]:
        self.kvm.create()
        yield control("leak", "a new vCPU ran", True, True, "")

    def apply(self, stimulus: Stimulus) -> Iterator[Reading]:
        # In the vCPU's thread, which is on one CPU.
        others, self.kvm.cpus = self.kvm.cpus, {0}
        done = stimulus.apply(self.watcher.guest)
        assert self.kvm.cpus == {0}
        self.kvm.cpus = others
        yield control("leak", stimulus.does, done, True, "")

    def settle(self) -> None:
        self.kvm.enter()

    def take_windows(self, arm: Arm, length: float) -> list[tuple[Window, list[object]]]:
        self.lengths.add(length)
        self.kvm.enter()
        return self._taken(arm, int(lib.clock_tsc()))

    def take_windows_around(
        self, arm: Arm, amid: Callable[[], Any], length: float
    ) -> tuple[Any, list[tuple[Window, list[object]]]]:
        self.lengths.add(length)
        self.kvm.enter()
        began = int(lib.clock_tsc())
        done = amid()
        if self.is_late:
            began = int(lib.clock_tsc())
        self.kvm.model.vcpu_enter_guest()
        return done, self._taken(arm, began)

    def _taken(self, arm: Arm, began: int) -> list[tuple[Window, list[object]]]:
        smis = 0 if arm is Arm.QUIET else SMIS
        counted = 1000 + self._noise() + (0 if self.kvm.bit else self._per_smi * smis)
        ended = int(lib.clock_tsc())
        exits = self._exits(arm)
        window = Window(arm, began, ended, {"i": counted}, {"i": 1000}, exits, smis, smis + exits)
        return [(window, [])]

    def _exits(self, arm: Arm) -> int:
        return 0


class RareTimer(FakeWatchers):
    """A timer ends each run with SMIs, a quiet one seldom, and none after a failed entry to L2."""

    quiet = 0

    def _exits(self, arm: Arm) -> int:
        if arm is not Arm.QUIET:
            return 1
        self.quiet += 1
        return int(self.quiet % 10 == 0 and not self.kvm.has_failed_entry)


def walk(
    monkeypatch: pytest.MonkeyPatch,
    kvm: Kvm,
    watchers: FakeWatchers | None = None,
    *,
    before: list[Reading | Absence] | None = None,
    has_nested: bool = True,
    is_patient: bool = False,
) -> Any:
    """Return a context whose walks go over that KVM."""
    watchers = watchers or FakeWatchers(kvm)

    def set_knob(value: int) -> Iterator[Reading]:
        kvm.knob = value
        yield control("leak", "the host's bit", value, value, "")

    knob = SimpleNamespace(paths=("freeze_on_smi",))
    journal = SimpleNamespace(write=lambda _, value: setattr(kvm, "knob", int(value)))
    scene = SimpleNamespace(
        set_knob=set_knob, knob=knob, journal=journal, machine=None, on_step=lambda _: None
    )

    def experiment(_: object, __: object, procedure: Any, *, knob: int) -> Iterator[Any]:
        assert knob == 1
        yield from before or [control("leak", "SMIs are counted", "yes", "yes", "")]
        if before is None:
            perform = procedure.slow if is_patient else procedure.fast
            yield from perform(scene, watchers)

    monkeypatch.setattr(leak_walk, "experiment", experiment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: kvm.cpus)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: setattr(kvm, "cpus", cpus))
    monkeypatch.setattr(nesting, "NestedGuest", lambda guest: Nested(guest.kvm))
    monkeypatch.setattr(nesting, "L1", CodedL1)
    monkeypatch.setattr(nesting, "SavedGuest", Saved)
    monkeypatch.setattr(leak_witness, "witness_lacks", lambda machine, _: machine)
    for each in (leak_walk, leak_witness):
        monkeypatch.setattr(
            each, "answer", lambda _, need: None if need != "nested" or has_nested else "no"
        )
    return SimpleNamespace(machine=[], found={})


def read(context: Any, step: Step) -> list[Reading]:
    readings = list(look_for_leaks(context, step))
    assert all(isinstance(reading, Reading) for reading in readings)
    return readings  # type: ignore[return-value]


def test_the_properties_that_look_name_the_witness() -> None:
    assert OWNERS.keys() == set(Step) == STEPS.keys()
    witnesses = {p.id: p.witnesses for p in PROPERTIES}
    assert all("leak" in witnesses[owner] for owner in OWNERS.values())


def test_a_kvm_that_is_right_passes_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    context = walk(monkeypatch, Kvm())
    for step in Step:
        readings = read(context, step)
        assert judge(readings).verdict is Verdict.PASS, step
        claims = [r for r in readings if r.role is Role.CLAIM]
        assert all(f"counts SMM {step.value} with the knob" in r.what for r in claims)
        assert judge(conclude_again(readings)).verdict is Verdict.PASS, "from the record alone, too"


@pytest.mark.parametrize(("fault", "where"), FOUND_AT.items())
def test_a_fault_fails_at_its_step_and_at_no_other(
    monkeypatch: pytest.MonkeyPatch, fault: str, where: Step
) -> None:
    context = walk(monkeypatch, Kvm(fault))
    verdicts = {step: judge(read(context, step)).verdict for step in Step}
    assert [step for step, verdict in verdicts.items() if verdict is Verdict.FAIL] == [where]
    # One whose control is what the fault spoils decides nothing.
    spoilt = {step for step in Step if REFERENCE[step] is where}
    assert all(v is Verdict.PASS for s, v in verdicts.items() if s not in {where} | spoilt)


def test_each_step_has_both_its_knobs_and_no_window_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = walk(monkeypatch, Kvm())
    for step in Step:
        samples = Samples.of(read(context, step))
        windows = samples.windows
        assert {w.state for w in windows} == {"", step.value}
        assert [w.began for w in windows] == sorted(w.began for w in windows)
        assert sum(w.arm is Arm.QUIET for w in windows) >= 6
        arms = [w.arm for w in windows if w.state]
        assert {arm: arms.count(arm) for arm in arms}.items() <= {
            Arm.KNOB_OFF: OFF, Arm.KNOB_ON: ON
        }.items()  # fmt: skip
        both = {Arm.KNOB_OFF, Arm.KNOB_ON}
        assert set(arms) == (
            both if step in (Step.NEW, Step.L2, Step.FREEZE12)
            else {Arm.KNOB_OFF} if step in (Step.TOGGLED, Step.REFUSED)
            else {Arm.KNOB_ON}
        )  # fmt: skip
        with_smis = [w for w in windows if w.arm is not Arm.QUIET]
        expected = Arm.MIXED if step is Step.RUNNING else None
        assert all(
            arm_under(samples.toggles, w) is ((w.state and expected) or w.arm) for w in with_smis
        )
        assert PROOFS + len(with_smis) * LENGTH * SMIS_PER_WINDOW < 100


def test_quiet_windows_show_what_an_exit_costs_before_a_failed_entry_keeps_timers_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kvm = Kvm()
    context = walk(monkeypatch, kvm, RareTimer(kvm))
    for step in Step:
        assert judge(read(context, step)).verdict is Verdict.PASS, step


def test_where_a_run_begins_after_the_toggle_that_was_to_be_amid_it_it_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kvm = Kvm("snapshot-once-per-run")
    watchers = FakeWatchers(kvm)
    watchers.is_late = True
    readings = read(walk(monkeypatch, kvm, watchers), Step.RUNNING)
    assert not [r for r in readings if r.role is Role.CLAIM]


def test_with_one_cpu_steps_that_need_two_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kvm = Kvm()
    kvm.cpus = {0}
    context = walk(monkeypatch, kvm)
    for step in (Step.MIGRATED, Step.RUNNING):
        assert all(r.role is Role.CONTROL for r in read(context, step))
    assert judge(read(context, Step.VMFAIL)).verdict is Verdict.PASS


def test_it_is_walked_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kvm = Kvm()
    context = walk(monkeypatch, kvm)
    first = read(context, Step.NEW)
    kvm.fault = "created-with-bit"
    assert Samples.of(read(context, Step.NEW)) == Samples.of(first)


def test_where_nothing_is_counted_in_smm_nothing_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kvm = Kvm()
    context = walk(monkeypatch, kvm, FakeWatchers(kvm, per_smi=0))
    for step in Step:
        readings = read(context, step)
        assert judge(readings).verdict is Verdict.INCONCLUSIVE
        assert all(r.role is not Role.CLAIM for r in readings)


def test_what_is_undecided_takes_nothing_from_other_witnesses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kvm = Kvm()
    noise = iter(range(0, 100_000, 17))
    context = walk(monkeypatch, kvm, FakeWatchers(kvm, noise=lambda: next(noise) ** 2 % 301))
    mine = [
        control("vmcs", "the dump", "whole", "whole", ""),
        Reading("vmcs", Role.CLAIM, "bit 14", 1, 1),
    ]
    assert judge([*mine, *read(context, Step.TOGGLED)]).verdict is Verdict.PASS


def test_without_smis_there_is_what_is_missing_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = control("leak", "the count follows", "no", "yes", "use another")
    context = walk(monkeypatch, Kvm(), before=[refused])
    assert read(context, Step.NEW) == [refused]
    context.machine = ["no PMU"]
    assert not read(context, Step.NEW)


def test_without_nesting_the_other_steps_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    context = walk(monkeypatch, Kvm(), has_nested=False)
    assert judge(read(context, Step.WRITTEN)).verdict is Verdict.PASS
    for step in (Step.L2, Step.FREEZE12, Step.VMFAIL):
        assert all(r.role is Role.CONTROL for r in read(context, step))


def test_an_l1_that_may_not_set_bit_14_decides_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = walk(monkeypatch, Kvm("quirk-missing"))
    assert all(r.role is Role.CONTROL for r in read(context, Step.FREEZE12))
    assert judge(read(context, Step.VMFAIL)).verdict is Verdict.PASS


@pytest.mark.parametrize("error", [KvmtestError("it broke"), Disturbed("try again")])
def test_what_ends_it_is_told_by_the_steps_that_were_not_done(
    monkeypatch: pytest.MonkeyPatch, error: KvmtestError
) -> None:
    kvm = Kvm()

    def raise_(*_: object) -> None:
        raise error

    kvm.set_msr = raise_  # type: ignore[method-assign]
    context = walk(monkeypatch, kvm)
    for step in (Step.TOGGLED, Step.NEW):
        assert judge(read(context, step)).verdict is Verdict.PASS
    for step in list(Step)[2:]:
        if isinstance(error, Disturbed):
            *before, last = look_for_leaks(context, step)
            assert isinstance(last, Absence)
            assert last.missing.what == "try again"
            readings = [each for each in before if isinstance(each, Reading)]
            assert judge(readings, [last]).verdict is Verdict.INCONCLUSIVE
            assert "try again" in judge(readings, [last]).reason
        else:
            with pytest.raises(KvmtestError, match="it broke"):
                list(look_for_leaks(context, step))


@pytest.mark.parametrize(
    "error", [KvmtestError("it broke"), OSError(22, "it broke"), ValueError("it broke")]
)
def test_whatever_ends_it_nobody_walks_it_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    context = walk(monkeypatch, Kvm())
    walks = []

    def experiment(*_: object, **__: object) -> Iterator[Reading]:
        walks.append(1)
        raise error
        yield

    monkeypatch.setattr(leak_walk, "experiment", experiment)
    for step in Step:
        with pytest.raises(type(error), match="it broke"):
            list(look_for_leaks(context, step))
    assert len(walks) == 1


def test_exits_that_no_quiet_window_had_on_the_way_do_not_silence_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(FakeWatchers):
        """Windows with SMIs have a VM-exit; quiet ones only at last, when the others are taken."""

        def __init__(self, kvm: Kvm) -> None:
            super().__init__(kvm)
            self.quiet_in_a_row = 0

        def _taken(self, arm: Arm, began: int) -> list[tuple[Window, list[object]]]:
            ((window, gaps),) = super()._taken(arm, began)
            self.quiet_in_a_row = self.quiet_in_a_row + 1 if arm is Arm.QUIET else 0
            exits = int(arm is not Arm.QUIET or self.quiet_in_a_row > 3)
            return [(dataclasses.replace(window, exits=exits, gaps=window.gaps + exits), gaps)]

    kvm = Kvm()
    context = walk(monkeypatch, kvm, Interrupted(kvm))
    for step in Step:
        assert judge(read(context, step)).verdict is Verdict.PASS, step


def slow(kvm: Kvm, *, is_waited: bool = False) -> FakeWatchers:
    """A watchers whose windows have one SMI each, of a long handler."""
    watchers = FakeWatchers(kvm, per_smi=100_000)
    watchers.smis = SimpleNamespace(windows=SimpleNamespace(waited=is_waited))  # type: ignore[attr-defined]
    return watchers


@pytest.mark.parametrize(("fault", "step"), [("", None), *FOUND_AT.items()])
def test_with_one_smi_a_window_each_fault_is_found_at_its_step_too(
    monkeypatch: pytest.MonkeyPatch, fault: str, step: Step | None
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SMIS", 1)
    kvm = Kvm(fault)
    context = walk(monkeypatch, kvm, slow(kvm), is_patient=True)
    for each in [step] if step else Step:
        readings = read(context, each)
        assert judge(readings).verdict is (Verdict.FAIL if step else Verdict.PASS), each
        windows = [w for w in Samples.of(readings).windows if w.state]
        assert len(windows) in (SLOW_TIMES * OFF, SLOW_TIMES * ON, SLOW_TIMES * (ON + OFF))
        assert len([w for w in Samples.of(readings).windows if w.arm is Arm.QUIET]) >= 20


def test_where_smis_waited_come_the_walk_says_so_and_others_decide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kvm = Kvm()
    context = walk(monkeypatch, kvm, slow(kvm, is_waited=True), is_patient=True)
    observations = list(look_for_leaks(context, Step.NEW))
    absences = [each for each in observations if isinstance(each, Absence)]
    assert "come by themselves" in absences[0].missing.what
