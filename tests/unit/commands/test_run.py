"""kvmtest run says what it takes and how it ends."""

import pytest

from kvmtest.cli import main
from kvmtest.smi import OPT_IN, SOURCES

Capture = pytest.CaptureFixture[str]


def test_the_help_of_run_tells_the_exit_status(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "0 all decided properties PASS" in capsys.readouterr().out


def test_the_help_of_run_names_every_smi_source(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    unasked, _, by_name = "".join(said.split()).partition("usedonlyifnamed:")
    for name in SOURCES:
        assert name in (by_name if name in OPT_IN else unasked)
