"""What each shell itself completes, with the completions that kvmtest prints for it."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kvmtest.cli import main, whole_parser
from kvmtest.lab.mutants import MUTANTS
from kvmtest.properties import PROPERTIES

LEAKS = {p.id for p in PROPERTIES if p.id.startswith("vmx.leak.")}
CASES = [
    ("kvmtest lab ru", {"run"}),
    ("kvmtest run --only vmx.leak.", LEAKS),
    ("kvmtest lab run --require guest.", {"guest.rdmsr-hides"}),
    ("kvmtest finding lost-dr", {"lost-dr6-while-emulating"}),
    ("kvmtest lab mutants --only fix-", {m.name for m in MUTANTS if m.name.startswith("fix-")}),
    ("kvmtest lab run --mod", {"--modules"}),
    ("kvmtest kernel inspect kerne", {"kernel.deb"}),
    ("kvmtest completion f", {"fish"}),
]


@pytest.fixture
def script(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The completions for a shell, in a folder with a file."""
    shell: str = request.param
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here: apt-get install {shell}")
    assert main(["completion", shell]) == 0
    (tmp_path / "kernel.deb").touch()
    # zsh finds a command's completions by this name.
    path = tmp_path / "_kvmtest"
    path.write_text(capsys.readouterr().out)
    return path


def shell(words: list[str], script: Path) -> str:
    return subprocess.run(
        words, cwd=script.parent, capture_output=True, text=True, check=True, timeout=30
    ).stdout


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_bash(script: Path, line: str, expected: set[str]) -> None:
    words = line.split()
    ask = f"""
        source {script}
        COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} COMP_LINE="{line}" COMP_POINT={len(line)}
        completer=$(complete -p kvmtest); completer=${{completer##*-F }}
        ${{completer% kvmtest}} kvmtest "{words[-1]}" "{words[-2]}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert set(shell(["bash", "--norc", "-c", ask], script).split()) == expected


@pytest.mark.parametrize("script", ["fish"], indirect=True)
@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_fish(script: Path, line: str, expected: set[str]) -> None:
    ask = f"source {script}; complete -C '{line}'"
    answers = shell(["fish", "--no-config", "-c", ask], script).splitlines()
    assert {answer.partition("\t")[0] for answer in answers} == expected


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh(script: Path) -> None:
    """zsh completes at a terminal alone: TAB, and the command prints what it got."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(script.parent)
        os.environ.update(TERM="dumb", HOME=str(script.parent), PS1="> ")
        os.execlp("zsh", "zsh", "-f", "-i")
    try:
        typed = [
            f"fpath=({script.parent} $fpath)",
            "autoload -U compinit && compinit -u -D",
            "kvmtest() { print -r -- got: $@ :end }",
        ]
        unambiguous = [(line, expected) for line, expected in CASES if len(expected) == 1]
        for line in (*typed, *(f"{line}\t" for line, _ in unambiguous)):
            os.write(terminal, f"{line}\n".encode())
        os.write(terminal, b"print all:done; exit\n")
        shown = read_until(terminal, b"all:done\r\n")
        for line, (word,) in unambiguous:
            said = " ".join([*line.split()[1:-1], word])
            assert f"got: {said} :end" in shown
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def read_until(terminal: int, end: bytes, seconds: float = 30) -> str:
    came, deadline = b"", time.monotonic() + seconds
    while end not in came:
        assert select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0], came
        came += os.read(terminal, 65536)
    return came.decode(errors="replace")


def test_a_shell_that_is_not_known_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["completion", "tcsh"])
    assert end.value.code == 2
    assert "tcsh" in capsys.readouterr().err


def test_the_parser_takes_the_same_words_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert "vmx.entry.fresh" in capsys.readouterr().out
    options = whole_parser().parse_args(["run", "--only", "vmx.entry.of-a-later-version"])
    assert options.only == ["vmx.entry.of-a-later-version"]
