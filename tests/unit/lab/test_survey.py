"""kvmtest/lab/survey.py: what is kept of each kernel in each machine, and the page made of it."""

from pathlib import Path

import pytest
from kernel_files import RELEASE
from lab_emulator import Emulator, evidence

from kvmtest.cli import main
from kvmtest.judge import Verdict
from kvmtest.lab.survey import Surveyed, page

BOCHS, QEMU = "Bochs 2.7, corei7_skylake_x, 1 CPU", "QEMU 7.2.22, EPYC, 2 CPU"


def row(machine: str, **verdicts: str) -> Surveyed:
    named = {name.replace("_", "-").replace("--", "."): v for name, v in verdicts.items()}
    return Surveyed("6.12.1", "6.12.1", None, None, "0.1.0", machine, named, {})


def test_each_machine_has_a_table_of_what_it_decides() -> None:
    rows = [
        row(BOCHS, vmx__entry__fresh="PASS", svm__flag_never="SKIP"),
        row(QEMU, vmx__entry__fresh="SKIP", svm__flag_never="FAIL"),
    ]
    first, second = page(rows).split(f"## {QEMU}")
    assert f"## {BOCHS}" in first
    assert "| `vmx.entry.fresh` |" in first
    assert "svm.flag-never" not in first
    assert "| 6.12.1 | 6.12.1 |  | **FAIL** |" in second
    assert "vmx.entry.fresh" not in second


def test_a_machine_s_row_is_made_anew_and_another_s_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, folder = Emulator.install(tmp_path, monkeypatch), tmp_path / "docs"
    surveyed = ["lab", "survey", "-o", str(folder), str(emulator.tree)]
    machine: dict[str, object] = {
        "emulator": "Bochs", "version": "2.7", "model": "m", "lacks": {}, "details": {"cpus": 1},
    }  # fmt: skip
    for verdict in (Verdict.FAIL, Verdict.PASS):
        left = evidence({"any.soak": verdict})
        left.machine["lab"] = machine
        emulator.leaves(left, 0)
        assert main(surveyed) == 0
        machine = {**machine, "version": "2.8"}
    text = (folder / "kernels.md").read_text()
    assert text.count(f"| {RELEASE} |") == 1
    assert "## Bochs 2.8, m, 1 CPU" in text
    machine["emulator"] = "QEMU"
    left.machine["lab"] = machine
    emulator.leaves(left, 0)
    assert main(surveyed) == 0
    assert (folder / "kernels.md").read_text().count(f"| {RELEASE} |") == 2
