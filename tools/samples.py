"""Rewrites the samples of output in README.md and docs/: ``python tools/samples.py``.

A sample is a fenced block below a comment that names the command::

    <!-- printed by: kvmtest report tests/recorded/intel-lab.json
    from "run " until "PASS     host.knob-effective"
    from "SKIP     host.hotplug" until "SKIP     nvmx.entry.l2" -->

Each ``from`` line takes the output's next line that begins with the first text, and the lines after
it until one begins with the second (without ``until``: one line). Dots stand for omitted lines.
Commands read recorded evidence or print help, so every machine prints the same.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
SAMPLE = re.compile(r"(<!-- printed by: kvmtest (.*?)(\n.*?)? -->\n+```\w*\n)(.*?)(```\n)", re.S)
PIECE = re.compile(r'from "([^"]*)"(?: until "([^"]*)")?')


def renewed(page: str) -> str:
    """Return a page with its samples as kvmtest prints them now. Raises ValueError: not printed."""
    return SAMPLE.sub(lambda found: found[1] + _sample(found[2], found[3] or "") + found[5], page)


def _sample(command: str, pieces: str) -> str:
    lines = _printed(shlex.split(command))
    if pieces:
        lines = list(_cut(lines, PIECE.findall(pieces)))
    return "".join(f"{line}\n" for line in lines)


def _printed(words: list[str]) -> list[str]:
    """Return the lines that kvmtest prints into a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "kvmtest", *words],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.rstrip() for line in done.stdout.splitlines()]


def _cut(lines: list[str], pieces: list[tuple[str, str]]) -> Iterator[str]:
    at = 0
    for start, stop in pieces:
        first = _find(lines, start, at)
        end = _find([*lines, stop], stop, first + 1)
        if first > at:
            yield "..." * any(lines[at:first])
        yield from lines[first:end]
        at = end
    if any(lines[at:]):
        yield "..."


def _find(lines: list[str], start: str, at: int) -> int:
    """Return the number of the first line, from ``at`` on, that begins with ``start``."""
    found = next((n for n, line in enumerate(lines) if n >= at and line.startswith(start)), None)
    if found is None:
        raise ValueError(f"no line begins with {start!r}")
    return found


if __name__ == "__main__":
    for path in PAGES:
        old = path.read_text()
        if (new := renewed(old)) != old:
            path.write_text(new)
