"""The command line: what it takes, what it prints, and which status it ends with."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kvmtest
import kvmtest.cli as cli_module
import kvmtest.commands.run as run_command
from kvmtest.cli import main
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError

Capture = pytest.CaptureFixture[str]


# Statuses


def put_for_run(monkeypatch: pytest.MonkeyPatch, function: Callable[..., int]) -> None:
    """Have ``kvmtest run`` be another function, with a parser of its own."""
    monkeypatch.setattr(run_command, "run", function)
    monkeypatch.setattr(cli_module, "_parser", cli_module._parser.__wrapped__)


@pytest.mark.parametrize(
    ("error", "status", "under_bisect"),
    [
        (KvmtestError("broken; mend it"), 3, 125),
        (EnvironmentUnfit("unfit; mend it"), 3, 125),
        (UsageError("wrong; mend it"), 2, 125),
        (KeyboardInterrupt(), 130, 130),
        (BrokenPipeError(), 141, 141),
        (OSError(28, "No space left on device"), 3, 125),
    ],
)
def test_an_error_of_a_command_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    error: BaseException,
    status: int,
    under_bisect: int,
) -> None:
    def broken(options: object) -> int:
        raise error

    put_for_run(monkeypatch, broken)
    assert main(["run"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == (0 if isinstance(error, BrokenPipeError) else 1)
    assert main(["run", "--bisect"]) == under_bisect


def test_a_bug_of_our_own_never_looks_like_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(options: object) -> int:
        raise ZeroDivisionError

    put_for_run(monkeypatch, broken)
    assert main(["run"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main(["run", "--bisect"]) == 125


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--"],
        ["nonsense"],
        ["run", "--nonsense"],
        ["run", "--onl", "any.soak"],
        ["run", "stray"],
        ["run", "-o"],
        ["report"],
        ["kernel"],
        ["smi"],
        ["smi", "probe", "--rate", "0"],
        ["smi", "probe", "--count", "0"],
        ["smi", "probe", "--source", "magic"],
        ["run", "--smi-source", "magic"],
        ["run", "--root", "/nowhere"],
        ["run", "--root", "/proc/version"],
        ["doctor", "--root", "n" * 300],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_usage_error(capsys: Capture, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_usage_error_does_not_tell_git_bisect_that_the_kernel_is_bad(capsys: Capture) -> None:
    assert main(["run", "--bisect", "--nonsense"]) == 125
    assert "--nonsense" in capsys.readouterr().err


def test_a_root_whose_links_go_in_a_circle_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SystemExit):
        main(["doctor", "--root", str(tmp_path / "loop")])
    assert "error: argument --root: " in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "words", [[], ["run"], ["lab", "run"], ["lab", "mutants"], ["smi", "probe"]]
)
def test_help_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: list[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_one_command_s_words_are_not_another_s() -> None:
    first, second = (
        cli_module._parser().parse_args(["run", "--only", name]) for name in ("a.b", "c.d")
    )
    assert (first.only, second.only) == (["a.b"], ["c.d"])


def test_the_version_and_help_are_printed(capsys: Capture) -> None:
    for word, said in (("--version", f"kvmtest {kvmtest.__version__}"), ("--help", "COMMAND")):
        with pytest.raises(SystemExit) as caught:
            main([word])
        assert caught.value.code == 0
        assert said in capsys.readouterr().out


def test_the_words_of_the_process_are_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "argv", ["kvmtest", "list", "--json"])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        assert main() == 0
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
    assert capsys.readouterr().out.startswith("[")
