"""Reports of recorded runs, older versions' among them (tests/recorded)."""

from pathlib import Path

import pytest
from junitparser import JUnitXml
from tap.parser import Parser

from kvmtest.cli import main
from kvmtest.evidence import load

Capture = pytest.CaptureFixture[str]
RECORDED = sorted((Path(__file__).parents[2] / "recorded").glob("*.json"))


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_it_is_shown_and_an_emulated_machine_says_so(recorded: Path, capsys: Capture) -> None:
    assert main(["report", str(recorded), "-v"]) == 0
    shown = capsys.readouterr().out
    run = load(recorded)
    assert all(result.id in shown for result in run.results)
    assert ("EMULATED" in shown) == (run.machine.kind == "lab")
    is_named = run.machine.hostname is not None
    assert ("runner" in shown) == is_named
    assert is_named == (recorded.stem != "intel-lab")


def test_readers_of_either_format_come_to_the_same_end(
    recorded: Path, tmp_path: Path, capsys: Capture
) -> None:
    passed = load(recorded).exit_status == 0
    assert main(["report", str(recorded), "--ktap"]) == 0
    lines = Parser().parse_text(capsys.readouterr().out)
    assert all(line.ok for line in lines if line.category == "test") == passed
    assert main(["report", str(recorded), "--junit", str(tmp_path / "j.xml")]) == 0
    (suite,) = JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert (suite.failures + suite.errors == 0) == passed


def test_what_a_leak_experiment_would_have_missed_stands_where_it_passes(capsys: Capture) -> None:
    (path,) = (path for path in RECORDED if path.stem == "intel-lab")
    for words in (["-v"], ["--ktap"]):
        assert main(["report", str(path), *words]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        # That of the three checks of leaks, each with its own figures.
        assert shown.count("would be seen: a 0.") == 3
        assert shown.count("; a whole leak in ") == 3
