"""Makes the chapter "Commands" of docs/command-line.md, and of the man page, from the parsers.

``docs/conf.py`` adds it as the manual is made, so that no option is written down twice.
"""

import argparse
import re
from collections.abc import Iterator

from kvmtest.cli import whole_parser

#: The columns of a usage: those of a terminal, less the indent of a man page.
WIDTH = 68
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def document(parser: argparse.ArgumentParser | None = None) -> str:
    """Return the chapter as MyST, a section a command that can be called."""
    sections = [*_sections(parser or whole_parser(), "")]
    return "\n".join(["## Commands", "", *(line for each in sections for line in each)])


def _sections(parser: argparse.ArgumentParser, words: str) -> Iterator[list[str]]:
    """Give the sections of the commands below ``parser``, or that of the command that it is."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in groups:
        about = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for name, command in group.choices.items():
            yield from _sections(command, about[name])
    if not groups:
        yield list(_section(parser, words))


def _section(parser: argparse.ArgumentParser, words: str) -> Iterator[str]:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=WIDTH)
    yield f"### {parser.prog}"
    yield from ("", _sentence(words), "", "```text")
    yield parser.format_usage().removeprefix("usage: ").rstrip().replace("\n       ", "\n")
    yield from ("```", "")
    for group in parser._action_groups:
        for action in group._group_actions:
            if not isinstance(action, argparse._HelpAction):
                yield from (_term(action), f": {_escaped(_help(parser, action))}", "")
    if parser.epilog:
        yield from (_sentence(parser.epilog), "")


def _term(action: argparse.Action) -> str:
    value = action.metavar or "{" + ",".join(map(str, action.choices or ())) + "}"
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{flag}{takes}`" for flag in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _sentence(text: str) -> str:
    text = _escaped(text.strip())
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)
