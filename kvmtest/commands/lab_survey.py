"""kvmtest lab survey
==================

Runs the suite on each of several kernels, and keeps the verdicts in kernels.json and kernels.md.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from kvmtest import named_file
from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence.file import write_whole
from kvmtest.judge import Verdict
from kvmtest.kernels.archive import Archive
from kvmtest.lab import parallel
from kvmtest.lab.survey import Key, Run, Surveyed, SurveyMachine, fetching, pending
from kvmtest.lab.target import NEEDED_MIB, LabOptions
from kvmtest.report.at_work import AtWork
from kvmtest.report.kernels_page import DATA, page
from kvmtest.report.terminal import console
from kvmtest.target import Job

__all__ = ["run"]

_PAGE = "kernels.md"
#: The most bytes read from kernels.json: a kernel's row has about 1 KiB.
MOST = 16 * named_file.MIB


def run(
    kernels: Sequence[str] | None,
    folder: Path,
    options: Sequence[LabOptions],
    job: Job,
    jobs: int | None,
) -> int:
    """Survey ``kernels`` in the machines of ``options``, ``jobs`` runs at a time.

    None are all kernels of Debian's archive but those whose row is made already, by this kvmtest in
    this machine. Other rows in ``folder`` stay. Returns 0, or 3 if a run failed.
    """
    rows = load(folder / DATA)
    machines = [SurveyMachine.of(each, job) for each in options]
    if kernels is None:
        runs = list(pending(Archive(Cache.default(), _step).offers(), machines, rows))
    else:
        runs = [Run(kernel, machine) for kernel in kernels for machine in machines]
    at_once = jobs or parallel.jobs_that_fit(max(NEEDED_MIB[each.machine] for each in options))
    _step(f"{len(runs)} runs, {at_once} at a time")
    tasks = [each.task for each in runs]
    with AtWork(len(runs)) as at_work:
        ended = parallel.run(tasks, at_once, _Keeper(at_work, folder, rows), [fetching(runs)])
    failures = [f"{each.name}: {_problem(each)}" for each in ended if _problem(each)]
    for line in failures:
        console(sys.stderr).print(Text(f"kvmtest: {line}"), soft_wrap=True)
    console().print(f"{len(runs) - len(failures)} of {len(runs)} runs: {folder / _PAGE}")
    return 3 if failures else 0


class _Keeper:
    """Shows the runs at work, and keeps the row of each that ends."""

    def __init__(self, at_work: AtWork, folder: Path, rows: dict[Key, Surveyed]) -> None:
        self.began, self.said, self.tick = at_work.began, at_work.said, at_work.tick
        self._print = at_work.ended
        self._folder = folder
        self._rows = rows

    def ended(self, ended: parallel.Ended[Any]) -> None:
        row: Surveyed | None = ended.result
        if row:
            self._rows[row.key] = row
            save(self._folder, self._rows)
        words = _problem(ended) or _counts(row)
        self._print(ended.name, f"{words} ({ended.seconds:.0f} s)")


def _counts(row: Surveyed | None) -> str:
    """Return how many there are of each verdict, e.g. "1 FAIL (1 known), 18 PASS"."""
    verdicts = row.verdicts if row else {}
    known = sum(verdicts.get(name) == Verdict.FAIL for name in (row.known_defects if row else ()))
    counts = Counter(verdicts.values())
    return ", ".join(
        f"{counts[v]} {v}{f' ({known} known)' if known and v is Verdict.FAIL else ''}"
        for v in Verdict
        if counts[v] and v is not Verdict.SKIP
    )


def _problem(ended: parallel.Ended[Surveyed]) -> str:
    """Return why a run has no verdicts, "" where it has."""
    return ended.result.failure if ended.result else ended.failure


def _step(step: str) -> None:
    print(f"kvmtest: lab: {step}", file=sys.stderr, flush=True)  # noqa: T201


def load(path: Path) -> dict[Key, Surveyed]:
    """Return the rows of earlier surveys, none without a file; raises EnvironmentUnfit."""
    try:
        rows = [Surveyed.of(row) for row in json.loads(named_file.read(path, MOST))]
        # Refuse rows that give no page now, not after an hour of runs.
        page(rows)
        return {row.key: row for row in rows}
    except FileNotFoundError:
        return {}
    except OSError as error:
        problem = error.strerror
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        problem = str(error)
    raise EnvironmentUnfit(f"{path}: {problem}; remove it, or name another -o DIR")


def save(folder: Path, surveyed: Mapping[Key, Surveyed]) -> None:
    """Write rows and page to a folder."""
    rows = sorted(surveyed.values(), key=lambda row: row.age)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / DATA, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    write_whole(folder / _PAGE, page(rows))
