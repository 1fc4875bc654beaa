"""kvmtest lab mutants: the matrix of a made-up machine's verdicts, and an exit status.

The builder makes no modules here: it names a folder for each mutant, by which the emulator knows
what to leave.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.kernel_files import module as kernel_module
from support.lab_emulator import Emulator, evidence

from kvmtest.cache import Cache
from kvmtest.cli import main
from kvmtest.commands import lab_mutants as command
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.evidence import Evidence
from kvmtest.judge import Verdict, claim, control
from kvmtest.lab.emulators.bochs.build import Builder
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.mutants import bench as module
from kvmtest.lab.mutants.bench import chosen_mutants, mutants_of_kernel
from kvmtest.lab.mutants.builder import PatchRefused
from kvmtest.lab.mutants.table import MUTANTS, REPAIRS, find
from kvmtest.lab.target import MACHINES, VENDORS

Capture = pytest.CaptureFixture[str]
PASS, FAIL, SKIP = Verdict.PASS, Verdict.FAIL, Verdict.SKIP
NAMES = ("no-reload-at-entry", "guest-sees-bit")
OWNERS = [find(name).owner for name in NAMES]
STOCK = dict.fromkeys(OWNERS, PASS)
WITNESSES = ("vmcs", "klog", "leak")


class Bench:
    """Builds nothing; before a build returns, it has the machine behave as that build would."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.outcomes: dict[str, Mapping[str, Verdict] | Evidence | str] = {}

    def build(self, patches: list[Path] | tuple[()] = ()) -> Path:
        name = patches[0].stem if patches else "rebuilt"
        outcome = self.outcomes.get(name, STOCK)
        if outcome == "refused":
            raise PatchRefused("the patch does not fit")
        if outcome == "stumbles":
            raise ZeroDivisionError("a bug")
        if isinstance(outcome, Mapping):
            outcome = evidence(outcome)
        self.emulator.leaves(None if isinstance(outcome, str) else outcome, 0)
        folder = self.emulator.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "kvm-intel.ko").write_bytes(kernel_module("kvm_intel", "kvm", body=name.encode()))
        return folder


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    emulator = Emulator.install(tmp_path, monkeypatch)
    made = Bench(emulator)
    emulator.leaves(evidence(STOCK), 0)
    monkeypatch.setattr(command.kit, "fetch", lambda *_: SimpleNamespace())
    monkeypatch.setattr(command, "ModuleBuilder", lambda *_: made)
    return made


def spoken(*against: str) -> Evidence:
    """Evidence in which these witnesses speak against the first owner."""
    made = evidence({**STOCK, OWNERS[0]: FAIL})
    readings = [control(witness, "it works", True, True, "") for witness in WITNESSES]
    readings += [claim(witness, "the bit", int(witness not in against), 1) for witness in WITNESSES]
    return replace(made, results=[replace(made.results[0], readings=readings), *made.results[1:]])


def judge(bench: Bench, *words: object) -> int:
    chosen = [f"--only={name}" for name in NAMES]
    tree = str(bench.emulator.tree)
    # One at a time: a build says how the one machine behaves.
    return main(["lab", "mutants", "--jobs=1", "--kernel", tree, *chosen, *map(str, words)])


def test_where_each_owner_fails_all_are_killed(
    bench: Bench, tmp_path: Path, capsys: Capture
) -> None:
    for name, owner in zip(NAMES, OWNERS, strict=True):
        bench.outcomes[name] = {**STOCK, owner: FAIL}
    output = tmp_path / "out"
    assert judge(bench, "-o", output) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "the unmutated build has the verdicts of the stock kernel",
        "2 mutants: 2 killed, 0 survived, 0 undecided",
    ]
    rows = json.loads((output / "matrix.json").read_text())
    assert [(row["mutant"], row["fate"]) for row in rows] == [(n, "killed") for n in NAMES]
    assert "| no-reload-at-entry | killed |" in (output / "matrix.md").read_text()
    folders = {path.name for path in output.iterdir() if path.is_dir()}
    assert folders == {"stock", "rebuilt", *NAMES}
    assert all((output / folder / "evidence.json").exists() for folder in folders)


