"""kvmtest report shows the evidence of a run."""

from pathlib import Path

import pytest

from kvmtest.cli import main
from kvmtest.evidence import Evidence, Result, save
from kvmtest.judge import Verdict

Capture = pytest.CaptureFixture[str]


def sample(tmp_path: Path) -> Path:
    """Write the evidence of a small run."""
    results = [
        Result("kernel.fix-present", Verdict.PASS, "btf: yes"),
        Result("any.soak", Verdict.SKIP, "KVM here is kvm_pvm"),
    ]
    versions = {"version": "0.1.0", "command": [], "started": "S", "ended": "E"}
    evidence = Evidence(
        {**versions, "interrupted": False},
        {"kind": "host", "virtualisation": "bare metal", "cpu": {"model_name": "Xeon"}},
        {},
        {"release": "6.1.0"},
        {"changes": [], "failures": [], "recovered": []},
        {"missing": None, "records": 0, "lost": 0},
        results,
        0,
    )
    path = tmp_path / "evidence.json"
    save(evidence, path)
    return path


def test_a_report_is_shown_in_each_form(tmp_path: Path, capsys: Capture) -> None:
    path = sample(tmp_path)
    assert main(["report", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Xeon" in shown
    assert shown.endswith("1 PASS, 1 SKIP\n")
    assert main(["report", str(tmp_path), "--ktap"]) == 0
    assert capsys.readouterr().out.startswith("KTAP version 1\n1..2\n")
    assert main(["report", str(path), "--junit", str(tmp_path / "j.xml")]) == 0
    assert "<testsuites>" in (tmp_path / "j.xml").read_text()
    assert capsys.readouterr().out == ""
