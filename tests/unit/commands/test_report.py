"""kvmtest report shows the evidence of a run."""

import json
from pathlib import Path

import pytest
from support.evidence_samples import evidence_of

from kvmtest.cli import main
from kvmtest.evidence import Result, save
from kvmtest.judge import Verdict

Capture = pytest.CaptureFixture[str]


def sample(tmp_path: Path) -> Path:
    """Write the evidence of a small run."""
    results = [
        Result("kernel.fix-present", Verdict.PASS, "btf: yes"),
        Result("any.soak", Verdict.SKIP, "KVM here is kvm_pvm"),
    ]
    evidence = evidence_of(results, release="6.1.0")
    path = tmp_path / "evidence.json"
    save(evidence, path)
    return path


def test_a_report_is_shown_in_each_form(tmp_path: Path, capsys: Capture) -> None:
    path = sample(tmp_path)
    assert main(["report", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "i7-7800X" in shown
    assert shown.startswith("PASS: ")
    assert main(["report", str(path), "--verbose"]) == 0
    tables = capsys.readouterr().out
    assert "i7-7800X" in tables
    assert tables.endswith("1 PASS, 1 SKIP\n")
    assert main(["report", str(tmp_path), "--ktap"]) == 0
    assert capsys.readouterr().out.startswith("KTAP version 1\n1..2\n")
    assert main(["report", str(path), "--junit", str(tmp_path / "j.xml")]) == 0
    assert "<testsuites>" in (tmp_path / "j.xml").read_text()
    assert capsys.readouterr().out == ""


def test_a_kcidb_document_has_the_origin_and_the_build_that_are_named(tmp_path: Path) -> None:
    path = sample(tmp_path)
    file = tmp_path / "k.json"
    assert main(["report", str(path), "--kcidb", str(file)]) == 0
    data = json.loads(file.read_text())
    assert [each["id"].partition(":")[0] for each in data["builds"]] == ["kvmtest"]
    words = ["--kcidb", str(file), "--origin", "me", "--build", "maestro:1"]
    assert main(["report", str(tmp_path), *words]) == 0
    data = json.loads(file.read_text())
    assert {each["origin"] for each in data["tests"]} == {"me"}
    assert {each["build_id"] for each in data["tests"]} == {"maestro:1"}


def test_a_kcidb_document_of_a_folder_says_which_runs_it_lacks(
    tmp_path: Path, capsys: Capture
) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        (runs / name).mkdir(parents=True)
    sample(runs / "a")
    (runs / "b" / "evidence.json").write_text("{")
    assert main(["report", str(runs), "--kcidb", str(tmp_path / "k.json")]) == 3
    assert f"left out: {runs}/b/evidence.json" in capsys.readouterr().err
    (run,) = {
        each["misc"]["run"] for each in json.loads((tmp_path / "k.json").read_text())["tests"]
    }
    assert run == f"{runs}/a"


def test_an_origin_without_a_document_is_refused(tmp_path: Path, capsys: Capture) -> None:
    for words in (["--origin", "me"], ["--build", "me:1", "--ktap"], ["--origin", ""]):
        assert main(["report", str(sample(tmp_path)), *words]) == 2
        assert "name it by --kcidb FILE" in capsys.readouterr().err


def test_markdown_is_of_one_run_or_a_table_of_several(tmp_path: Path, capsys: Capture) -> None:
    path = sample(tmp_path)
    assert main(["report", str(tmp_path), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("### PASS: ")
    assert main(["report", str(path), str(path), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("### 2 of 2 runs ended with 0")
    (tmp_path / "cut.json").write_text("{")
    assert main(["report", str(path), str(tmp_path / "cut.json"), "--markdown"]) == 3
    assert capsys.readouterr().out.startswith("### 1 of 1 run ended with 0")


def test_one_form_is_made_at_a_time(tmp_path: Path, capsys: Capture) -> None:
    path = sample(tmp_path)
    assert main(["report", str(path), "--ktap", "--html", str(tmp_path / "p.html")]) == 2
    assert capsys.readouterr().err == "kvmtest: --ktap and --html are several forms; name one\n"
    assert not (tmp_path / "p.html").exists()
