"""The host's counters of a guest are of the core that its CPU is."""

from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.checks.leaks import counters as leak_counters
from kvmtest.checks.leaks.counters import HostCounters
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.pmu import Event

DEVICES = "/sys/bus/event_source/devices"


def pmu(name: str, number: int, cpus: str | None) -> dict[str, str]:
    files = {
        f"{DEVICES}/{name}/type": f"{number}\n",
        f"{DEVICES}/{name}/format/event": "config:0-7\n",
        f"{DEVICES}/{name}/events/instructions": "event=0xc0\n",
        f"{DEVICES}/{name}/events/cpu-cycles": "event=0x3c\n",
    }
    return files if cpus is None else {**files, f"{DEVICES}/{name}/cpus": f"{cpus}\n"}


ARROW_LAKE_H = {
    **pmu("cpu_core", 4, "0-5"), **pmu("cpu_atom", 10, "6-13"), **pmu("cpu_lowpower", 11, "14-15")
}  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Collect the events that a group would open."""
    events: list[Event] = []

    def group(_: Tree, wanted: list[Event], **__: object) -> None:
        events.extend(wanted)

    monkeypatch.setattr(leak_counters, "CounterGroup", group)
    return events


@pytest.mark.parametrize(
    ("files", "cpu", "name", "number"),
    [
        (ARROW_LAKE_H, 0, "cpu_core", 4),
        (ARROW_LAKE_H, 13, "cpu_atom", 10),
        (ARROW_LAKE_H, 14, "cpu_lowpower", 11),
        (ARROW_LAKE_H, 15, "cpu_lowpower", 11),
        (pmu("cpu", 4, None), 15, "cpu", 4),
    ],
)
@pytest.mark.parametrize("modes", [(), ("kG",)])
def test_a_cpu_is_counted_by_its_own_kind_of_core(
    tmp_path: Path,
    opened: list[Event],
    files: dict[str, str],
    cpu: int,
    name: str,
    number: int,
    modes: tuple[str, ...],
) -> None:
    HostCounters(Machine(stand_in(tmp_path, files)), cpu, modes=modes)
    assert {(event.pmu, event.type) for event in opened} == {(name, number)}
    assert len(opened) == (1 if modes else 4)


def test_a_cpu_that_no_pmu_counts_is_refused_and_not_counted_elsewhere(
    tmp_path: Path, opened: list[Event]
) -> None:
    with pytest.raises(EnvironmentUnfit, match="no PMU counts on CPU 16"):
        HostCounters(Machine(stand_in(tmp_path, ARROW_LAKE_H)), 16)
    assert not opened
