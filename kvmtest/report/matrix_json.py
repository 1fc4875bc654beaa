"""matrix.json
===========

The runs of a fleet as JSON, a line a run. Different sets of verdicts are listed once, and runs name
theirs by its place. matrix-1.json is the schema.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kvmtest import __version__

from .fleet_run import FleetRun
from .marks import NAMES

__all__ = ["SCHEMA", "matrix_json"]

#: Name and version of the format.
SCHEMA = "kvmtest-matrix/1"


def matrix_json(runs: Sequence[FleetRun]) -> str:
    """Return the runs as JSON."""
    sets: dict[tuple[tuple[str, str], ...], int] = {}
    lines = [json.dumps(_run(each, sets)) for each in runs]
    counts = {
        "runs": len(runs),
        "good": sum(not each.is_wrong for each in runs),
        "without_evidence": sum(bool(each.gap) for each in runs),
    }
    parts = {
        "schema": json.dumps(SCHEMA),
        "kvmtest": json.dumps(__version__),
        "counts": json.dumps(counts),
        "verdicts": _listed(json.dumps(_verdicts(marks)) for marks in sets),
        "runs": _listed(lines),
    }
    inside = ",\n".join(f' "{name}": {text}' for name, text in parts.items())
    return f"{{\n{inside}\n}}\n"


def _listed(lines: Iterable[str]) -> str:
    inside = ",\n  ".join(lines)
    return f"[\n  {inside}\n ]" if inside else "[]"


def _verdicts(marks: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Return the verdicts by property; a known defect's is "known FAIL"."""
    return {name: NAMES[mark] for name, mark in marks if mark in NAMES}


def _run(each: FleetRun, sets: dict[tuple[tuple[str, str], ...], int]) -> dict[str, Any]:
    return {name: value for name, value in _facts(each, sets) if value not in (None, "", [])}


def _facts(
    each: FleetRun, sets: dict[tuple[tuple[str, str], ...], int]
) -> Iterator[tuple[str, Any]]:
    """Give what is said of a run; what is None or empty is left out."""
    run = each.run
    yield "host", each.host
    yield "kernel", each.kernel
    yield "number", each.number
    yield "good", not each.is_wrong
    yield "gap", each.gap
    yield "failure", run.failure
    if run.failure:
        return
    yield "release", run.kernel
    yield "machine", run.model
    yield "exit_status", run.exit_status
    yield "started", run.started
    yield "seconds", round(run.seconds, 3)
    yield "verdicts", sets.setdefault(tuple(run.marks.items()), len(sets))
    yield "wrong", list(run.wrong)
