"""Records the source that the patch of a finding is made against, a few lines around each hunk.

``python tools/finding_sources.py NAME TREE`` cuts the lines out of a kernel tree of the version
that the finding names, into tests/recorded/kernel-source/NAME. A test applies the patch there.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kvmtest.findings import patch, read

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "kernel-source"
#: Lines around a hunk, beyond those that the hunk has.
AROUND = 10
#: Begins a piece of a file, at this line of it.
PIECE = "@@ line "


def version(name: str) -> str:
    """Return the version of Debian's linux-source that a finding's patch is made against."""
    found = re.search(r"^Against linux-source-\S+ ([^\s,;]+?)[.,;]*\s", read(name), re.MULTILINE)
    if found is None:
        raise ValueError(f"{name}: name the source of the patch: Against linux-source-6.12 VERSION")
    return found[1]


def hunks(diff: str) -> Iterator[tuple[str, int, int]]:
    """Give the path, the first line and the number of lines of the old side of each hunk."""
    path = ""
    for line in diff.splitlines():
        if line.startswith("--- a/"):
            path = line.removeprefix("--- a/")
        elif found := re.match(r"@@ -(\d+),(\d+) \+", line):
            yield path, int(found[1]), int(found[2])


def cut(diff: str, tree: Path) -> dict[str, str]:
    """Return the recorded form of each file of ``tree`` that the patch ``diff`` changes."""
    pieces: dict[str, str] = {}
    for path, first, count in hunks(diff):
        lines = (tree / path).read_text().splitlines(keepends=True)
        start = max(first - 1 - AROUND, 0)
        piece = "".join(lines[start : first - 1 + count + AROUND])
        pieces[path] = pieces.get(path, "") + f"{PIECE}{start + 1}\n{piece}"
    return pieces


def restored(recorded: str) -> str:
    """Return a file with its recorded lines at their places, and empty lines elsewhere."""
    lines: list[str] = []
    for line in recorded.splitlines(keepends=True):
        if line.startswith(PIECE):
            lines += ["\n"] * (int(line.removeprefix(PIECE)) - 1 - len(lines))
        else:
            lines.append(line)
    return "".join(lines)


if __name__ == "__main__":
    finding, source = sys.argv[1], Path(sys.argv[2])
    for name, text in cut(patch(finding), source).items():
        target = RECORDED / finding / f"{name}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
