"""A requirement is answered for by the properties that can show it, and never by none."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stand_in import intel_host

from kvmtest.checks.demands import Demands, requirement
from kvmtest.checks.preconditions import PRECONDITIONS
from kvmtest.errors import UsageError
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.judge.requirements import Demand
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES, find, select

#: Make a machine that lacks the named preconditions and no other.
Lacking = Callable[..., Machine]


@pytest.fixture
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lacking:
    intel_host(tmp_path / "host")

    def make(*lacks: str) -> Machine:
        for name in PRECONDITIONS:
            missing = Missing(f"no {name}", "get it") if name in lacks else None
            monkeypatch.setitem(PRECONDITIONS, name, lambda machine, answer=missing: answer)
        return Machine(Tree(tmp_path / "host"))

    return make


def asked(
    machine: Machine, text: str, only: list[str] | None = None, reloads: tuple[str, ...] = ()
) -> dict[str, Demand]:
    """Return the demands of one requirement, by property."""
    chosen = select(only or [])
    demands = Demands(machine, [requirement(text)], chosen, reloads)
    return {p.id: demand for p in chosen for demand in demands.of(p)}


def by_witness(name: str) -> set[str]:
    return {p.id for p in PROPERTIES if name in p.witnesses and p.has_check}


def test_a_property_answers_for_itself(lacking: Lacking) -> None:
    assert set(asked(lacking("knob"), "any.soak")) == {"any.soak"}


# Witnesses


def test_a_witness_is_asked_of_all_that_have_a_check_where_nothing_is_missing(
    lacking: Lacking,
) -> None:
    assert set(asked(lacking(), "witness:vmcs")) == by_witness("vmcs")
    assert all(find(p).has_check for p in asked(lacking(), "witness:guest"))


def test_a_witness_is_not_asked_to_speak_where_it_records_figures_alone(lacking: Lacking) -> None:
    name = "vmx.entry.after-emulation"
    assert "runflags" in find(name).witnesses
    assert name not in asked(lacking(), "witness:runflags")
    assert name in asked(lacking(), "witness:vmcs")


def test_what_needs_a_second_cpu_is_not_asked_on_one(lacking: Lacking) -> None:
    both = by_witness("vmcs")
    two = {p for p in both if "second-cpu" in find(p).needs}
    assert two
    assert set(asked(lacking("second-cpu"), "witness:vmcs")) == both - two


def test_a_vendor_s_row_is_a_need_of_the_property(lacking: Lacking) -> None:
    # An AMD machine has any.soak and host.hotplug by its run flags alone.
    machine = lacking("kvm-intel", "knob", "freeze-bit")
    wanted = {"any.soak", "host.hotplug", "svm.flag-never"}
    assert set(asked(machine, "witness:runflags")) == wanted


def test_what_a_reload_meets_is_asked(lacking: Lacking) -> None:
    machine, name = lacking("no-unrestricted-guest"), "vmx.entry.after-emulation"
    assert name not in asked(machine, "witness:vmcs")
    assert name in asked(machine, "witness:vmcs", reloads=("no-unrestricted-guest",))


def test_a_witness_that_is_missing_is_asked_all_the_same(lacking: Lacking) -> None:
    assert set(asked(lacking("vmcs-dump"), "witness:vmcs")) == by_witness("vmcs")


def test_where_no_property_can_be_looked_at_all_with_a_check_answer(lacking: Lacking) -> None:
    assert set(asked(lacking("kvm-intel", "kvm-amd"), "witness:vmcs")) == by_witness("vmcs")


# Features


def test_a_feature_that_is_there_is_met(lacking: Lacking) -> None:
    demands = asked(lacking(), "feature:nested")
    assert demands
    assert {demand.lacks for demand in demands.values()} == {""}


def test_a_missing_feature_fails_what_is_skipped_for_it_and_has_a_check(lacking: Lacking) -> None:
    demands = asked(lacking("nested"), "feature:nested")
    wanted = {p.id for p in PROPERTIES if "nested" in p.needs and p.has_check}
    assert set(demands) == wanted
    assert {demand.lacks for demand in demands.values()} == {"no nested; get it"}


def test_what_another_witness_decides_is_not_skipped_for_a_witness_s_need(lacking: Lacking) -> None:
    demands = asked(lacking("kprobes"), "feature:kprobes")
    assert "vmx.entry.fresh" not in demands
    assert "svm.flag-never" not in demands, "its other witness reads MSRs"
    assert "vmx.entry.flag-economy" in demands


def test_a_feature_that_nobody_is_skipped_for_still_fails_somewhere(lacking: Lacking) -> None:
    # The witness vmcs can look at all that the witness runflags could.
    demands = asked(lacking("kprobes"), "feature:kprobes", ["vmx.entry.fresh"])
    assert demands["vmx.entry.fresh"].lacks == "no kprobes; get it"
    # Nothing that needs it has a check.
    concerned = {p.id for p in PROPERTIES if "tdx" in p.needs}
    assert set(asked(lacking("tdx"), "feature:tdx")) == concerned


def test_a_feature_that_a_reload_brings_is_looked_for_while_it_lasts(lacking: Lacking) -> None:
    machine = lacking("no-unrestricted-guest")
    demands = Demands(
        machine,
        [requirement("feature:no-unrestricted-guest")],
        PROPERTIES,
        ["no-unrestricted-guest"],
    )
    prop = find("vmx.entry.after-emulation")
    assert demands.of(prop)[0].lacks
    lacking()
    machine.forget_kvm()
    assert not demands.of(prop)[0].lacks


@given(
    lacks=st.sets(st.sampled_from(sorted(PRECONDITIONS))),
    text=st.sampled_from(
        [*(f"witness:{name}" for name in WITNESSES), *(f"feature:{name}" for name in PRECONDITIONS)]
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_somebody_answers_for_every_requirement_on_every_machine(
    lacking: Lacking, lacks: set[str], text: str
) -> None:
    demands = asked(lacking(*lacks), text)
    assert demands
    assert set(demands) <= requirement(text).properties
    missing = text.removeprefix("feature:") in lacks
    assert {bool(demand.lacks) for demand in demands.values()} == {missing}


def test_a_requirement_names_a_property_a_witness_or_a_feature() -> None:
    assert requirement("any.soak").properties == {"any.soak"}
    assert requirement("witness:btf").properties == {"kernel.fix-present"}
    assert requirement("feature:cpu-hotplug").properties == {"host.hotplug"}
    # Needed of one vendor's KVM.
    assert "any.soak" in requirement("feature:kvm-amd").properties
    # Needed by the witness vmcs, and not by the rows themselves.
    by_witness = {p.id for p in PROPERTIES if "vmcs" in p.witnesses}
    assert requirement("feature:vmcs-dump").properties == by_witness


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("any.soka", "did you mean any.soak"),
        ("", "see kvmtest list"),
        ("witness:btv", "--require witness:btv: it takes leak, vmcs, runflags, btf"),
        ("witness:", "it takes leak, vmcs"),
        ("feature:sgx", "it takes kvm, kvm-intel"),
        ("colour:red", "it takes witness:NAME, feature:NAME, a property's id"),
    ],
)
def test_a_requirement_that_names_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        requirement(text)
