"""Windows are taken on all vCPUs at once, with what they need, and sorted by the knob's writes."""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from kvmtest._native import lib
from kvmtest.checks.leaks import smis as leak_smis
from kvmtest.checks.leaks.smis import PROOFS, SMIS_PER_WINDOW, Smis, proved_smis
from kvmtest.checks.leaks.watchers import Watcher, Watchers, WindowAndGaps
from kvmtest.checks.leaks.windows import MORE_QUIET, arm_under, more_quiet
from kvmtest.checks.stimuli.stimulus import Stimulus
from kvmtest.errors import KvmtestError
from kvmtest.guests import TscGap, commands
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.judge import Absence, Reading, Verdict, judge
from kvmtest.judge.samples import Arm, Toggle, Window
from kvmtest.missing import Missing
from kvmtest.smi import Periodic, Prepared, Source, Trigger, Triggered
from kvmtest.workers import Supervisor

T = TypeVar("T")
OFFSET = 1_000_000


class Count:
    """SMIs by CPU."""

    name = "the test's count"
    is_since_reset = False

    def __init__(self, *cpus: int) -> None:
        self.cpus = cpus
        self.counts = dict.fromkeys(cpus, 0)

    def read(self, cpu: int) -> int:
        return self.counts[cpu]

    def read_all(self) -> dict[int, int]:
        return dict(self.counts)

    def increase(self, before: int, after: int) -> int:
        return after - before

    def close(self) -> None:
        self.cpus = ()


class FakeGuest:
    """A guest and its vCPU in one; each watch makes ``exits`` VM-exits, and sees as many gaps.

    ``meanwhile`` is called in the watch, in the thread of the vCPU.
    """

    def __init__(self, meanwhile: Callable[[], object] = lambda: None, exits: int = 1) -> None:
        self.vcpu = self
        self.exits = exits
        self.seen: list[tuple[int, int]] = []
        self.stopped = threading.Event()
        self.threads: set[int] = set()
        self.lost = 0
        self._made = 0
        self._meanwhile = meanwhile

    def stop(self) -> None:
        self.stopped.set()

    def stat(self, name: str) -> int:
        assert name == "exits"
        return self._made

    def get_msr(self, index: int) -> int:
        assert index == 0x10
        return int(lib.clock_tsc()) - OFFSET

    def gaps(self, count: int) -> list[TscGap]:
        return [TscGap(10 * at, 10 * at + 5) for at in range(count - self.lost)]

    def read(self) -> dict[str, int]:
        return {"a": 107 * len(self.seen)}

    def known(self, polls: int, gaps: int) -> dict[str, int]:
        return {"a": polls}

    def execute_timed(
        self, command: commands.Command, *, timeout: float
    ) -> tuple[commands.Result, tuple[int, int]]:
        ticks, threshold = command.arguments
        self.seen.append((ticks, threshold))
        self.threads.add(threading.get_native_id())
        self._meanwhile()
        self._made += self.exits
        return commands.Result((self.exits, 100, 3, 40)), (OFFSET, OFFSET + 1000)


@contextmanager
def watchers_of(
    *guests: FakeGuest, count: Count, raised: list[str] | None = None
) -> Iterator[Watchers]:
    events = raised if raised is not None else []

    @contextmanager
    def switched(rate_hz: float, _: bool) -> Iterator[None]:
        events.append(f"{rate_hz:g} Hz")
        yield
        events.append("off")

    source = Periodic("test", "comes", "nothing", 1000, switched)
    cpu = min(os.sched_getaffinity(0))
    with Supervisor() as workers:
        watchers = Watchers(Smis(source, count, 100, count.cpus), workers, ExitStack())
        for guest in guests:
            watchers.add(guest, cpu, lambda at, guest=guest: Watcher(guest, guest, at))  # type: ignore
        yield watchers


