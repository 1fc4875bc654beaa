"""The leak experiment takes its windows in turns, then beside a toggler, and records it all."""

import dataclasses
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.stand_in import KNOB, write

from kvmtest._native import lib
from kvmtest.checks.leaks import procedures
from kvmtest.checks.leaks.plan import BY_ONES, Windows
from kvmtest.checks.leaks.smis import PROOFS, SMIS_PER_WINDOW
from kvmtest.checks.leaks.watchers import Disturbed, WindowAndGaps
from kvmtest.checks.leaks.windows import arm_under
from kvmtest.checks.nvmx import leak as nvmx_leak
from kvmtest.checks.svm import leak as svm_leak
from kvmtest.checks.vmx import leak as vmx_leak
from kvmtest.errors import KvmtestError
from kvmtest.host.tree import Tree
from kvmtest.judge import Reading, Verdict, control, judge
from kvmtest.judge.arms import SURE
from kvmtest.judge.excess import LEAK, SUM_UNSURE
from kvmtest.judge.samples import Arm, Gap, Samples, Window
from kvmtest.workers import Supervisor

SMIS = 5
#: Of an experiment's SMIs around their mean: ten in the lab had 100 of 96 at most.
SPREAD = 1.05


class Scene:
    """A scene whose knob is a file, with no journal."""

    def __init__(self, root: Path) -> None:
        self.machine = SimpleNamespace(tree=Tree(root))
        self.knob = SimpleNamespace(paths=(KNOB,))
        self.set: list[int] = []
        self.path = write(self.machine.tree, KNOB, "1")

    def set_knob(self, value: int) -> Iterator[Reading]:
        self.path.write_text(str(value))
        self.set.append(value)
        yield control("leak", "the host's bit", value, value, "look")


@dataclass
class FakeWatchers:
    """Guests that leak where the knob says so as their window begins."""

    workers: Supervisor
    knob: Path
    leaks_when_on: bool = False
    window_s: float = 0.003
    vcpus: int = 2
    asked: list[Arm] = field(default_factory=list)

    @property
    def smis(self) -> Any:
        return self

    def apply_own(self) -> Iterator[Reading]:
        yield from ()

    def settle(self) -> None:
        assert self.knob.read_text() == "0", "a window with the knob on is the first entry"

    def take_windows(self, arm: Arm, length: float = 1.0) -> list[WindowAndGaps]:
        self.asked.append(arm)
        time.sleep(self.window_s)
        began, is_on, ended = self._window()
        smis = 0 if arm is Arm.QUIET else SMIS
        # The last vCPU's CPU takes none.
        raised = [smis] * (self.vcpus - 1) + [0]
        counted = 11 if self.leaks_when_on or not is_on else 0
        return [
            (
                Window(
                    arm, began, ended, {"a": 1000 + counted * n}, {"a": 1000}, 1, n, n + 1, vcpu
                ),
                [Gap(began + at, began + at + 1, vcpu) for at in range(n + 1)],
            )
            for vcpu, n in enumerate(raised)
        ]

    def _window(self) -> tuple[int, bool, int]:
        """Return a window's begin, what the knob was in it, and its end.

        No toggle comes between: what counts at its gaps is what was read, on a busy machine too.
        Beside a toggler that works both values come in turn, however seldom it runs there.
        """
        beside = self.asked.count(Arm.MIXED)
        wanted = "01"[beside % 2] if self.asked[-1] is Arm.MIXED else "01"
        while True:
            since = time.monotonic()
            before, began = self.knob.read_text(), int(lib.clock_tsc())
            value, ended = self.knob.read_text(), int(lib.clock_tsc())
            # Two toggles can't be so close, so that one would show.
            is_short = time.monotonic() - since < procedures.SHORTEST * self.window_s
            is_wanted = value in wanted or self.workers.failed
            if is_short and is_wanted and before == value == self.knob.read_text():
                return began, value == "1", ended


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def observe(scene: Scene, *, leaks_when_on: bool = False) -> tuple[list[Reading], FakeWatchers]:
    with Supervisor() as workers:
        watchers = FakeWatchers(workers, scene.path, leaks_when_on)
        readings = list(procedures.interleaved_and_toggled(scene, watchers))  # type: ignore[arg-type]
    assert all(isinstance(reading, Reading) for reading in readings)
    return readings, watchers  # type: ignore[return-value]


