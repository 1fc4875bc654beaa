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


@pytest.mark.parametrize("words", [["--", "-v"], ["--only", "any.soak", "--", "-k", "x"], ["--"]])
def test_arguments_for_pytest_are_refused_with_the_way_to_use_pytest(
    capsys: Capture, words: list[str]
) -> None:
    assert main(["run", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pytest --pyargs kvmtest.suite --kvmtest-output DIR" in said
    assert main(["run", "--bisect", *words]) == 125


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "intle"], "-m intle: no marker intle; there are intel, amd, nested, tdx, smi, lab"),
        (["-m", "amd and tdx"], "-m amd and tdx: no property matches it"),
        (["-m", "tdx", "--only", "any.soak"], "-m tdx: no property of --only matches it"),
        (
            ["-m", "tdx", "--require", "any.soak"],
            "--require any.soak: no property",
        ),
    ],
)
def test_a_choice_of_nothing_is_refused(capsys: Capture, words: list[str], said: str) -> None:
    for command in (["run"], ["lab", "run", "--kernel", "/none"]):
        assert main([*command, *words]) == 2
        assert capsys.readouterr().err.startswith(f"kvmtest: {said}")