def test_who_noticed_is_told_where_they_said_nothing_on_the_stock_kernel(
    bench: Bench, tmp_path: Path
) -> None:
    bench.emulator.leaves(spoken("klog"), 0)
    bench.outcomes = {"rebuilt": spoken("klog"), **dict.fromkeys(NAMES, spoken(*WITNESSES))}
    output = tmp_path / "out"
    judge(bench, "-o", output)
    rows = json.loads((output / "matrix.json").read_text())
    assert [row["witnesses"] for row in rows] == 2 * [["leak", "vmcs"]]
    assert (output / "matrix.md").read_text().endswith("| leak, vmcs |\n")


@pytest.mark.parametrize("seen_by", ["leak", "vmcs"])
def test_a_leak_that_a_mutant_must_show_is_missed_where_others_see_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: Capture, seen_by: str
) -> None:
    mutant = replace(find(NAMES[0]), leak=OWNERS[0])
    monkeypatch.setattr(module, "find", lambda name: mutant if name == NAMES[0] else find(name))
    bench.outcomes = {NAMES[0]: spoken(seen_by), NAMES[1]: {**STOCK, OWNERS[1]: FAIL}}
    stock = bench.outcomes["rebuilt"] = spoken()
    bench.emulator.leaves(stock, 0)
    assert judge(bench) == int(seen_by != "leak")
    missed = f"{NAMES[0]}: {OWNERS[0]} does not FAIL by leak" in capsys.readouterr().out
    assert missed == (seen_by != "leak")


def test_a_survivor_is_named_and_makes_the_status_1(bench: Bench, capsys: Capture) -> None:
    bench.outcomes[NAMES[0]] = {**STOCK, OWNERS[0]: FAIL}
    assert judge(bench) == 1
    out = capsys.readouterr().out
    assert f"guest-sees-bit survived: {OWNERS[1]}: PASS" in out
    assert out.endswith("2 mutants: 1 killed, 1 survived, 0 undecided\n")


def test_a_rebuilt_kernel_that_is_judged_otherwise_makes_the_status_1(
    bench: Bench, capsys: Capture
) -> None:
    bench.outcomes = {n: {**STOCK, o: FAIL} for n, o in zip(NAMES, OWNERS, strict=True)}
    bench.outcomes["rebuilt"] = {**STOCK, OWNERS[0]: SKIP}
    assert judge(bench) == 1
    difference = f"{OWNERS[0]}: PASS on the stock kernel, SKIP on the unmutated build"
    assert difference in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("refused", "the patch does not fit"),
        ("breaks", "kvmtest ended with status 0 in the lab's machine and left no evidence"),
    ],
)
def test_a_mutant_that_can_not_be_judged_ends_nothing_but_its_own_run(
    bench: Bench, capsys: Capture, outcome: str, reason: str
) -> None:
    bench.outcomes = {NAMES[0]: outcome, NAMES[1]: {**STOCK, OWNERS[1]: FAIL}}
    assert judge(bench) == 0
    out = capsys.readouterr().out
    assert f"no-reload-at-entry undecided: {reason}" in out
    assert out.endswith("2 mutants: 1 killed, 0 survived, 1 undecided\n")


def test_a_bug_that_shows_in_one_mutant_s_run_ends_no_other_and_makes_the_status_3(
    bench: Bench, capsys: Capture
) -> None:
    bench.outcomes = {NAMES[0]: "stumbles", NAMES[1]: {**STOCK, OWNERS[1]: FAIL}}
    assert judge(bench) == 3
    out = capsys.readouterr().out
    assert "no-reload-at-entry undecided: ZeroDivisionError: a bug: this is a bug" in out
    assert out.endswith("2 mutants: 1 killed, 0 survived, 1 undecided\n")


