"""The benchmark: it says how kvmtest does, and its exit status agrees with what it says."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from support.stand_in import environment, need_kvm

from kvmtest.evidence import load
from kvmtest.judge import Verdict

BENCH = Path(__file__).resolve().parents[2] / "bench"
RECORDED = BENCH.with_name("tests") / "recorded"


@pytest.fixture
def bench() -> ModuleType:
    """The lab's benchmark."""
    spec = spec_from_file_location("bench_lab", BENCH / "lab.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("program", "words"), [("run.py", ["3"]), ("speed.py", [])])
def test_it_ends_with_1_where_a_goal_is_missed(program: str, words: list[str]) -> None:
    if program == "run.py":
        need_kvm()
    done = subprocess.run(
        [sys.executable, BENCH / program, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(PYTHONPATH=str(BENCH.parent / "tests")),
    )
    said = [line for line in done.stdout.splitlines() if "(goal " in line]
    assert done.stderr == ""
    assert len(said) == 5
    assert all(line.startswith(("ok", "MISSED")) for line in said)
    assert done.returncode == ("MISSED" in done.stdout)


def lab_checkout(folder: Path, recorded: str) -> Path:
    """A checkout whose lab prints the screen of a recorded run, and the times after it."""
    screen = subprocess.run(
        [sys.executable, "-m", "kvmtest", "report", RECORDED / recorded],
        capture_output=True,
        check=True,
    ).stdout
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "screen").write_bytes(screen + b"lab: 9.6 s in all (kernel 0.1, suite 8.9)\n")
    program = folder / ".venv/bin/kvmtest"
    program.write_text(f"#!/bin/sh\ncat {folder}/screen\n")
    program.chmod(0o755)
    return folder


def test_the_lab_s_reads_the_screen_of_a_run(bench: ModuleType, tmp_path: Path) -> None:
    names = ("intel-lab-nested", "intel-lab-known-defect")
    runs = [bench.run(lab_checkout(tmp_path / name, f"{name}.json")) for name in names]
    for one, name in zip(runs, names, strict=True):
        evidence = load(RECORDED / f"{name}.json")
        assert one.release == evidence.kernel.release
        assert one.seconds == 9.6
        assert one.steps == {"kernel": 0.1, "suite": 8.9}
        decided = {each.id for each in evidence.results if each.verdict is not Verdict.SKIP}
        assert set(one.decided) == decided
    assert bench.same_suite(runs[:1]) == []
    both = set(runs[0].decided) & set(runs[1].decided)
    assert both
    assert set(bench.same_suite(runs)) == {f"--only={name}" for name in both}


def test_the_lab_s_ends_with_the_last_line_of_a_run_that_broke(
    bench: ModuleType, tmp_path: Path
) -> None:
    checkout = lab_checkout(tmp_path, "intel-lab-nested.json")
    (checkout / "screen").write_text("kvmtest: no such kernel\n")
    with pytest.raises(bench.RunFailed, match="no such kernel"):
        bench.run(checkout)
