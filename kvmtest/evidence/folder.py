"""Folders of runs
===============

The evidence of one run or of several: a file, a run's folder, or a folder of runs. A run in a
folder is named by its place there.
"""

import os
from pathlib import Path

from .file import EVIDENCE, EvidenceUnreadable

__all__ = ["runs"]


def runs(path: Path) -> dict[str, Path]:
    """Return the evidence files that ``path`` names, by the runs' names; "" for a single run.

    Below a folder each evidence.json is the run of its folder, at any depth. Where there is none,
    each .json in the folder is a run. Symbolic links to folders are not followed. Raises
    EvidenceUnreadable if there is no run.
    """
    if not path.is_dir():
        return {"": path}
    if (path / EVIDENCE).exists():
        return {"": path / EVIDENCE}
    found = {
        str(Path(folder).relative_to(path)): Path(folder, EVIDENCE)
        for folder, _, files in os.walk(path)
        if EVIDENCE in files
    }
    found = found or {each.stem: each for each in path.glob("*.json")}
    if not found:
        problem = f"neither {EVIDENCE} nor a folder of runs"
        raise EvidenceUnreadable(f"{path}: {problem}; name what kvmtest run -o left")
    return dict(sorted(found.items()))
