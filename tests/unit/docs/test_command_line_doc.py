"""The manual's chapter of commands says of a parser all that its help says."""

import runpy
from pathlib import Path

import pytest

from kvmtest.cli import main, whole_parser
from kvmtest.commands.parser import Parser, add_command, add_group, fill

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools" / "command_line_doc.py"))


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
