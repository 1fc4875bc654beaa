"""kvmtest lab refuses what its machine would refuse."""

import pytest

from kvmtest.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "vmx.entry.frsh"],
        ["--require", "witness:nobody"],
        ["--only", "any.soak", "--require", "witness:btf"],
        ["--only", "any.soak", "--require=any.no-warnings"],
    ],
    ids=" ".join,
)
def test_what_a_lab_s_run_would_refuse_costs_no_boot(capsys: Capture, words: list[str]) -> None:
    assert main(["lab", "run", "--kernel", "/none", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "kernel" not in said
    assert main(["run", *words]) == 2
    assert capsys.readouterr().err == said
