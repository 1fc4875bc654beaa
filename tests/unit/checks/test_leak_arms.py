"""The leak experiment takes its windows in turns, then beside a toggler, and records it all."""

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_in import KNOB, write

from kvmtest._native import lib
from kvmtest.checks import leak
from kvmtest.checks.leak_windows import PROOFS, SMIS_PER_WINDOW, Taken, arm_under
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
class Crew:
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

    def renew(self) -> Iterator[Reading]:
        yield from ()

    def settle(self) -> None:
        assert self.knob.read_text() == "0", "a window with the knob on is the first entry"

    def take(self, arm: Arm, length: float = 1.0) -> list[Taken]:
        self.asked.append(arm)
        time.sleep(self.window_s)
        began = int(lib.clock_tsc())
        is_on = self.knob.read_text() == "1"
        ended = int(lib.clock_tsc())
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


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def observe(scene: Scene, *, leaks_when_on: bool = False) -> tuple[list[Reading], Crew]:
    with Supervisor() as workers:
        crew = Crew(workers, scene.path, leaks_when_on)
        readings = list(leak._arms(scene, crew))  # type: ignore[arg-type]
    assert all(isinstance(reading, Reading) for reading in readings)
    return readings, crew  # type: ignore[return-value]


def test_every_window_gap_and_toggle_is_recorded_under_the_knobs_state(scene: Scene) -> None:
    readings, crew = observe(scene)
    samples = Samples.of(readings)
    interleaved = 3 * leak.ROUNDS
    assert crew.asked[:6] == [
        Arm.QUIET, Arm.CONTROL, Arm.TREATMENT, Arm.CONTROL, Arm.TREATMENT, Arm.QUIET
    ]  # fmt: skip
    assert crew.asked[interleaved:] == list(leak.TOGGLED)
    assert len(samples.windows) == 2 * (interleaved + len(leak.TOGGLED))
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
        of_no_arm = Arm.MIXED if state is Arm.CONTROL else state
        assert window.arm in (Arm.QUIET, of_no_arm), window
    assert {w.arm for w in beside} >= {Arm.QUIET, Arm.TREATMENT, Arm.MIXED}


def test_a_first_entry_with_the_old_bit_does_not_blur_the_control(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM that loads the bit after the entry: each window counts as the knob was before it."""
    take = Crew.take
    before = [0]

    def take_(self: Crew, arm: Arm, length: float = 1.0) -> list[Taken]:
        taken = take(self, arm, length)
        was_on = before[0]
        before[0] = int(self.knob.read_text())
        late = []
        for window, gaps in taken:
            counted = 1000 + 11 * window.smis * (not was_on)
            late.append((dataclasses.replace(window, counted={"a": counted}), gaps))
        return late

    def settle(self: Crew) -> None:
        before[0] = int(self.knob.read_text())

    monkeypatch.setattr(Crew, "take", take_)
    monkeypatch.setattr(Crew, "settle", settle)
    readings, _ = observe(scene)
    assert judge(readings).verdict is Verdict.FAIL


def test_a_figure_says_how_many_smis_came_beside_the_toggler(scene: Scene) -> None:
    readings, _ = observe(scene)
    samples = Samples.of(readings)
    (figure,) = [r for r in readings if r.what.startswith("SMIs beside ")]
    beside = samples.windows[2 * 3 * leak.ROUNDS :]
    toggles = len(samples.toggles) - 3 * leak.ROUNDS - 1
    assert figure.what == f"SMIs beside {toggles} toggles, with the knob off, on, being written"
    told = ", ".join(
        str(sum(w.smis for w in beside if w.smis and arm_under(samples.toggles, w) is arm))
        for arm in (Arm.CONTROL, Arm.TREATMENT, Arm.MIXED)
    )
    assert figure.observed == told


@pytest.mark.parametrize(("leaks", "verdict"), [(False, Verdict.PASS), (True, Verdict.FAIL)])
def test_leaks_with_the_knob_on_decide_it(scene: Scene, leaks: bool, verdict: Verdict) -> None:
    readings, _ = observe(scene, leaks_when_on=leaks)
    assert judge(readings).verdict is verdict


def test_windows_beside_the_toggler_decide_it_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, first = Crew.take, 3 * leak.ROUNDS

    def take_(self: Crew, arm: Arm, length: float = 1.0) -> list[Taken]:
        self.leaks_when_on = len(self.asked) >= first
        return take(self, arm, length)

    monkeypatch.setattr(Crew, "take", take_)
    readings, _ = observe(scene)
    assert judge(readings).verdict is Verdict.FAIL


def test_a_knob_that_can_not_be_written_ends_it_with_that_error(scene: Scene) -> None:
    scene.knob.paths = ("/dev/full",)
    (scene.machine.tree.path("/dev")).mkdir(exist_ok=True)
    scene.machine.tree.path("/dev/full").symlink_to("/dev/full")
    readings = []

    def observe_until_it_fails() -> None:
        with Supervisor() as workers:
            for reading in leak._arms(scene, Crew(workers, scene.path)):  # type: ignore[arg-type]
                readings.append(reading)

    with pytest.raises(KvmtestError, match="write: No space left"):
        observe_until_it_fails()
    windows = [r for r in readings if isinstance(r, Reading) and r.what.startswith("window")]
    assert len(windows) == 2 * 3 * leak.ROUNDS, "what was taken before it is kept, and no more"


def test_smis_are_fewer_than_a_hundred_in_all() -> None:
    interleaved = leak.ROUNDS * sum(arm is not Arm.QUIET for arm in leak.ORDER)
    beside = sum(arm is not Arm.QUIET for arm in leak.TOGGLED)
    assert PROOFS + SMIS_PER_WINDOW * interleaved * leak.LENGTH * SPREAD < 100
    assert PROOFS + SMIS_PER_WINDOW * (interleaved * leak.WITH_TOGGLER + beside) * SPREAD < 100


@pytest.mark.parametrize("length", [leak.LENGTH, leak.WITH_TOGGLER])
def test_six_windows_of_an_arm_are_enough_for_a_verdict_at_the_worst_phase(length: float) -> None:
    least = SURE * math.floor(SMIS_PER_WINDOW * length)
    exact = 11  # events that an SMI of the lab counts
    assert SUM_UNSURE / least < LEAK * exact


def test_exits_that_no_quiet_window_had_by_chance_do_not_undo_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Crew.take

    def take_(self: Crew, arm: Arm, length: float = 1.0) -> list[Taken]:
        number = len(self.asked)
        exits = 1 + (number >= 3 * leak.ROUNDS + 2 or (arm is not Arm.QUIET and number % 2))
        return [
            (dataclasses.replace(w, exits=exits, gaps=w.smis + exits), [gaps[0]] * (w.smis + exits))
            for w, gaps in take(self, arm, length)
        ]

    monkeypatch.setattr(Crew, "take", take_)
    with Supervisor() as workers:
        readings = list(leak.interleaved(scene, Crew(workers, scene.path)))  # type: ignore[arg-type]
    quiet = [w for w in Samples.of(readings).windows if w.arm is Arm.QUIET]  # type: ignore[arg-type]
    assert len(quiet) == 2 * (leak.ROUNDS + 3)
    assert judge(readings).verdict is Verdict.PASS  # type: ignore[arg-type]
