"""The self-test in the real emulator: it passes, and it fails where the model is broken."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from support.bochs_part import BOCHS as MODEL
from support.selftest_program import patched

from kvmtest.lab.emulators.bochs import selftest
from kvmtest.lab.emulators.bochs.patched import Bochs
from kvmtest.lab.emulators.bochs.selftest import run

ROOT = Path(__file__).parents[2]

#: What is broken, in which file, and the check that says so first.
BROKEN = [
    (
        "the freeze is ignored",
        ("pmu.c", "pmu->debugctl & FREEZE_WHILE_SMM;", "false;"),
        "instructions amid frozen SMIs (1 CPU)",
    ),
    (
        "RSM brings no DEBUGCTL back",
        ("pmu.c", "\t\tpmu->debugctl = pmu->frozen_debugctl;\n", ""),
        "instructions amid frozen SMIs (1 CPU)",
    ),
    (
        "VM-entry counts in the guest",
        ("cpu.c", "\tadvance(one, one->retires_at);\n", "\tcpu_advance(cpu);\n"),
        "instructions of a guest (1 CPU): 1001 seen, 1000 expected",
    ),
    (
        "VM-exit keeps DEBUGCTL",
        ("pmu.c", "\tpmu->debugctl = 0;\n", ""),
        "IA32_DEBUGCTL after VM-exit, loaded and saved (1 CPU): 16449 seen, 0 expected",
    ),
    (
        "a fault counts",
        ("loop.c", "\t\t\tone->unretired++;\n", "\t\t\t;\n"),
        "instructions around #UD (1 CPU)",
    ),
    (
        "a saved CPU's counters are lost",
        ("state.c", "done = fread(&counted[i].pmu, sizeof(struct pmu), 1, file);", ""),
        "instructions while saved and restored (1 CPU)",
    ),
    (
        "all CPUs have one set of counters",
        ("cpu.h", "counted[AT(uint32_t, cpu, NUMBER)]", "counted[(uintptr_t)cpu * 0]"),
        "(2 CPUs)",
    ),
]


@pytest.fixture(scope="module")
def model(bochs: Bochs) -> Bochs:
    if not bochs.is_known:
        pytest.skip("needs the emulator with the model")
    return bochs


def test_it_passes_within_seconds(model: Bochs, tmp_path: Path) -> None:
    done = run(patched(model, tmp_path))
    assert (done.passed, done.reason) == (True, "")
    assert done.seconds < 20


@pytest.mark.parametrize(
    ("change", "reason"), [row[1:] for row in BROKEN], ids=[r[0] for r in BROKEN]
)
def test_it_fails_where(
    model: Bochs, tmp_path: Path, change: tuple[str, str, str], reason: str
) -> None:
    source, right, wrong = change
    copy, extension = tmp_path / "bochs", tmp_path / "extension.so"
    shutil.copytree(MODEL, copy)
    text = (copy / source).read_text()
    assert text.count(right) == 1
    (copy / source).write_text(text.replace(right, wrong))
    parts = sorted(copy.glob("*.c"))
    command = ["cc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-o", extension, *parts, "-ldl"]
    subprocess.run(command, check=True)
    done = run(patched(model, tmp_path, extension))
    assert not done.passed
    assert reason in done.reason


def test_it_fails_where_one_instruction_more_is_executed(
    model: Bochs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "selftest"
    shutil.copytree(ROOT / "c_helpers" / "selftest", copy)
    text = (copy / "counted.S").read_text()
    assert text.count("\tvmcall\n\n/* 1 + EXITS") == 1
    (copy / "counted.S").write_text(text.replace("\tvmcall\n\n/* 1 +", "\tnop\n\tvmcall\n\n/* 1 +"))
    monkeypatch.setattr(selftest, "ROM", tmp_path / "rom")
    runpy.run_path(str(copy / "build.py"))["build"](tmp_path / "rom")
    done = run(patched(model, tmp_path))
    assert "instructions of a guest (1 CPU): 1001 seen, 1000 expected" in done.reason


def test_a_build_without_the_model_fails(model: Bochs, tmp_path: Path) -> None:
    empty = tmp_path / "empty.so"
    subprocess.run(["cc", "-shared", "-o", empty, "-xc", "/dev/null"], check=True)
    assert not run(patched(model, tmp_path, empty), deadline_s=3).passed
