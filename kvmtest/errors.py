"""Errors
======

The hierarchy of what can go wrong. Every message is one line: what happened, on what, what to do.
"""

__all__ = ["EnvironmentUnfit", "KvmtestError", "UsageError"]


class KvmtestError(Exception):
    """Anything that kvmtest itself reports; the command line ends with ``exit_status``."""

    exit_status = 3

    def __str__(self) -> str:
        """Return the message in one line, without what a terminal might obey.

        Many messages quote files that others made.
        """
        text = super().__str__()
        return text if text.isprintable() else "".join(map(_printable, text))


class UsageError(KvmtestError):
    """The user asked for something that does not exist or does not fit."""

    exit_status = 2


class EnvironmentUnfit(KvmtestError):
    """The machine, or a file on it, does not let the command go on."""


def _printable(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() else "\ufffd"
