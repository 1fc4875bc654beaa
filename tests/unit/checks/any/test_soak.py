"""What any.soak says of a KVM that follows the knob, and of ones that do not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from kvmtest.checks.any import soak as module
from kvmtest.checks.any.soak import VMX, soak
from kvmtest.checks.context import Context
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.judge import Absence, Reading, Role, Verdict, claim, control, judge
from kvmtest.missing import Missing

#: Whether KVM loads the host's bit at an entry, by the bit of the entry before, and that of now.
Rule = Callable[[int, int], bool]

RULES: dict[str, Rule] = {
    "turning-on-unnoticed": lambda before, now: before > now,
    "turning-off-unnoticed": lambda before, now: before < now,
    "never": lambda before, now: False,
    "comparison-inverted": lambda before, now: before == now,
}


class PretendedGuest:
    """A guest of a KVM with a rule; the bit of its VMCS and of its last entry."""

    def __init__(self, scene: "PretendedScene") -> None:
        self.scene = scene
        self.vcpu = SimpleNamespace(entries=0)
        self.vmcs = self.before = 0

    def enter(self) -> None:
        bit = self.scene.bit
        if self.scene.rule(self.before, bit):
            self.vmcs = bit
        self.before = bit
        self.vcpu.entries += 1

    def ring(self, count: int) -> None:
        self.enter()

    def execute(self, command: object) -> list[Any]:
        self.enter()
        return [SimpleNamespace(fault=None)]


class PretendedScene:
    """A scene whose witness vmcs sees the guests' bits."""

    rule: Rule

    def __init__(self, context: Context, *names: str) -> None:
        self.bit = 0
        self.looking = ["vmcs"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def begin(self) -> Iterator[Reading]:
        yield from ()

    def set_knob(self, value: int) -> Iterator[Reading]:
        self.bit = value
        yield control("vmcs", f"the host's bit 14 with freeze_on_smi={value}", value, value, "")

    @contextmanager
    def guest(self) -> Iterator[PretendedGuest]:
        yield PretendedGuest(self)

    def run(self, guest: PretendedGuest) -> None:
        guest.enter()

    def witness(self, kind: type) -> None:
        return None

    def look(
        self, guest: PretendedGuest, state: str, value: int, *, flagged: int | None
    ) -> Iterator[Reading]:
        assert flagged == (1 if guest.before != value else None)
        guest.enter()
        yield claim("vmcs", f"bit 14 {state}", guest.vmcs, value)

    def end(self, guest: PretendedGuest) -> Iterator[Reading]:
        yield from ()


class PretendedSpinning:
    def __init__(self, guest: PretendedGuest, cpu: int) -> None:
        self.guest = guest

    def __enter__(self) -> Self:
        self.guest.enter()
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def release(self) -> None:
        self.guest.enter()


def context_of(name: str) -> Context:
    kvm = KvmModule(name, False, {}, {}, None)
    return cast(Context, SimpleNamespace(machine=SimpleNamespace(kvm_module=kvm)))


def soaked(monkeypatch: pytest.MonkeyPatch, seed: int, rule: Rule) -> list[Reading]:
    monkeypatch.setattr(PretendedScene, "rule", staticmethod(rule), raising=False)
    monkeypatch.setattr(module, "Scene", PretendedScene)
    monkeypatch.setattr(module, "Spinning", PretendedSpinning)
    monkeypatch.setattr(module.secrets, "randbits", lambda bits: seed)
    return [r for r in soak(context_of("kvm_intel")) if isinstance(r, Reading)]


@pytest.mark.parametrize("seed", range(10))
def test_a_kvm_that_follows_the_knob_passes_and_both_values_are_seen(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    readings = soaked(monkeypatch, seed, lambda before, now: before != now)
    assert judge(readings).verdict is Verdict.PASS
    claims = [r for r in readings if r.role is Role.CLAIM]
    assert 2 * 2 <= len(claims) <= 2 * VMX.guests
    assert [r.expected for r in claims].count(0) == [r.expected for r in claims].count(1)
    assert (readings[0].what, readings[0].observed) == ("the seed of what was done", seed)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", range(10))
def test_a_kvm_that_does_not_fails(monkeypatch: pytest.MonkeyPatch, seed: int, rule: Rule) -> None:
    assert judge(soaked(monkeypatch, seed, rule)).verdict is Verdict.FAIL


def test_the_same_seed_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    once, again = (soaked(monkeypatch, 7, lambda before, now: before != now) for _ in range(2))
    assert [(r.what, r.observed) for r in once] == [(r.what, r.observed) for r in again]


class BlindScene(PretendedScene):
    """A scene in which no witness of entries can look, and that has no knob."""

    def begin(self) -> Iterator[Absence]:  # type: ignore[override]
        yield Absence("runflags", GONE)

    def set_knob(self, value: int) -> Iterator[Reading]:
        raise AssertionError("there is no knob on AMD")


GONE = Missing("no BTF")


def test_on_amd_nothing_is_done_where_no_witness_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Scene", BlindScene)
    assert list(soak(context_of("kvm_amd"))) == [Absence("runflags", GONE)]
