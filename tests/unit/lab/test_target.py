"""kvmtest/lab/target.py: what evidence says of a lab's machine, and how long its steps took."""

import json
import os
from pathlib import Path

import pytest
from support.lab_emulator import Emulator

from kvmtest.host.facts.lab import LabFacts
from kvmtest.lab.emulators.bochs.built import PMU
from kvmtest.lab.emulators.bochs.stock import StockBochs
from kvmtest.lab.emulators.emulator import Hardware
from kvmtest.lab.image import contents as image
from kvmtest.target import Job


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    return Emulator.install(tmp_path, monkeypatch)


@pytest.mark.parametrize("cold", [True, False])
def test_evidence_is_told_what_the_machine_is_and_how_it_began(
    emulator: Emulator, cold: bool
) -> None:
    lab = emulator.target(cold=cold, hardware=Hardware(cpus=2))
    facts = lab.facts()
    read = LabFacts.of({"KVMTEST_LAB": json.dumps(facts)})
    assert read
    assert (read.emulator, read.version, read.model) == (
        "Bochs", "3.0, built from source", "corei7_skylake_x",
    )  # fmt: skip
    details = read.details
    assert details["start"] == ("booted" if cold else "restored from a saved machine")
    assert details["cpus"] == 2
    assert details["modules"] == "the kernel's own"
    assert details["emulated_on"] == os.uname().nodename
    assert details["kernel_digest"] == lab.kernel.digest
    assert details["image_digest"] == lab.machine.image_digest
    assert details["command_line"] == lab.machine.command_line
    assert lab.machine.command_line.startswith(image.COMMAND_LINE)


def test_the_lab_s_own_emulator_has_counters_and_the_distribution_s_lacks_them(
    emulator: Emulator,
) -> None:
    lab = emulator.target()
    assert lab.facts()["lacks"] == {}
    assert lab.facts()["details"].items() >= PMU.items()
    lab.machine.emulator = StockBochs(emulator.folder / "bochs", "2.7", "digest")
    assert set(lab.facts()["lacks"]) == {"pmu", "debugctl-switch"}
    assert not lab.facts()["details"].keys() & PMU.keys()


@pytest.mark.parametrize(
    ("cold", "steps"),
    [
        (True, ["image", "restore", "job", "suite", "poweroff"]),
        (False, ["image", "saved machine", "restore", "job", "suite", "poweroff"]),
    ],
)
def test_an_outcome_has_the_time_of_each_step(
    emulator: Emulator, cold: bool, steps: list[str]
) -> None:
    outcome = emulator.target(cold=cold).run(Job())
    assert list(outcome.durations) == steps
    assert min(outcome.durations.values()) >= 0