def test_a_window_is_what_its_guest_and_its_cpu_counted() -> None:
    count = Count(3, 5)

    def smis() -> None:
        count.counts[5] += 2

    first, second = FakeGuest(), FakeGuest(smis, exits=2)
    with watchers_of(first, second, count=count) as watchers:
        (one, gaps), (other, others) = watchers.take_windows(Arm.KNOB_OFF)
    assert one == Window(
        Arm.KNOB_OFF, OFFSET, OFFSET + 1000, {"a": 107}, {"a": 100}, 1, 0, 1, vcpu=0
    )
    assert (other.exits, other.smis, other.gaps, other.vcpu) == (2, 2, 2, 1)
    assert [gap.vcpu for gap in (*gaps, *others)] == [0, 1, 1]
    # The TSC reads around the guest's are not quite at one time.
    assert others[1].began - 10 == pytest.approx(OFFSET, abs=OFFSET / 10)
    assert [gap.ended - gap.began for gap in others] == [5, 5]
    assert first.threads.isdisjoint(second.threads), "a thread each"
    assert threading.get_native_id() not in first.threads | second.threads


def test_guests_are_watched_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)
    guests = FakeGuest(meeting.wait), FakeGuest(meeting.wait)
    with watchers_of(*guests, count=Count(0, 1)) as watchers:
        assert len(watchers.take_windows(Arm.QUIET)) == 2


def test_smis_come_in_all_windows_but_quiet_ones_and_stop_with_them() -> None:
    raised: list[str] = []
    guest = FakeGuest(lambda: raised.append("watch"))
    with watchers_of(guest, count=Count(0), raised=raised) as watchers:
        for arm in (Arm.QUIET, Arm.KNOB_OFF, Arm.MIXED):
            ((window, _),) = watchers.take_windows(arm)
            assert window.arm is arm
    assert raised == ["watch", *["100 Hz", "watch", "off"] * 2]


def test_a_window_may_be_longer_than_others() -> None:
    guest = FakeGuest()
    with watchers_of(guest, count=Count(0)) as watchers:
        watchers.take_windows(Arm.QUIET)
        watchers.take_windows(Arm.QUIET, 1.5)
    (one, _), (other, _) = guest.seen
    assert other / one == pytest.approx(1.5, rel=1e-6)


def test_a_stimulus_is_applied_in_each_vcpu_s_own_thread_and_shown() -> None:
    guests = FakeGuest(), FakeGuest()
    went: list[tuple[object, int]] = []

    def apply(guest: object) -> bool:
        went.append((guest, threading.get_native_id()))
        return guest is guests[0]

    with watchers_of(*guests, count=Count(0, 1)) as watchers:
        readings = list(watchers.apply(Stimulus("it went", apply)))
        watchers.take_windows(Arm.QUIET)
    assert [(r.what, r.agrees) for r in readings] == [("it went", True), ("it went", False)]
    assert [{thread} for guest, thread in went] == [guest.threads for guest, _ in went]  # type: ignore


def test_watchers_goes_on_with_guests_on_new_vcpus() -> None:
    old, new = FakeGuest(), FakeGuest()
    run: list[FakeGuest] = []

    @contextmanager
    def guest() -> Iterator[FakeGuest]:
        yield new

    scene: Any = SimpleNamespace(guest=guest, run=run.append)
    with watchers_of(old, count=Count(0)) as watchers:
        (shown,) = watchers.replace_guests(scene)
        watchers.take_windows(Arm.QUIET)
    assert shown.agrees
    assert shown.raw["offset 0"] == pytest.approx(OFFSET, abs=OFFSET / 10)
    assert run == [new]
    assert (len(old.seen), len(new.seen)) == (0, 1)


def test_what_is_done_amid_a_window_comes_after_its_begin_and_before_smis() -> None:
    raised: list[str] = []
    over = threading.Event()

    def watch() -> None:
        raised.append("watch")
        over.wait(10)
        raised.append("end")

    def amid() -> str:
        raised.append("amid")
        threading.Timer(0.2, over.set).start()
        return "done"

    with watchers_of(FakeGuest(watch), count=Count(0), raised=raised) as watchers:
        done, ((window, _),) = watchers.take_windows_around(Arm.KNOB_ON, amid)
    assert (done, window.arm) == ("done", Arm.KNOB_ON)
    assert raised == ["watch", "amid", "100 Hz", "off", "end"]


