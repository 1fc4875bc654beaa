"""The files of reports say what the evidence says."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from evidence_strategies import EVIDENCE
from hypothesis import HealthCheck, given, settings

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence
from kvmtest.report.files import write_reports


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVIDENCE)
def test_each_result_is_in_both(tmp_path: Path, evidence: Evidence) -> None:
    write_reports(evidence, tmp_path, "here")
    ktap = (tmp_path / "ktap.txt").read_text()
    assert f"1..{len(evidence.results)}" in ktap
    junit = ET.parse(tmp_path / "junit.xml")
    assert len(junit.findall(".//testcase")) == len(evidence.results)
    (suite,) = junit.iter("testsuite")
    assert suite.get("hostname") == "here"


@settings(max_examples=1)
@given(EVIDENCE)
def test_a_folder_that_is_not_there_is_told(evidence: Evidence) -> None:
    with pytest.raises(EnvironmentUnfit, match="No such file"):
        write_reports(evidence, Path("/nowhere/at/all"))
