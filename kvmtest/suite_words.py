"""Words for pytest
================

What ``kvmtest run`` hands on to pytest of the words after ``--``, and what it refuses: options that
a run would take there and ignore, and those that would change whose suite it is.
"""

from collections.abc import Collection, Iterator, Sequence

from kvmtest.errors import UsageError

__all__ = ["refuse"]

#: Options of kvmtest's that pytest knows too and that mean the same to both.
_SHARED = {"-h", "--help", "-q", "--quiet"}

#: Options of pytest's that would bring other settings, another suite or another run.
_SET_BY_RUN = {
    "-c": "the run has settings of its own",
    "--config-file": "the run has settings of its own",
    "-o": "the run has settings of its own",
    "--override-ini": "the run has settings of its own",
    "--rootdir": "the run has settings of its own",
    "--strict-defects": "write --strict before --",
}

#: pytest's short options that take no value, so that others may stand behind them in one word.
_FLAGS = "hlqsvxV"


def refuse(words: Sequence[str], run_options: Collection[str]) -> None:
    """Raise UsageError for words after ``--`` that a run would ignore.

    ``run_options`` are the options of ``kvmtest run``. All others are left to pytest, which refuses
    what it does not know.
    """
    mine = set(run_options) - _SHARED
    for option, value in _options(words):
        if option in mine:
            raise _ignored(option, f"write {option} before --")
        # pytest takes no abbreviation, but its message would not say what to do.
        near = [name for name in mine if option.startswith("--") and name.startswith(option)]
        if near:
            raise _ignored(option, f"write {min(near)} before --")
        if option in _SET_BY_RUN:
            raise _ignored(option, _SET_BY_RUN[option])
        if option == "-p" and value.startswith("no:kvmtest"):
            raise UsageError(f"-p {value} after --: the run needs this plugin; leave it out")
        if not option:
            raise UsageError(f"{value} after --: pytest's options alone may stand there")


def _ignored(option: str, advice: str) -> UsageError:
    return UsageError(f"{option} after --: it would be ignored there; {advice}")


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give each option with the value that may be its own; files of options and a second -- bare.

    Which words are values only pytest knows; none of an option's own begins with a hyphen.
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--" or word.startswith("@"):
            yield "", word
        elif word.startswith("--"):
            yield word.partition("=")[0], following
        elif word.startswith("-"):
            yield from _short(word, following)


def _short(word: str, following: str) -> Iterator[tuple[str, str]]:
    """Give the options of a word such as -xvo: each flag, and the first that takes a value."""
    for at, letter in enumerate(word[1:], 1):
        yield f"-{letter}", word[at + 1 :].lstrip("=") or following
        if letter not in _FLAGS:
            return
