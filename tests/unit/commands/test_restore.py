"""kvmtest restore undoes what a dead run left."""

from pathlib import Path

import pytest
from support.stand_in import intel_host

from kvmtest.cli import main

Capture = pytest.CaptureFixture[str]


def test_restore_without_a_dead_run_says_so(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path)
    assert main(["restore", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to restore: no dead run left a change\n"
