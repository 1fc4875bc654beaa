"""SMIs by a command
=================

Runs a command that the user names because it makes the firmware work: an IPMI tool, a vendor's.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.errors import KvmtestError, UsageError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Triggered

__all__ = ["find"]

_LONGEST_S = 10.0


def find(_: Machine, command: str) -> Triggered | Missing:
    """Return the source that runs ``command``, quoted as for a shell, or what is missing.

    Raises UsageError for quotes that are not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"SMI source command:{command}: {error}; close the quotes") from error
    if not words:
        return Missing("no command is named that raises SMIs", "name one: command:CMD")
    if shutil.which(words[0]) is None:
        return Missing(f"there is no command {words[0]}", "install it, or name its path")

    @contextmanager
    def opened() -> Iterator[Fire]:
        yield lambda: _run(words)

    return Triggered(
        "command",
        f"runs {shlex.join(words)}",
        "whatever the command does",
        fastest_hz=10,
        longest_s=_LONGEST_S,
        opened=opened,
    )


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        problem = f"it took more than {_LONGEST_S:g} s"
    except OSError as error:
        problem = str(error.strerror)
    else:
        if not done.returncode:
            return
        problem = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    raise KvmtestError(f"{shlex.join(words)}: {problem}; name a command that succeeds")
