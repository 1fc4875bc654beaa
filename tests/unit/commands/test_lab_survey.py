"""kvmtest lab survey: what is kept of each kernel in each machine, and the page made of it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.evidence_samples import in_lab
from support.kernel_files import RELEASE
from support.lab_emulator import Emulator, evidence

from kvmtest.cli import main
from kvmtest.judge import Verdict
from kvmtest.lab import target
from kvmtest.lab.target import MACHINES
from kvmtest.report.kernels_page import Surveyed, page

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


def survey(installed: Emulator, folder: Path, *words: str, **machine: object) -> list[str]:
    """Survey the tree's kernel where evidence says this of the machine; return the headings."""
    details = {"cpus": machine.pop("cpus", 2), **machine.pop("details", {})}  # type: ignore[dict-item]
    lab: dict[str, object] = {
        "emulator": "QEMU", "version": "7.2", "model": "EPYC", "lacks": {}, "details": details,
    }  # fmt: skip
    installed.leaves(in_lab(evidence({"any.soak": Verdict.PASS}), {**lab, **machine}), 0)
    assert main(["lab", "survey", "-o", str(folder), *words, str(installed.tree)]) == 0
    text = (folder / "kernels.md").read_text()
    return [line for line in text.splitlines() if line.startswith("## ")]


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """One that plays each of the lab's machines."""
    made = Emulator.install(tmp_path, monkeypatch)
    monkeypatch.setattr(target, "MACHINES", dict.fromkeys(MACHINES, MACHINES["intel"]))
    return made


def test_the_rows_of_two_machines_of_one_emulator_stay_apart(
    emulator: Emulator, tmp_path: Path
) -> None:
    survey(emulator, tmp_path, "--machine", "amd", details={"board": "pc, SeaBIOS"})
    uefi = {"board": "q35, OVMF"}
    assert survey(emulator, tmp_path, "--machine", "amd-uefi", details=uefi) == [
        "## QEMU 7.2, EPYC, 2 CPU",
        "## QEMU 7.2, EPYC, q35, OVMF, 2 CPU",
    ]
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert [(row["release"], row["lab"]) for row in rows] == [
        (RELEASE, "amd"), (RELEASE, "amd-uefi")
    ]  # fmt: skip


def test_the_rows_of_one_and_of_two_cpus_stay_apart(emulator: Emulator, tmp_path: Path) -> None:
    for cpus in (1, 2, 1):
        headings = survey(emulator, tmp_path, "--cpus", str(cpus), cpus=cpus)
    assert headings == ["## QEMU 7.2, EPYC, 1 CPU", "## QEMU 7.2, EPYC, 2 CPU"]
    assert len(json.loads((tmp_path / "kernels.json").read_text())) == 2


def test_the_rows_of_other_module_parameters_stay_apart(emulator: Emulator, tmp_path: Path) -> None:
    survey(emulator, tmp_path)
    given = {"kvm_parameters": "kvm_intel.ept=0"}
    words = ["--kvm-parameter", "kvm_intel.ept=0"]
    headings = survey(emulator, tmp_path, *words, details=given)
    assert ["modprobe", "kvm_intel", "nested=1", "ept=0"] in emulator.job()["commands"]
    assert headings == [
        "## QEMU 7.2, EPYC, 2 CPU",
        "## QEMU 7.2, EPYC, 2 CPU, kvm_intel.ept=0",
    ]


@pytest.mark.parametrize(
    ("machine", "words"),
    [(BOCHS, ["--cpus", "1"]), (QEMU, ["--machine", "amd"])],
)
def test_a_row_from_before_machines_had_names_is_that_of_its_emulator(
    emulator: Emulator, tmp_path: Path, machine: str, words: list[str]
) -> None:
    old = asdict(replace(row(machine, any__soak="FAIL"), release=RELEASE))
    other = old | {"release": "6.1.0"}
    for name in ("lab", "cpus", "setup"):
        del old[name], other[name]
    (tmp_path / "kernels.json").write_text(json.dumps([old, other]))
    name, cpus = machine.split()[0], 1 if machine == BOCHS else 2
    survey(emulator, tmp_path, *words, emulator=name, cpus=cpus)
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert [(r["release"], r["verdicts"]["any.soak"]) for r in rows] == [
        ("6.1.0", "FAIL"), (RELEASE, "PASS")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("[[", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("[1]", ""),
        ('{"a": {}}', ""),
        ("[{}]", ""),
        (Path("/dev/zero"), "this is a device, not a file"),
        (Path("/proc/self/mem"), "Input/output error"),
    ],
    ids=["cut short", "deep", "no rows", "no list", "no row", "device", "no reading"],
)
def test_rows_that_can_not_be_read_are_told_in_one_line(
    tmp_path: Path, kept: str | Path, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernels.json"
    path.symlink_to(kept) if isinstance(kept, Path) else path.write_text(kept)
    assert main(["lab", "survey", "6.12", "-o", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"kvmtest: {path}: ")
    assert said in error
    assert error.endswith("; remove it, or name another -o DIR\n")
    assert error.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["kernels.json"]


def test_the_page_of_this_repository_is_made_of_its_data() -> None:
    docs = Path(__file__).parents[3] / "docs"
    rows = [Surveyed.of(data) for data in json.loads((docs / "kernels.json").read_text())]
    assert (docs / "kernels.md").read_text() == page(rows)
    assert all(data.lab and data.cpus for data in rows)


def test_a_machine_s_row_is_made_anew_and_another_s_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, folder = Emulator.install(tmp_path, monkeypatch), tmp_path / "docs"
    surveyed = ["lab", "survey", "-o", str(folder), str(emulator.tree)]
    machine: dict[str, object] = {
        "emulator": "Bochs", "version": "2.7", "model": "m", "lacks": {}, "details": {"cpus": 1},
    }  # fmt: skip
    for verdict in (Verdict.FAIL, Verdict.PASS):
        emulator.leaves(in_lab(evidence({"any.soak": verdict}), machine), 0)
        assert main(surveyed) == 0
        machine = {**machine, "version": "2.8"}
    text = (folder / "kernels.md").read_text()
    assert text.count(f"| {RELEASE} |") == 1
    assert "## Bochs 2.8, m, 1 CPU" in text
    machine["emulator"] = "QEMU"
    emulator.leaves(in_lab(evidence({"any.soak": Verdict.PASS}), machine), 0)
    assert main(surveyed) == 0
    assert (folder / "kernels.md").read_text().count(f"| {RELEASE} |") == 2


@pytest.mark.parametrize(
    "data",
    [
        "[" * 100_000,
        "{}x",
        "[{}]",
        "17",
        *(
            json.dumps([{**asdict(row(BOCHS, any__soak="PASS")), name: value}])
            for name, value in (
                ("version", 5), ("verdicts", None), ("known_defects", []), ("machine", None),
            )
        ),
    ],
    ids=range(8),
)  # fmt: skip
def test_data_that_makes_no_page_is_refused_before_any_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    (tmp_path / "kernels.json").write_text(data)
    assert main(["lab", "survey", "-o", str(tmp_path), "/no/such/kernel"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "kernels.json" in error
    assert (tmp_path / "kernels.json").read_text() == data