@contextmanager
def watchers_by_ones(
    guest: FakeGuest, count: Count, fire: Callable[[], None], rate_hz: float = 1000
) -> Iterator[Watchers]:
    """A watchers whose SMIs are asked for one by one."""
    source = Triggered("test", "fires", "nothing", 1000, 1, lambda: nullcontext(fire))
    cpu = min(os.sched_getaffinity(0))
    with Supervisor() as workers, Smis(source, count, rate_hz, count.cpus).opened() as smis:
        watchers = Watchers(smis, workers, ExitStack())
        watchers.add(guest, cpu, lambda at: Watcher(guest, guest, at))  # type: ignore[arg-type]
        yield watchers


def test_an_smi_that_is_asked_for_comes_once_amid_each_window_but_quiet_ones() -> None:
    count, events = Count(0), list[str]()
    fired = threading.Event()

    def fire() -> None:
        events.append("fire")
        count.counts[0] += 1
        fired.set()

    def watch() -> None:
        events.append("watch")
        fired.wait(0 if events == ["watch"] else 10)
        fired.clear()
        events.append("end")

    with watchers_by_ones(FakeGuest(watch), count, fire) as watchers:
        windows = [
            watchers.take_windows(arm)[0][0] for arm in (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)
        ]
    assert events == ["watch", "end", *["watch", "fire", "end"] * 2]
    assert [(w.arm, w.smis) for w in windows] == [
        (Arm.QUIET, 0),
        (Arm.KNOB_OFF, 1),
        (Arm.KNOB_ON, 1),
    ]


def test_windows_are_as_long_as_each_other_where_smis_are_asked_for() -> None:
    guest = FakeGuest()
    with watchers_by_ones(guest, Count(0), lambda: None) as watchers:
        for arm in (Arm.QUIET, Arm.KNOB_OFF):
            watchers.take_windows(arm)
        watchers.take_windows_around(Arm.KNOB_ON, lambda: None)
    assert len({ticks for ticks, _ in guest.seen}) == 1


def test_smis_are_not_asked_for_more_often_than_the_source_takes_them() -> None:
    times: list[float] = []
    with watchers_by_ones(
        FakeGuest(), Count(0), lambda: times.append(time.monotonic()), rate_hz=8
    ) as watchers:
        for _ in range(4):
            watchers.take_windows(Arm.KNOB_OFF)
    assert min(b - a for a, b in pairwise(times)) >= 1 / 8


def test_the_turn_of_the_source_is_waited_for_before_a_window_and_not_in_it() -> None:
    events: list[str] = []
    fired = threading.Event()

    class Turn:
        def wait(self) -> None:
            events.append("wait")

        def __call__(self) -> None:
            events.append("fire")
            fired.set()

    def watch() -> None:
        events.append("watch")
        fired.wait(10)

    turn: Any = Turn()
    source = Triggered("test", "fires", "nothing", 1000, 1, lambda: nullcontext(turn))
    guest, cpu = FakeGuest(watch), min(os.sched_getaffinity(0))
    with Supervisor() as workers:
        watchers = Watchers(Smis(source, Count(0), 1, (0,), fire=turn), workers, ExitStack())
        watchers.add(guest, cpu, lambda at: Watcher(guest, guest, at))  # type: ignore[arg-type]
        watchers.take_windows(Arm.KNOB_OFF)
    assert events == ["wait", "watch", "fire"]


def test_what_fires_has_a_thread_of_its_own_on_a_cpu_without_a_guest() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    ran: list[tuple[int, set[int]]] = []
    source = Triggered(
        "test", "fires", "nothing", 1000, 1,
        lambda: nullcontext(
            lambda: ran.append((threading.get_native_id(), os.sched_getaffinity(0)))
        ),
    )  # fmt: skip
    smis = Smis(source, Count(0), 1000, (0,), firing_cpu=allowed[-1])
    guest = FakeGuest()
    with Supervisor() as workers, smis.opened() as opened:
        watchers = Watchers(opened, workers, ExitStack())
        watchers.add(guest, allowed[0], lambda at: Watcher(guest, guest, at))  # type: ignore[arg-type]
        watchers.take_windows(Arm.KNOB_OFF)
    ((thread, cpus),) = ran
    assert cpus == {allowed[-1]}
    assert thread not in {threading.get_native_id(), *guest.threads}


