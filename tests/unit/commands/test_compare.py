"""kvmtest compare: paths in, exit status out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.evidence_samples import evidence_of

from kvmtest.cli import main
from kvmtest.evidence import Evidence, Result, save
from kvmtest.judge import Verdict

Capture = pytest.CaptureFixture[str]
RECORDED = Path(__file__).parents[2] / "recorded"
P, F, S = Verdict.PASS, Verdict.FAIL, Verdict.SKIP


def kept(path: Path, *verdicts: Verdict, **about: object) -> str:
    names = ("any.soak", "vmx.entry.fresh")
    results = [Result(name, v, "r") for name, v in zip(names, verdicts, strict=False)]
    path.mkdir(parents=True)
    save(evidence_of(results, **about), path / "evidence.json")  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "words", "status"),
    [
        (P, P, [], 0),
        (F, P, [], 0),
        (P, F, [], 1),
        (P, Verdict.INCONCLUSIVE, [], 1),
        (P, F, ["--expect", "fail:any.soak"], 0),
        (P, P, ["--expect=pass:any.soak"], 1),
        (S, P, [], 2),
    ],
)
def test_the_exit_status_says_whether_something_regressed(
    tmp_path: Path, old: Verdict, new: Verdict, words: list[str], status: int
) -> None:
    paths = [kept(tmp_path / "old", old), kept(tmp_path / "new", new)]
    assert main(["compare", *paths, *words]) == status
    assert main(["compare", *paths, *words, "--json"]) == status
    assert main(["compare", *paths, *words, "-v"]) == status


def test_the_json_is_one_object(tmp_path: Path, capsys: Capture) -> None:
    paths = [kept(tmp_path / "old", P), kept(tmp_path / "new", F)]
    assert main(["compare", *paths, "--json"]) == 1
    (property_,) = json.loads(capsys.readouterr().out)["runs"][0]["properties"]
    assert property_["change"] == "regression"


def test_folders_of_runs_are_compared_by_the_runs_names(tmp_path: Path, capsys: Capture) -> None:
    for side, verdict in (("old", P), ("new", F)):
        kept(tmp_path / side / "runner1", P)
        kept(tmp_path / side / "rack" / "runner2", verdict)
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    said = capsys.readouterr().out
    assert "1 property in 1 of 2 runs" in said
    assert "in rack/runner2" in said


def test_a_run_and_a_folder_of_runs_are_no_pair(tmp_path: Path, capsys: Capture) -> None:
    one = kept(tmp_path / "one", P)
    assert main(["compare", str(tmp_path), one]) == 2
    assert f"{one} is one run and {tmp_path} a folder of runs" in capsys.readouterr().err


def test_machines_that_differ_are_not_compared_unless_asked(
    tmp_path: Path, capsys: Capture
) -> None:
    paths = [kept(tmp_path / "a", P, hostname="a"), kept(tmp_path / "b", F, hostname="b")]
    assert main(["compare", *paths]) == 2
    assert "machine.hostname: a -> b" in capsys.readouterr().out
    assert main(["compare", *paths, "--anyway"]) == 1


@pytest.mark.parametrize("side", [0, 1])
def test_evidence_of_another_format_is_not_comparable(
    tmp_path: Path, capsys: Capture, side: int
) -> None:
    paths = [kept(tmp_path / name, P) for name in ("old", "new")]
    file = Path(paths[side], "evidence.json")
    file.write_text(file.read_text().replace("kvmtest-evidence/1", "kvmtest-evidence/2"))
    assert main(["compare", *paths]) == 2
    assert "its schema is kvmtest-evidence/2" in " ".join(capsys.readouterr().out.split())
    file.write_text("{}")
    assert main(["compare", *paths]) == 3
    assert "it has no schema" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--expect", "pass"], "--expect pass: write pass:ID or fail:ID"),
        (["--expect", "pass:any.soka"], "did you mean any.soak?"),
    ],
)
def test_an_expectation_of_nothing_is_refused(
    tmp_path: Path, capsys: Capture, words: list[str], said: str
) -> None:
    paths = [kept(tmp_path / name, P) for name in ("old", "new")]
    assert main(["compare", *paths, *words]) == 2
    assert said in capsys.readouterr().err


def test_what_can_t_be_read_is_told_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    assert main(["compare", kept(tmp_path / "a", P), str(tmp_path / "none")]) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_a_recorded_run_shows_no_regression_to_itself(path: Path, capsys: Capture) -> None:
    status = main(["compare", str(path), str(path)])
    undecided = path.stem in ("stand-in-interrupted", "stand-in-nothing-decided")
    assert status == (2 if undecided else 0)
    assert capsys.readouterr().out.startswith("UNDECIDED" if undecided else "NO REGRESSION")


def interrupted(run: Evidence) -> Evidence:
    return replace(run, kvmtest=replace(run.kvmtest, interrupted=True))


def test_an_interrupted_run_is_no_proof(tmp_path: Path, capsys: Capture) -> None:
    old = kept(tmp_path / "old", P, P)
    cut = tmp_path / "cut.json"
    save(interrupted(evidence_of([Result("any.soak", P, "r")])), cut)
    assert main(["compare", old, str(cut)]) == 2
    assert "the new run was interrupted" in capsys.readouterr().out