def test_every_window_gap_and_toggle_is_recorded_under_the_knobs_state(scene: Scene) -> None:
    readings, watchers = observe(scene)
    samples = Samples.of(readings)
    interleaved = 3 * procedures.ROUNDS
    assert watchers.asked[:6] == [
        Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON, Arm.KNOB_OFF, Arm.KNOB_ON, Arm.QUIET
    ]  # fmt: skip
    assert watchers.asked[interleaved:] == list(procedures.TOGGLED)
    assert len(samples.windows) == 2 * (interleaved + len(procedures.TOGGLED))
    assert len(samples.gaps) == sum(window.gaps for window in samples.windows)
    # First those of the arms and the one before the toggler, then the toggler's, in order.
    assert [toggle.value for toggle in samples.toggles[: interleaved + 1]] == scene.set
    times = [tsc for toggle in samples.toggles for tsc in (toggle.began, toggle.ended)]
    assert times == sorted(times)
    assert len(samples.toggles) >= interleaved + 1 + 3
    taken, beside = samples.windows[: 2 * interleaved], samples.windows[2 * interleaved :]
    for window in taken:
        assert window.arm in (Arm.QUIET, arm_under(samples.toggles, window)), window
    for window in beside:
        state = arm_under(samples.toggles, window)
        of_no_arm = Arm.MIXED if state is Arm.KNOB_OFF else state
        assert window.arm in (Arm.QUIET, of_no_arm), window
    assert {w.arm for w in beside} >= {Arm.QUIET, Arm.KNOB_ON, Arm.MIXED}