@pytest.mark.parametrize(
    ("taking", "allowed", "firing", "guests"),
    [
        ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), 0, (1, 2, 3, 4)),
        ((0, 1), (0, 1), 0, (1,)),
        ((0,), (0, 1), 1, (0,)),
        ((2, 3), (1, 2, 3), 1, (2, 3)),
        ((3,), (3,), None, (3,)),
    ],
)
def test_guests_leave_a_cpu_to_what_fires(
    monkeypatch: pytest.MonkeyPatch,
    taking: tuple[int, ...],
    allowed: tuple[int, ...],
    firing: int | None,
    guests: tuple[int, ...],
) -> None:
    sources = Sources(monkeypatch, good=(1, 100))
    sources.count.cpus, sources.taking = allowed, taking
    sources.count.counts = dict.fromkeys(allowed, 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(allowed))
    _, smis = sources.proved()
    assert smis
    assert (smis.firing_cpu, smis.cpus) == (firing, guests)


@pytest.mark.parametrize(("rate_hz", "window_s"), [(0.01, 2.0), (1.0, 0.7), (7.0, 0.1)])
def test_a_window_of_smis_that_are_waited_for_has_room_for_the_gaps_of_a_fast_timer(
    rate_hz: float, window_s: float
) -> None:
    source = Periodic(
        "passive", "waits", "nothing", math.inf, lambda _, __: nullcontext(None), patience_s=9
    )
    smis = Smis(source, Count(0), rate_hz, (0,))
    assert smis.windows.waited
    assert smis.window_s == pytest.approx(window_s)
    assert 1000 * smis.window_s < lib.GUEST_GAP_CAPACITY


def test_where_an_smi_came_before_what_was_done_amid_a_window_it_is_of_no_arm() -> None:
    count = Count(0, 1)

    def smi() -> None:
        count.counts[1] += 1

    with watchers_of(FakeGuest(), FakeGuest(), count=count) as watchers:
        _, taken = watchers.take_windows_around(Arm.KNOB_ON, smi)
    assert [(window.arm, window.smis) for window, _ in taken] == [(Arm.MIXED, 0), (Arm.MIXED, 1)]


def test_a_watchers_own_exits_and_what_a_gap_is_are_learnt() -> None:
    guest = FakeGuest(exits=3)
    with watchers_of(guest, count=Count(0)) as watchers:
        ((before, _),) = watchers.take_windows(Arm.QUIET)
        watchers.calibrate()
        ((after, _),) = watchers.take_windows(Arm.QUIET)
    assert (before.exits, after.exits) == (3, 0)
    assert guest.seen[-1][1] == 60, "one and a half of the longest step without an exit"
    trial, window = guest.seen[-2][0], guest.seen[-1][0]
    assert window / trial == pytest.approx(SMIS_PER_WINDOW / 100 / 0.0002, rel=0.01)


def test_a_watchers_own_exits_are_those_of_its_calmest_trials() -> None:
    guest = FakeGuest()
    exits = iter([5, 4, *[2, 3] * 20])
    guest._meanwhile = lambda: setattr(guest, "exits", next(exits))
    with watchers_of(guest, count=Count(0)) as watchers:
        watchers.calibrate()
        guest._meanwhile = lambda: None
        guest.exits = 7
        ((window, _),) = watchers.take_windows(Arm.QUIET)
    assert window.exits == 5


def test_a_guest_that_is_never_calm_is_told() -> None:
    guest = FakeGuest()
    guest._meanwhile = lambda: setattr(guest, "exits", 1000 - len(guest.seen))
    with (
        watchers_of(guest, count=Count(0)) as watchers,
        pytest.raises(KvmtestError, match="and only 1 of 100 took its own"),
    ):
        watchers.calibrate()


def test_gaps_that_were_not_all_logged_end_it() -> None:
    guest = FakeGuest(exits=3)
    guest.lost = 1
    with (
        watchers_of(guest, count=Count(0)) as watchers,
        pytest.raises(KvmtestError, match="the guest saw 3 gaps"),
    ):
        watchers.take_windows(Arm.QUIET)


