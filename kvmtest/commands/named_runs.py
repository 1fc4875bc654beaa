"""Runs that paths name
====================

The evidence behind the paths of a command: files, folders of a run, folders of runs.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvmtest.evidence import Evidence, EvidenceUnreadable, load
from kvmtest.evidence.folder import runs

__all__ = ["NamedRuns", "evidence_files"]


def evidence_files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return the name of each run that ``paths`` name, and its file. Raises EvidenceUnreadable."""
    return [
        (str(path / name) if name else str(path), file)
        for path in paths
        for name, file in runs(path).items()
    ]


class NamedRuns:
    """The runs that paths name, each with its evidence; ``unread`` counts those left out."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = evidence_files(paths)
        self.unread = 0

    def __len__(self) -> int:
        """Return how many runs there are, with those that can't be read."""
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[str, Evidence]]:
        """Give each run's name and evidence; tell of evidence that can't be read on stderr.

        Raises EvidenceUnreadable if none can be read.
        """
        self.unread = 0
        for name, file in self._files:
            try:
                evidence = load(file)
            except EvidenceUnreadable as error:
                self.unread += 1
                if self.unread == len(self._files):
                    raise
                print(f"kvmtest: left out: {error}", file=sys.stderr)  # noqa: T201
                continue
            yield name, evidence
