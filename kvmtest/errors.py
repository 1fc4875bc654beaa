"""Errors
======

The hierarchy of what can go wrong. Every message is one line: what happened, on what, what to do.
"""

__all__ = ["EnvironmentUnfit", "KvmtestError", "UsageError", "printable"]


def printable(text: str, keep: str = "") -> str:
    """Return text with U+FFFD for what a terminal might obey, except the characters of ``keep``."""
    return "".join(c if c.isprintable() or c in keep else "\ufffd" for c in text)


class KvmtestError(Exception):
    """Anything that kvmtest itself reports; the command line ends with ``exit_status``."""

    exit_status = 3

    def __str__(self) -> str:
        """Return the message in one line, without what a terminal might obey.

        Many messages quote files that others made.
        """
        return printable("".join(" " if c.isspace() else c for c in super().__str__()))


class UsageError(KvmtestError):
    """The user asked for something that does not exist or does not fit."""

    exit_status = 2


class EnvironmentUnfit(KvmtestError):
    """The machine, or a file on it, does not let the command go on."""
