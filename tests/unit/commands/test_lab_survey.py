"""kvmtest lab survey: what is kept of each kernel in each machine, and the page made of it."""

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.evidence_samples import in_lab
from support.kernel_files import RELEASE, tree_files, write_tree
from support.lab_emulator import Emulator, evidence

from kvmtest.cli import main
from kvmtest.judge import Verdict
from kvmtest.kernels.archive import Archive
from kvmtest.kernels.offers import Offer
from kvmtest.lab.survey import Surveyed
from kvmtest.lab.target import MACHINES, MODULES
from kvmtest.report.kernels_page import page

Capture = pytest.CaptureFixture[str]

BOCHS, QEMU = "Bochs 2.7, corei7_skylake_x, 1 CPU", "QEMU 7.2.22, EPYC, 2 CPU"


def row(machine: str, **verdicts: str) -> Surveyed:
    named = {name.replace("_", "-").replace("--", "."): v for name, v in verdicts.items()}
    return Surveyed("6.12.1", "6.12.1", None, None, "0.1.0", machine, named, {})


def survey(installed: Emulator, folder: Path, *words: str, **machine: object) -> list[str]:
    """Survey the tree's kernel where evidence says this of the machine; return the headings."""
    details = {"cpus": machine.pop("cpus", 2), **machine.pop("details", {})}  # type: ignore[dict-item]
    lab: dict[str, object] = {
        "emulator": "QEMU", "version": "7.2", "model": "EPYC", "lacks": {}, "details": details,
    }  # fmt: skip
    installed.leaves(in_lab(evidence({"any.soak": Verdict.PASS}), {**lab, **machine}), 0)
    assert main(["lab", "survey", "-o", str(folder), *words, str(installed.tree)]) == 0
    text = (folder / "kernels.md").read_text()
    return [
        line for line in text.splitlines() if line.startswith("## ") and "All kernels" not in line
    ]


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """One that plays each of the lab's machines."""
    made = Emulator.install(tmp_path, monkeypatch)
    for name in MACHINES:
        monkeypatch.setitem(MACHINES, name, MACHINES["intel"])
        monkeypatch.setitem(MODULES, name, MODULES["intel"])
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
    tmp_path: Path, kept: str | Path, said: str, capsys: Capture
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
    tmp_path: Path, capsys: Capture, data: str
) -> None:
    (tmp_path / "kernels.json").write_text(data)
    assert main(["lab", "survey", "-o", str(tmp_path), "/no/such/kernel"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "kernels.json" in error
    assert (tmp_path / "kernels.json").read_text() == data


@pytest.fixture
def trees(emulator: Emulator, tmp_path: Path) -> list[Path]:
    """The trees of four kernels."""
    releases = [f"6.12.{number}+test-amd64" for number in (9, 10, 11, 12)]
    return [write_tree(tmp_path / release, tree_files(release)) for release in releases]


def releases(folder: Path) -> list[str]:
    return [row["release"] for row in json.loads((folder / "kernels.json").read_text())]


def test_several_at_a_time_give_the_page_that_one_after_the_other_gives(
    emulator: Emulator, trees: list[Path], tmp_path: Path
) -> None:
    for jobs in ("1", "3"):
        folder = tmp_path / jobs
        words = ["lab", "survey", "--jobs", jobs, "-o", str(folder)]
        assert main([*words, *map(str, reversed(trees))]) == 0
        assert releases(folder) == [tree.name for tree in trees]
    assert (tmp_path / "1/kernels.md").read_text() == (tmp_path / "3/kernels.md").read_text()
    assert set(emulator.starts()) == {"cold"}, "a kernel runs once: saving it would take longer"
    assert not [path for path in emulator.cache.root.rglob("*") if path.is_file()]


def test_a_kernel_that_is_none_stops_no_other_and_is_named_at_the_end(
    trees: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    kernels = [str(trees[0]), "/none", str(trees[1])]
    assert main(["lab", "survey", "--jobs", "2", "-o", str(tmp_path), *kernels]) == 3
    assert releases(tmp_path) == [trees[0].name, trees[1].name]
    captured = capsys.readouterr()
    assert captured.out == f"2 of 3 runs: {tmp_path / 'kernels.md'}\n"
    lines = captured.err.splitlines()
    assert lines[0] == "kvmtest: lab: 3 runs, 2 at a time"
    assert {line.split("] ")[0] for line in lines[1:4]} == {
        f"kvmtest: lab: [{number}/3" for number in (1, 2, 3)
    }
    assert lines[4:] == [line for line in lines if line.startswith("kvmtest: /none intel: there")]


def test_a_machine_that_fails_has_a_row_that_says_so(
    emulator: Emulator, trees: list[Path], tmp_path: Path
) -> None:
    (emulator.folder / "panic").touch()
    assert main(["lab", "survey", "-o", str(tmp_path), str(trees[0])]) == 3
    (row,) = json.loads((tmp_path / "kernels.json").read_text())
    assert row["failure"] == "the lab's machine failed: Kernel panic - not syncing: no init"
    assert (row["release"], row["verdicts"]) == (trees[0].name, {})
    (emulator.folder / "panic").unlink()
    assert survey(emulator, tmp_path, str(trees[0]), emulator="Bochs", cpus=1)
    assert [row["failure"] for row in json.loads((tmp_path / "kernels.json").read_text())] == [
        "", ""
    ]  # fmt: skip


def test_all_are_the_kernels_on_offer_but_those_whose_row_is_up_to_date(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    offer = Offer(RELEASE, "6.12.7", "6.12.7-1", (), ("bookworm",))
    monkeypatch.setattr(Archive, "offers", lambda _: [offer])
    words = ["lab", "survey", "--all", "-o", str(tmp_path)]
    survey(emulator, tmp_path, emulator="Bochs", cpus=1)
    capsys.readouterr()
    assert main([*words, "--machine", "intel"]) == 0
    assert capsys.readouterr().out == f"0 of 0 runs: {tmp_path / 'kernels.md'}\n"
    # The other machine has no row; its kernel can't be fetched, as no package is there.
    assert main(words) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("0 of 1 runs")
    assert captured.err.splitlines()[-1].startswith(f"kvmtest: {RELEASE} amd: ")


def test_an_interrupt_ends_all_machines_and_leaves_nothing(
    emulator: Emulator, trees: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    hanging = emulator.folder / "hang"
    os.mkfifo(hanging)
    words = ["lab", "survey", "--jobs", "2", "-o", str(tmp_path), *map(str, trees)]
    command = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(main(words)))
    command.start()
    try:
        # Open for writing too, it does not end between the two.
        with os.fdopen(os.open(hanging, os.O_RDWR), "rb", 0) as told:
            assert [told.readline(), told.readline()] == 2 * [b"hangs\n"]
        assert len(list(temporary.glob("kvmtest-lab-*"))) == 2
        os.kill(command.pid or 0, signal.SIGINT)
        command.join()
    finally:
        command.kill()
    assert command.exitcode == 130
    assert list(temporary.iterdir()) == []
    assert not [path for path in emulator.cache.root.rglob("*") if path.suffix == ".making"]
    assert not (tmp_path / "kernels.json").exists()


@pytest.mark.parametrize(
    "words", [[], ["--all", "6.12"], ["--all", "--jobs", "0"], ["6.12", "--jobs", "many"]]
)
def test_words_that_name_no_survey_are_refused(words: list[str], capsys: Capture) -> None:
    try:
        status: object = main(["lab", "survey", *words])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert capsys.readouterr().err
