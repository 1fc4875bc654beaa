"""kvmtest report shows the evidence of a run."""

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