def test_a_first_entry_with_the_old_bit_does_not_blur_the_control(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM that loads the bit after the entry: each window counts as the knob was before it."""
    take = FakeWatchers.take_windows
    before = [0]

    def take_(self: FakeWatchers, arm: Arm, length: float = 1.0) -> list[WindowAndGaps]:
        taken = take(self, arm, length)
        was_on = before[0]
        before[0] = int(self.knob.read_text())
        late = []
        for window, gaps in taken:
            counted = 1000 + 11 * window.smis * (not was_on)
            late.append((dataclasses.replace(window, counted={"a": counted}), gaps))
        return late

    def settle(self: FakeWatchers) -> None:
        before[0] = int(self.knob.read_text())

    monkeypatch.setattr(FakeWatchers, "take_windows", take_)
    monkeypatch.setattr(FakeWatchers, "settle", settle)
    readings, _ = observe(scene)
    assert judge(readings).verdict is Verdict.FAIL


def test_a_figure_says_how_many_smis_came_beside_the_toggler(scene: Scene) -> None:
    readings, _ = observe(scene)
    samples = Samples.of(readings)
    (figure,) = [r for r in readings if r.what.startswith("SMIs beside ")]
    beside = samples.windows[2 * 3 * procedures.ROUNDS :]
    toggles = len(samples.toggles) - 3 * procedures.ROUNDS - 1
    assert figure.what == f"SMIs beside {toggles} toggles, with the knob off, on, being written"
    told = ", ".join(
        str(sum(w.smis for w in beside if w.smis and arm_under(samples.toggles, w) is arm))
        for arm in (Arm.KNOB_OFF, Arm.KNOB_ON, Arm.MIXED)
    )
    assert figure.observed == told


@pytest.mark.parametrize(("leaks", "verdict"), [(False, Verdict.PASS), (True, Verdict.FAIL)])
def test_leaks_with_the_knob_on_decide_it(scene: Scene, leaks: bool, verdict: Verdict) -> None:
    readings, _ = observe(scene, leaks_when_on=leaks)
    assert judge(readings).verdict is verdict


def test_windows_beside_the_toggler_decide_it_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, first = FakeWatchers.take_windows, 3 * procedures.ROUNDS

    def take_(self: FakeWatchers, arm: Arm, length: float = 1.0) -> list[WindowAndGaps]:
        self.leaks_when_on = len(self.asked) >= first
        return take(self, arm, length)

    monkeypatch.setattr(FakeWatchers, "take_windows", take_)
    readings, _ = observe(scene)
    assert judge(readings).verdict is Verdict.FAIL


def test_a_knob_that_can_not_be_written_ends_it_with_that_error(scene: Scene) -> None:
    scene.knob.paths = ("/dev/full",)
    (scene.machine.tree.path("/dev")).mkdir(exist_ok=True)
    scene.machine.tree.path("/dev/full").symlink_to("/dev/full")
    readings = []

    def observe_until_it_fails() -> None:
        with Supervisor() as workers:
            for reading in procedures.interleaved_and_toggled(
                scene, FakeWatchers(workers, scene.path)
            ):  # type: ignore[arg-type]
                readings.append(reading)

    with pytest.raises(KvmtestError, match="write: No space left"):
        observe_until_it_fails()
    windows = [r for r in readings if isinstance(r, Reading) and r.what.startswith("window")]
    assert len(windows) == 2 * 3 * procedures.ROUNDS, (
        "what was taken before it is kept, and no more"
    )


def test_smis_are_fewer_than_a_hundred_in_all() -> None:
    interleaved = procedures.ROUNDS * sum(arm is not Arm.QUIET for arm in procedures.ORDER)
    beside = sum(arm is not Arm.QUIET for arm in procedures.TOGGLED)
    assert PROOFS + SMIS_PER_WINDOW * interleaved * procedures.LENGTH * SPREAD < 100
    assert (
        PROOFS + SMIS_PER_WINDOW * (interleaved * procedures.WITH_TOGGLER + beside) * SPREAD < 100
    )


@pytest.mark.parametrize("length", [procedures.LENGTH, procedures.WITH_TOGGLER])
def test_six_windows_of_an_arm_are_enough_for_a_verdict_at_the_worst_phase(length: float) -> None:
    least = SURE * math.floor(SMIS_PER_WINDOW * length)
    exact = 11  # events that an SMI of the lab counts
    assert SUM_UNSURE / least < LEAK * exact


def test_exits_that_no_quiet_window_had_by_chance_do_not_undo_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = FakeWatchers.take_windows

    def take_(self: FakeWatchers, arm: Arm, length: float = 1.0) -> list[WindowAndGaps]:
        number = len(self.asked)
        exits = 1 + (number >= 3 * procedures.ROUNDS + 2 or (arm is not Arm.QUIET and number % 2))
        return [
            (dataclasses.replace(w, exits=exits, gaps=w.smis + exits), [gaps[0]] * (w.smis + exits))
            for w, gaps in take(self, arm, length)
        ]

    monkeypatch.setattr(FakeWatchers, "take_windows", take_)
    with Supervisor() as workers:
        readings = list(procedures.interleaved(scene, FakeWatchers(workers, scene.path)))  # type: ignore[arg-type]
    quiet = [w for w in Samples.of(readings).windows if w.arm is Arm.QUIET]  # type: ignore[arg-type]
    assert len(quiet) == 2 * (procedures.ROUNDS + 3)
    assert judge(readings).verdict is Verdict.PASS  # type: ignore[arg-type]


# Where SMIs are slow

#: What a guest executes in a window.
KNOWN = 10_000_000


@dataclass
class SlowCrew(FakeWatchers):
    """A watchers whose windows have one SMI each, of a handler that counts ``per_smi``."""

    rate_hz: float = 2.4
    waited: bool = False
    per_smi: int = 100_000
    noise: int = 0
    source: Any = field(default_factory=lambda: SimpleNamespace(name="efivarfs-statfs"))

    @property
    def windows(self) -> Windows:
        return (
            Windows(2.0, self.rate_hz, waited=True)
            if self.waited
            else Windows(0.08, self.rate_hz, by_ones=True)
        )

    def take_windows(self, arm: Arm, length: float = 1.0) -> list[WindowAndGaps]:
        taken = []
        chance = random.Random(len(self.asked))
        for window, gaps in super().take_windows(arm, length):
            smis = min(window.smis, 1)
            if self.waited:  # Whatever the arm: a third of the windows has one.
                smis = int(window.vcpu == 0 and chance.random() < 1 / 3)
            counts = bool(window.counted["a"] - 1000)
            counted = KNOWN + self.per_smi * smis * counts + round(chance.gauss(0, self.noise))
            changed = dataclasses.replace(window, smis=smis, gaps=smis + 1, counted={"a": counted})
            taken.append((changed, gaps[: smis + 1]))
        return taken


def observe_slowly(scene: Scene, **watchers: Any) -> tuple[list[Reading], SlowCrew, list[str]]:
    said: list[str] = []
    scene.on_step = said.append  # type: ignore[attr-defined]
    with Supervisor() as workers:
        made = SlowCrew(workers, scene.path, **watchers)
        readings = list(procedures.stages_and_toggled(scene, made))  # type: ignore[arg-type]
    return readings, made, said  # type: ignore[return-value]


FIRST = BY_ONES.stages[0] * len(BY_ONES.order)
ALL = sum(BY_ONES.stages) * len(BY_ONES.order)


@pytest.mark.parametrize("leaks_when_on", [False, True])
def test_a_strong_control_needs_thirty_smis(scene: Scene, leaks_when_on: bool) -> None:
    readings, watchers, _ = observe_slowly(scene, leaks_when_on=leaks_when_on)
    assert judge(readings).verdict is (Verdict.FAIL if leaks_when_on else Verdict.PASS)
    assert len(watchers.asked) == FIRST + len(procedures.TOGGLED)
    first = watchers.asked[:FIRST]
    assert sum(arm is not Arm.QUIET for arm in first) == 30
    assert set(first) == {Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON}


def test_where_thirty_decide_nothing_there_are_more_and_the_verdict_is_of_all(
    scene: Scene,
) -> None:
    readings, watchers, _ = observe_slowly(scene, noise=900)
    assert len(watchers.asked) == ALL + len(procedures.TOGGLED)
    assert len(Samples.of(readings).windows) == 2 * (ALL + len(procedures.TOGGLED))
    assert judge(readings).verdict is Verdict.PASS


def test_what_decides_nothing_in_the_end_is_inconclusive(scene: Scene) -> None:
    readings, watchers, _ = observe_slowly(scene, noise=60_000)
    assert len(watchers.asked) == ALL + len(procedures.TOGGLED)
    assert judge(readings).verdict is Verdict.INCONCLUSIVE


def test_a_run_says_how_long_it_takes_and_how_much_is_left(scene: Scene) -> None:
    readings, _, said = observe_slowly(scene)
    plan = "30 SMIs by efivarfs-statfs at 2.4 a second in 12 s, up to 90 in 38 s"
    (control_,) = [reading for reading in readings if "often enough" in reading.what]
    assert control_.what == f"SMIs come often enough ({plan})"
    assert control_.agrees
    left = [re.fullmatch(rf"{re.escape(plan)}; (\d+) s left", line) for line in said]
    times = [int(match[1]) for match in left if match]
    assert len(times) == len(said) == BY_ONES.stages[0]
    assert times == sorted(times, reverse=True)
    assert (times[0], times[-1]) == (12, 1)


def test_smis_that_are_waited_for_are_in_some_windows_and_the_others_are_quiet(
    scene: Scene,
) -> None:
    readings, watchers, _ = observe_slowly(scene, waited=True, rate_hz=0.2)
    assert Arm.QUIET not in watchers.asked[: 3 * 30]
    samples = Samples.of(readings)
    assert all((w.arm is Arm.QUIET) == (not w.smis) for w in samples.windows)
    assert {arm_under(samples.toggles, w) for w in samples.windows if w.smis} == {
        Arm.KNOB_OFF, Arm.KNOB_ON
    }  # fmt: skip
    assert all(w.arm is arm_under(samples.toggles, w) for w in samples.windows if w.smis)
    assert judge(readings).verdict is Verdict.PASS


def test_what_would_take_too_long_is_not_begun(scene: Scene) -> None:
    readings, watchers, _ = observe_slowly(scene, rate_hz=0.02)
    assert watchers.asked == []
    judgement = judge(readings)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "SMIs come often enough (30 SMIs by" in judgement.reason
    assert "kvmtest smi probe" in judgement.reason


def test_without_a_toggler_the_stages_are_the_same(scene: Scene) -> None:
    scene.on_step = lambda _: None  # type: ignore[attr-defined]
    with Supervisor() as workers:
        watchers = SlowCrew(workers, scene.path)
        readings = list(procedures.stages(scene, watchers))  # type: ignore[arg-type]
    assert len(watchers.asked) == FIRST
    assert judge(readings).verdict is Verdict.PASS  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "check"),
    [
        (vmx_leak, vmx_leak.host_events),
        (vmx_leak, vmx_leak.guest_pmu),
        (nvmx_leak, nvmx_leak.l2),
        (svm_leak, svm_leak.guest_only),
    ],
)
def test_noise_that_ends_it_leaves_it_undecided(
    monkeypatch: pytest.MonkeyPatch, module: Any, check: Any
) -> None:
    def disturbed(*_: object, **__: object) -> Iterator[Reading]:
        yield control("leak", "the count follows the source", "yes", "yes", "")
        raise Disturbed("only 3 of 100 watches had no other exits; try again on an idle machine")

    monkeypatch.setattr(module, "experiment", disturbed)
    monkeypatch.setattr(vmx_leak, "make_way", lambda _: None)
    judged = judge(list(check(SimpleNamespace())))
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.reason.endswith("try again on an idle machine")