def test_several_at_a_time_have_their_rows_in_the_mutants_order(
    bench: Bench, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "out"
    assert judge(bench, "--jobs=3", "-o", output) == 1
    rows = json.loads((output / "matrix.json").read_text())
    assert [(row["mutant"], row["fate"]) for row in rows] == [(n, "survived") for n in NAMES]
    lines = capsys.readouterr().err.splitlines()
    ended = [line.removeprefix("kvmtest: lab: ") for line in lines if "] " in line]
    assert [line.partition(" ")[0] for line in ended] == 2 * ["[1/2]", "[2/2]"]
    assert {line.split("] ")[1].partition(":")[0] for line in ended} == {
        "the stock kernel", "the unmutated build", *NAMES
    }  # fmt: skip


def test_a_matrix_in_which_nothing_was_decided_is_no_success(bench: Bench) -> None:
    stock = dict.fromkeys(OWNERS, SKIP)
    bench.emulator.leaves(evidence(stock), 4)
    bench.outcomes = dict.fromkeys(["rebuilt", *NAMES], stock)
    assert judge(bench) == 4


def test_an_unknown_mutant_is_refused_before_anything_is_built(
    bench: Bench, capsys: Capture
) -> None:
    assert judge(bench, "--only", "no-such") == 2
    assert capsys.readouterr().err.startswith("kvmtest: ")
    assert bench.emulator.starts() == []


def test_a_stock_kernel_that_can_not_be_judged_ends_it(bench: Bench, capsys: Capture) -> None:
    bench.emulator.leaves(None, 0)
    assert judge(bench) == 3
    assert "left no evidence" in capsys.readouterr().err.splitlines()[-1]


def test_the_names_used_here_are_those_of_mutants() -> None:
    assert {find(name) for name in NAMES} <= {*MUTANTS, *REPAIRS}


@pytest.mark.parametrize("machine", ["amd", "amd-uefi"])
def test_a_mutant_of_another_machine_is_refused(capsys: Capture, machine: str) -> None:
    assert main(["lab", "mutants", "--machine", machine, "--only", NAMES[0]]) == 2
    assert f"{NAMES[0]} is one for --machine intel" in capsys.readouterr().err
    assert main(["lab", "mutants", "--only", "svm-lbrv-not-asked"]) == 2
    assert "is one for --machine amd or amd-uefi" in capsys.readouterr().err


MEDIATED = find("mediated-not-reloaded")


def test_a_mutant_of_a_line_that_the_kernel_has_not_is_left_out_unless_named() -> None:
    assert MEDIATED.since == (7, 0)
    for release, is_there in (
        ("6.12.117+deb12-amd64", False),
        ("6.99.1", False),
        ("7.0-rc1", True),
    ):
        assert (MEDIATED in mutants_of_kernel(MUTANTS, release, [])) is is_there
    assert len(mutants_of_kernel(MUTANTS, "6.12.117", [])) == len(MUTANTS) - 1
    with pytest.raises(UsageError, match=r"is one for Linux 7\.0 and later, not 6\.12\.117"):
        mutants_of_kernel([MEDIATED], "6.12.117", [MEDIATED.name])
    assert mutants_of_kernel([MEDIATED], "7.3.4", [MEDIATED.name]) == [MEDIATED]


def test_a_mutant_runs_with_the_parameters_that_its_fault_shows_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = replace(MEDIATED, since=(0, 0))
    monkeypatch.setattr(module, "find", lambda _: mutant)
    tree = str(bench.emulator.tree)
    assert main(["lab", "mutants", "--jobs=1", "--kernel", tree, "--only", MEDIATED.name]) == 4
    loading = ["modprobe", "kvm_intel", "nested=1", "enable_mediated_pmu=1"]
    assert loading in bench.emulator.job()["commands"]


def test_each_machine_is_given_the_mutants_of_its_vendor_s_module() -> None:
    chosen = {name: chosen_mutants(name, []) for name in MACHINES}
    assert chosen["amd"] == chosen["amd-uefi"]
    assert {mutant.name.startswith("svm-") for mutant in chosen["amd"]} == {True}
    assert {*chosen["intel"], *chosen["amd"]} == {*MUTANTS, *REPAIRS}


def test_each_machine_has_the_vendor_s_module_that_its_emulator_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is built for this.
    monkeypatch.setenv("KVMTEST_BOCHS_SOURCE", "/nowhere")
    builder = Builder(Cache(tmp_path), print)
    found = {"intel": BuiltBochs.modules[0]}
    for name, find_emulator in MACHINES.items():
        try:
            emulator = find_emulator(builder)
        except EnvironmentUnfit:
            continue
        assert emulator.modules[0] == found.setdefault(name, emulator.modules[0])
    assert found.items() <= VENDORS.items()
    assert VENDORS.keys() == MACHINES.keys()
