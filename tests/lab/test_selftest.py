"""The self-test in the real emulator: it passes, and it fails where the model is broken."""

import os
import runpy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kvmtest.cache import Cache
from kvmtest.lab.emulators.bochs import build, selftest
from kvmtest.lab.emulators.bochs.build import Build, Builder
from kvmtest.lab.emulators.bochs.built import BuiltBochs, program
from kvmtest.lab.emulators.bochs.selftest import Program, run
from kvmtest.lab.emulators.bochs.source import source
from kvmtest.lab.emulators.emulator import Emulator, Launch

ROOT = Path(__file__).parents[2]

#: What is broken: the file, a statement of it and what stands in its place, and what says so first.
BROKEN = {
    "freeze": (
        "pmu.c",
        "\tpmu->is_frozen = pmu->debugctl & FREEZE_WHILE_SMM;\n",
        "\tpmu->is_frozen = false;\n",
        "instructions amid frozen SMIs (1 CPU)",
    ),
    "rsm": (
        "pmu.c",
        "\t\tpmu->debugctl = pmu->frozen_debugctl;\n",
        "",
        "instructions amid frozen SMIs (1 CPU)",
    ),
    "vm-entry": (
        "counted.cc",
        "\tadvance(one, one->retires_at);\n",
        "\tcounted_advance(cpu);\n",
        "instructions of a guest (1 CPU): 1001 seen, 1000 expected",
    ),
    "vm-exit": (
        "pmu.c",
        "\tpmu->debugctl = 0;\n",
        "",
        "IA32_DEBUGCTL after VM-exit, loaded and saved (1 CPU): 16449 seen, 0 expected",
    ),
    "fault": (
        "counted.h",
        "\t\tcounted[cpu].unretired++;\n",
        "",
        "instructions around #UD (1 CPU)",
    ),
    "restore": (
        "state.cc",
        '\tadd(list, "instructions", &pmu->instructions);\n',
        "",
        "the saved machine's counters are damaged",
    ),
    "one-set": (
        "counted.cc",
        "\t\tanswer = pmu_read_msr(&counted[cpu].pmu, index, &read);\n",
        "\t\tanswer = pmu_read_msr(&counted[0].pmu, index, &read);\n",
        "(2 CPUs)",
    ),
}
# One build has all faults; the environment says which of them it shows.
CHOICE = """
#include <stdlib.h>
#include <string.h>
static inline int has_fault(const char *name)
{
	const char *chosen = getenv("FAULT");
	return chosen && !strcmp(chosen, name);
}
"""


def program_of(made: Build, fault: str) -> Program:
    """Return an emulator that has a fault."""
    own = program(made)

    def start(arguments: Sequence[str], save: Path | None) -> Launch:
        launch = own.start(arguments, save)
        return replace(launch, environment={**launch.environment, "FAULT": fault})

    return Program(own.variant, start)


@pytest.fixture(scope="module")
def built(bochs: Emulator) -> BuiltBochs:
    if not isinstance(bochs, BuiltBochs):
        pytest.skip("needs the emulator with the model")
    return bochs


@pytest.fixture(scope="module")
def faulty(built: BuiltBochs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    folder = tmp_path_factory.mktemp("faulty")
    parts = folder / "parts"
    shutil.copytree(build.PARTS, parts)
    for name, (file, right, wrong, _) in BROKEN.items():
        text = (parts / file).read_text()
        assert text.count(right) == 1, name
        choice = f'if (has_fault("{name}")) {{\n{wrong}\t}} else {{\n{right}\t}}'
        chosen = f"\t{choice}\n"
        (parts / file).write_text(text.replace(right, chosen))
    pmu = parts / "pmu.h"
    guard = "#define KVMTEST_BOCHS_PMU_H\n"
    pmu.write_text(pmu.read_text().replace(guard, guard + CHOICE))
    cache = Cache(folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "PARTS", parts)
        made = Builder(cache, print).build(source(Cache.default(), print))
    return lambda fault: program_of(made, fault)


def test_it_passes_within_seconds(built: BuiltBochs) -> None:
    done = run(program(built.build))
    assert (done.passed, done.reason) == (True, "")
    assert done.seconds < 20


@pytest.mark.skipif(
    os.environ.get("KVMTEST_LAB_TESTS") != "all",
    reason="builds an emulator: KVMTEST_LAB_TESTS=all",
)
@pytest.mark.parametrize("fault", BROKEN)
def test_it_fails_where(faulty: Callable[[str], Program], fault: str) -> None:
    done = run(faulty(fault))
    assert not done.passed
    assert BROKEN[fault][-1] in done.reason


def test_it_fails_where_one_instruction_more_is_executed(
    built: BuiltBochs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("selftest", "bochs"):  # which share a header
        shutil.copytree(ROOT / "c_helpers" / part, tmp_path / part)
    copy = tmp_path / "selftest"
    text = (copy / "counted.S").read_text()
    assert text.count("\tvmcall\n\n/* 1 + EXITS") == 1
    (copy / "counted.S").write_text(text.replace("\tvmcall\n\n/* 1 +", "\tnop\n\tvmcall\n\n/* 1 +"))
    monkeypatch.setattr(selftest, "ROM", tmp_path / "rom")
    runpy.run_path(str(copy / "build.py"))["build"](tmp_path / "rom")
    done = run(program(built.build))
    assert "instructions of a guest (1 CPU): 1001 seen, 1000 expected" in done.reason