def test_a_failing_worker_takes_the_guests_out_and_ends_it_with_its_error() -> None:
    class Failing:
        name = "the toggler"

        def run(self) -> None:
            raise KvmtestError("freeze_on_smi: write: EIO")

        def stop(self) -> None:
            pass

    def experiment() -> None:
        guest = FakeGuest()
        guest._meanwhile = lambda: guest.stopped.wait(10)
        with watchers_of(guest, count=Count(0)) as watchers:
            watchers.workers.start(Failing())
            watchers.take_windows(Arm.KNOB_OFF)

    with pytest.raises(KvmtestError, match="freeze_on_smi: write: EIO"):
        experiment()


def test_the_clock_is_recorded_with_each_guests_offset() -> None:
    with watchers_of(FakeGuest(), FakeGuest(), count=Count(0, 1)) as watchers:
        clock = watchers.clock
    assert isinstance(clock.observed, int)
    assert clock.observed > 1_000_000
    for vcpu in (0, 1):
        assert clock.raw[f"offset {vcpu}"] == pytest.approx(OFFSET, abs=OFFSET / 10)


# Arms


def window(began: int, ended: int) -> Window:
    return Window(Arm.MIXED, began, ended, {}, {}, 0, 1, 1)


def expected(toggles: tuple[Toggle, ...], began: int, ended: int) -> Arm:
    """Look at each tick of the window: what can the knob be then?"""
    seen = set()
    for tick in range(began, ended):
        before = [toggle for toggle in toggles if toggle.ended <= tick]
        is_written = any(toggle.began <= tick < toggle.ended for toggle in toggles)
        seen.add(None if is_written or not before else before[-1].value)
    if seen == {0}:
        return Arm.KNOB_OFF
    return Arm.KNOB_ON if seen == {1} else Arm.MIXED


TIMES = range(7)
SPANS = [(began, ended) for began in TIMES for ended in TIMES if began < ended]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_window_has_the_arm_of_the_knobs_state_at_every_time_in_it(count: int) -> None:
    tried = set()
    for spans in product(SPANS, repeat=count):
        if any(one[1] > other[0] for one, other in pairwise(spans)):
            continue
        for values in product((0, 1), repeat=count):
            toggles = tuple(Toggle(v, *span) for v, span in zip(values, spans, strict=True))
            for began, ended in SPANS:
                # A write of the value that the knob has is a toggle too: nobody looks what it was.
                arm = arm_under(toggles, window(began, ended))
                assert arm is expected(toggles, began, ended), (toggles, began, ended)
                tried.add(arm)
    assert tried == ({Arm.MIXED} if not count else {Arm.KNOB_OFF, Arm.KNOB_ON, Arm.MIXED})


# Which CPUs


def proved(count: Count, *taking: int, cpus: tuple[int, ...]) -> tuple[list[Reading], Smis | None]:
    """Have a source raise SMIs on the CPUs ``taking``; give what is said, and what is left."""

    @contextmanager
    def switched(_: float, __: bool) -> Iterator[Callable[[], int]]:
        for cpu in taking:
            count.counts[cpu] += 4
        yield lambda: 4

    source = Periodic("test", "comes", "nothing", 1000, switched)
    context: Any = SimpleNamespace(kernel_log=Missing("no log"))
    return collect(Smis(source, count, 1000, cpus).proved(context))


def test_guests_run_where_smis_come_on_four_cpus_at_most() -> None:
    (reading,), smis = proved(Count(*range(8)), 1, 3, 4, 5, 6, cpus=(0, 1, 3, 4, 5, 6))
    assert isinstance(reading, Reading)
    assert reading.agrees
    assert smis
    assert smis.cpus == (1, 3, 4, 5)


def test_smis_on_no_cpu_of_this_process_decide_nothing() -> None:
    said, smis = proved(Count(0, 1), 1, cpus=(0,))
    assert smis is None
    readings = [reading for reading in said if isinstance(reading, Reading)]
    judgement = judge(readings)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "run it without taskset" in judgement.reason


