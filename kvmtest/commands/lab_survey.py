"""kvmtest lab survey
==================

Runs the suite on each of several kernels, and keeps the verdicts in kernels.json and kernels.md.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.text import Text

from kvmtest import named_file
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.evidence import Evidence
from kvmtest.evidence.file import write_whole
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.target import VENDORS, LabOptions, LabTarget
from kvmtest.report.kernels_page import DATA, FIRST_MACHINES, Key, Surveyed, page
from kvmtest.report.terminal import Progress, console
from kvmtest.target import Job

from .lab_run import on_line, on_step

__all__ = ["run"]

_PAGE = "kernels.md"
#: The most bytes read from kernels.json: a kernel's row has about 1 KiB.
MOST = 16 * named_file.MIB


def run(kernels: Sequence[str], folder: Path, options: LabOptions, job: Job) -> int:
    """Survey ``kernels`` in the machine of ``options``; other kernels' rows in ``folder`` stay.

    Returns 0, or 3 if a kernel could not be surveyed.
    """
    rows = load(folder / DATA)
    failures = []
    Parameters.parse(job.parameters, VENDORS[options.machine])
    with Progress() as progress:
        show = on_step(progress)
        for number, name in enumerate(kernels, 1):
            show(f"[{number}/{len(kernels)}] {name}")
            try:
                target = LabTarget.of(replace(options, kernel=[name]), show, on_line(progress))
                outcome = target.run(job)
                row = row_of(target.kernel, options.machine, outcome.evidence)
            except KvmtestError as error:
                failures.append(f"{name}: {error}")
                continue
            rows[row.key] = row
            save(folder, rows)
    for line in failures:
        console(sys.stderr).print(Text(f"kvmtest: {line}"), soft_wrap=True)
    console().print(f"{len(kernels) - len(failures)} of {len(kernels)} kernels: {folder / _PAGE}")
    return 3 if failures else 0


def row_of(kernel: BootableKernel, name: str, evidence: Evidence) -> Surveyed:
    """Return the row of a run on ``kernel`` in the lab's machine ``name``.

    Raises EnvironmentUnfit if the evidence is not from a lab.
    """
    machine = evidence.machine.lab
    details = machine and machine.details
    if not machine or not details or not details.cpus:
        raise EnvironmentUnfit("the evidence does not say which machine it is from; run it again")
    parts = [f"{machine.emulator} {machine.version}", machine.model]
    if name not in FIRST_MACHINES.values():
        parts.append(details.board or name)
    return Surveyed(
        kernel.release,
        kernel.version,
        kernel.debian_version,
        kernel.date,
        evidence.kvmtest.version,
        ", ".join([*parts, f"{details.cpus} CPU"]),
        {r.id: r.verdict.value for r in evidence.results},
        {r.id: r.known_defect for r in evidence.results if r.known_defect},
        name,
        details.cpus,
        details.kvm_parameters or "",
    )


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
