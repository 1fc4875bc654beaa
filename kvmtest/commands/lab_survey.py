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

from rich.text import Text

from kvmtest import named_file, parallel
from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence.file import write_whole
from kvmtest.fleet.survey import Run, fetching, pending, tasks
from kvmtest.judge import Verdict
from kvmtest.kernels.archive import Archive
from kvmtest.lab.survey import Key, Surveyed, SurveyMachine
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
    machines = [SurveyMachine.of(each, job, _step) for each in options]
    if kernels is None:
        runs = list(pending(Archive(Cache.default(), _step).offers(), machines, rows))
    else:
        runs = [Run(kernel, each) for kernel in dict.fromkeys(kernels) for each in machines]
    at_once = jobs or parallel.jobs_that_fit(max(NEEDED_MIB[each.machine] for each in options))
    _step(f"{len(runs)} runs, {at_once} at a time")

    def keep(row: Surveyed) -> str:
        rows[row.key] = row
        save(folder, rows)
        return row.failure or _counts(row)

    with AtWork(len(runs), keep) as at_work:
        ended = parallel.run(tasks(runs), at_once, at_work, [fetching(runs)])
    failures = [f"{each.name}: {_problem(each)}" for each in ended if _problem(each)]
    for line in failures:
        console(sys.stderr).print(Text(f"kvmtest: {line}"), soft_wrap=True)
    done = f"{len(runs) - len(failures)} of {len(runs)} runs: {folder / _PAGE}"
    console().print(Text(done), soft_wrap=True)
    return 3 if failures else 0


def _counts(row: Surveyed) -> str:
    """Return how many there are of each verdict, e.g. "17 PASS, 1 FAIL (1 known)"."""
    known = sum(row.verdicts.get(name) == Verdict.FAIL for name in row.known_defects)
    counts = Counter(row.verdicts.values())
    return (
        ", ".join(
            f"{counts[v]} {v}{f' ({known} known)' if known and v is Verdict.FAIL else ''}"
            for v in Verdict
            if counts[v] and v is not Verdict.SKIP
        )
        or "nothing was decided"
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