def test_a_source_that_is_not_proved_is_not_used() -> None:
    (reading,), smis = proved(Count(0), cpus=(0,))
    assert smis is None
    assert isinstance(reading, Reading)
    assert not reading.agrees


# Which source


def collect(proving: Generator[T, None, Smis | None]) -> tuple[list[T], Smis | None]:
    """Return what a generator yields, and what it returns."""
    said: list[T] = []
    while True:
        try:
            said.append(next(proving))
        except StopIteration as end:
            return said, end.value


class Sources:
    """Candidates by name: how many SMIs a trigger raises, how fast they are; who was fired."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **smis: tuple[int, float]) -> None:
        self.count = Count(0)
        self.fired: list[str] = []
        self.said: list[str] = []
        self.taking: tuple[int, ...] = (0,)
        self.takes_s: Callable[[], float] = lambda: 0.0005
        monkeypatch.setattr("kvmtest.smi.proof.stamped", self._stamped)
        self.log: Any = Missing("no log")
        found: list[Source] = [self._source(name.replace("_", "-"), *s) for name, s in smis.items()]
        monkeypatch.setattr(leak_smis, "candidates", lambda *_: found)
        monkeypatch.setattr(leak_smis, "counts", lambda _: self.count)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
        machine = SimpleNamespace(smi_source=None)
        self.context: Any = SimpleNamespace(
            machine=machine, kernel_log=self.log, found={}, journal=None, on_step=self.said.append
        )

    def _source(self, name: str, smis: int, fastest_hz: float) -> Triggered:
        def fire() -> None:
            self.fired.append(name)
            for cpu in self.taking:
                self.count.counts[cpu] += smis

        return Triggered(name, "fires", "nothing", fastest_hz, 1, lambda: nullcontext(fire))

    def _stamped(self, fire: Callable[[], None]) -> Trigger:
        fire()
        return Trigger(0, int(self.takes_s() * tsc_hz()))

    def proved(self) -> tuple[list[Reading | Absence], Smis | None]:
        self.fired.clear()
        self.count.cpus = tuple(self.count.counts)
        with ExitStack() as stack:
            return collect(proved_smis(self.context, stack))


def test_the_gentlest_source_that_proves_itself_and_is_fast_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = Sources(monkeypatch, dead=(0, 100), good=(1, 100), other=(1, 100))
    readings, smis = sources.proved()
    assert smis
    assert (smis.source.name, smis.rate_hz) == ("good", 50)
    assert sources.fired == ["dead", *["good"] * PROOFS]
    # What did not prove itself is told, and stands in the way of no verdict.
    (reading,) = readings
    assert isinstance(reading, Reading)
    assert reading.agrees
    told = reading.raw["not the test's count follows the SMI source dead"]
    assert told == "trigger 1 raised no SMI that the test's count counts"
    assert sources.said == ["does it raise SMIs: fires"] * 2
    assert sources.count.cpus == (), "closed"


def test_a_source_that_proved_itself_is_tried_first_in_the_same_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = Sources(monkeypatch, dead=(0, 100), good=(1, 100))
    sources.proved()
    _, smis = sources.proved()
    assert smis
    assert sources.fired == ["good"] * PROOFS


def test_where_no_source_proves_itself_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    (reading,), smis = Sources(monkeypatch, dead=(0, 100), silent=(0, 100)).proved()
    assert smis is None
    assert isinstance(reading, Reading)
    assert not reading.agrees
    for name in ("dead", "silent"):
        assert f"the SMI source {name}: trigger 1 raised no SMI" in str(reading.observed)
    assert "kvmtest smi probe" in reading.remedy


def test_what_stores_is_not_tried_before_what_reads_has_proved_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = Sources(monkeypatch, efivarfs_statfs=(0, 100), efivar_refused=(1, 100))
    _, smis = sources.proved()
    assert smis is None
    assert "efivar-refused" not in sources.fired


def test_a_slow_source_is_given_up_for_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(monkeypatch, efivarfs_statfs=(1, 10), efivar_refused=(1, 100))
    _, smis = sources.proved()
    assert smis
    assert (smis.source.name, smis.rate_hz) == ("efivar-refused", 50)
    sources.proved()
    assert sources.fired == ["efivar-refused"] * PROOFS


def test_one_trigger_that_had_to_wait_does_not_slow_the_source_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = Sources(monkeypatch, good=(1, 100))
    times = iter([0.06, 0.0005, 0.0005])
    sources.takes_s = lambda: next(times)
    _, smis = sources.proved()
    assert smis
    assert smis.rate_hz == 50


def test_two_slow_sources_are_used_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(monkeypatch, one=(1, 10), dead=(0, 100), two=(1, 15))
    _, smis = sources.proved()
    assert smis
    assert (smis.source.name, smis.rate_hz) == ("two and one", pytest.approx(25))
    _, again = sources.proved()
    assert again
    assert again.source.name == "two and one"
    assert "dead" not in sources.fired


def test_after_trouble_no_other_source_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(monkeypatch, bad=(1, 100), other=(1, 100))

    class Watch:
        complains = True

        def __init__(self, _: object) -> None:
            pass

        def complaint(self) -> str:
            return "the kernel reported: mce: [Hardware Error]: CPU 0"

    monkeypatch.setattr("kvmtest.smi.proof._Watch", Watch)
    readings, smis = sources.proved()
    assert smis is None
    assert sources.fired == ["bad"]
    (reading,) = readings
    assert isinstance(reading, Reading)
    assert "Hardware Error" in str(reading.observed)


def test_a_source_that_can_t_be_prepared_leaves_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(monkeypatch, good=(1, 100))

    @contextmanager
    def prepared(_: object) -> Iterator[Triggered]:
        raise KvmtestError("no room")
        yield

    found = leak_smis.candidates(sources.context.machine, None)
    assert isinstance(found, list)
    found.insert(0, Prepared("full", "fires", "a file", 100, prepared))
    readings, smis = sources.proved()
    assert smis
    assert smis.source.name == "good"
    (reading,) = readings
    assert isinstance(reading, Reading)
    assert reading.raw["not the SMI source full can be used"] == "no room"


def test_a_machine_without_sources_or_counts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(monkeypatch, good=(1, 100))
    monkeypatch.setattr(leak_smis, "counts", lambda _: Missing("no MSR", "modprobe msr"))
    (absence,), smis = sources.proved()
    assert (smis, absence) == (
        None,
        Absence("leak", Missing("SMIs can't be counted: no MSR", "modprobe msr")),
    )
    monkeypatch.setattr(leak_smis, "candidates", lambda *_: Missing("no SMI source"))
    assert sources.proved() == ([Absence("leak", Missing("no SMI source"))], None)


@pytest.mark.parametrize(
    ("quiet", "others", "later", "more"),
    [
        ([0, 0, 0], [0, 0], [], 0),
        ([0, 1, 0], [2, 0], [], 0),
        ([0, 0, 0], [1, 0], [0, 0, 2], 3),
        ([1, 1, 1], [0, 1], [0], 1),
        ([0, 0, 0], [1, 0], [0] * MORE_QUIET, MORE_QUIET),
        ([], [1, 0], [], 0),
    ],
)
def test_quiet_windows_are_taken_until_they_say_what_exits_cost(
    quiet: list[int], others: list[int], later: list[int], more: int
) -> None:
    def windows(arm: Arm, exits: list[int], smis: int = 0) -> list[Window]:
        return [
            dataclasses.replace(window(9 * at, 9 * at + 5), arm=arm, exits=count, smis=smis)
            for at, count in enumerate(exits)
        ]

    left = iter(windows(Arm.QUIET, later))
    asked: list[tuple[Arm, float]] = []

    class Taking:
        def take_windows(self, arm: Arm, length: float) -> list[WindowAndGaps]:
            asked.append((arm, length))
            return [(next(left), [])]

    taken = [*windows(Arm.QUIET, quiet), *windows(Arm.KNOB_ON, others, 3)]
    found = list(more_quiet(Taking(), taken, 1.5))  # type: ignore[arg-type]
    assert len(found) == more
    assert asked == [(Arm.QUIET, 1.5)] * more
