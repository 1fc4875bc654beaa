"""The manual's chapter of commands says of a parser all that its help says."""

import argparse
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmtest.cli import main, whole_parser
from kvmtest.commands.parser import Parser, add_command, add_group, fill

ROOT = Path(__file__).resolve().parents[3]
TOOL = runpy.run_path(str(ROOT / "tools" / "command_line_doc.py"))


def chapter(parser: Parser) -> str:
    made: str = TOOL["document"](parser)
    return made


def small() -> Parser:
    parser = Parser(prog="p")
    commands = parser.add_subparsers(metavar="COMMAND")
    group = add_group(commands, "group", "a group")

    def add(command: Parser) -> None:
        command.add_argument("names", metavar="NAME", nargs="*", help="a *name*")
        command.add_argument("-o", "--output", metavar="DIR", help="the folder, 100 %%")
        command.add_argument(
            "--kind", choices=["a", "b"], default="a", help="(default: %(default)s)"
        )

    add_command(group, "deep", lambda _: 0, "do it", add, epilog="exits with 0")
    return fill(parser)


def test_a_command_has_a_section_with_its_usage_and_each_argument() -> None:
    assert chapter(small()).splitlines() == [
        "## Commands",
        "",
        "### p group deep",
        "",
        "Do it.",
        "",
        "```text",
        "p group deep [-h] [-o DIR] [--kind {a,b}] [NAME ...]",
        "```",
        "",
        "`NAME`",
        r": a \*name\*",
        "",
        "`-o DIR`, `--output DIR`",
        ": the folder, 100 %",
        "",
        "`--kind {a,b}`",
        ": (default: a)",
        "",
        "Exits with 0.",
    ]


@pytest.mark.parametrize("command", ["run", "lab run", "kernel inspect", "smi probe"])
def test_every_option_in_the_help_of_a_command_is_in_its_section(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    section = chapter(whole_parser()).partition(f"### kvmtest {command}\n")[2].partition("###")[0]
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = {word for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert all(f"`{flag}" in section for flag in shown - {"--help"})


def commands_of(text: str) -> Iterator[list[str]]:
    """Give the words after ``kvmtest`` of each command in a page's code."""
    fence = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
    code = [*fence.findall(text), *re.findall(r"^    (.*(?:\\\n.*)*)$", text, re.MULTILINE)]
    code += [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", fence.sub("", text))]
    for each in code:
        for line in re.findall(r"kvmtest ((?:[^\n`|;>'\"()]|\\\n)+)", each):
            # Two spaces part a command from what it is for.
            yield re.split(r"\s{2,}|\s#", line.replace("\\\n", ""))[0].split()


def unknown_flags(words: list[str]) -> list[str]:
    """Return the options that the command which the words call does not have."""
    parser, rest = whole_parser(), words
    while groups := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]:
        if not rest or rest[0] not in groups[0].choices:
            break
        parser, rest = groups[0].choices[rest[0]], rest[1:]
    known = {flag for action in parser._actions for flag in action.option_strings}
    return [
        word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known
    ]


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: path.name,
)
def test_a_command_in_the_docs_has_the_options_that_it_is_given(page: Path) -> None:
    for words in commands_of(page.read_text()):
        assert unknown_flags(words) == [], f"kvmtest {' '.join(words)}"


def test_a_wrong_option_would_be_seen() -> None:
    text = (
        "a `kvmtest lab run --kernl 5`,\n\n    kvmtest run -o DIR   --is text\n    kvmtest run -z\n"
    )
    found = [unknown_flags(words) for words in commands_of(text)]
    assert sorted(map(str, found)) == ["['--kernl']", "['-z']", "[]"]
