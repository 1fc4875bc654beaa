"""Commands of a page of the manual, run as they stand there, in one shell.

A block begins with ```` ```console ````. A line after ``$ `` is a command, with the lines after
``> `` below it. Further lines are what a terminal shows, stdout and stderr. They are compared as
doctest does: ``...`` is whatever differs from machine to machine, ``<BLANKLINE>`` an empty line,
and any spaces are as any others. A command succeeds unless the next one is ``echo $?``.
"""

import doctest
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = ["Step", "play", "steps"]

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = re.compile(r"^\$ (.*)\n((?:>(?: .*)?\n)*)((?:(?!\$ ).*\n)*)", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ASKS_STATUS = "echo $?"
# $? is that of the command before, as at a prompt.
STEP = """\
{{ (exit $status)
{command}
}} >{output} 2>&1 </dev/null
status=$?
echo $status >{status}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what the page shows below it."""

    command: str
    shown: str


def steps(page: str) -> list[Step]:
    """Return the commands of a page, in their order."""
    found: list[Step] = []
    for block in BLOCK.findall(page):
        for first, more, shown in STEPS.findall(block):
            further = re.sub("^> ?", "", more, flags=re.MULTILINE)
            found.append(Step(f"{first}\n{further}".rstrip("\n"), shown))
    return found


def play(
    todo: Sequence[Step], folder: Path, environment: Mapping[str, str], logs: Path, timeout: float
) -> Iterator[str]:
    """Run the steps in ``folder``; give a text for each that ends or prints otherwise than shown.

    What each prints is kept in the folder ``logs``.
    """
    script = ["status=0\n"]
    for number, step in enumerate(todo):
        output, status = logs / f"{number}.out", logs / f"{number}.status"
        script.append(STEP.format(command=step.command, output=output, status=status))
    command = ["bash", "-c", "".join(script)]
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as shell:
        try:
            shell.wait(timeout)
        finally:
            # What a page starts in the background ends with the page.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    for number, (step, following) in enumerate(pairwise([*todo, Step("", "")])):
        status = (logs / f"{number}.status").read_text().strip()
        printed = (logs / f"{number}.out").read_text()
        if status != "0" and following.command != ASKS_STATUS:
            yield f"$ {step.command}\n{printed}exit status {status}"
        elif not _agree(step.shown, printed):
            yield f"$ {step.command}\nthe page shows:\n{step.shown}it prints:\n{printed}"


def _agree(shown: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(shown, printed, FLAGS)
