"""kvmtest lab mutants
===================

Breaks KVM on purpose, one line at a time, and prints which property noticed.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.table import Table
from rich.text import Text

from kvmtest import parallel
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence.file import write_whole
from kvmtest.lab.mutants import kit
from kvmtest.lab.mutants.bench import Bench, Observed, chosen_mutants, mutants_of_kernel
from kvmtest.lab.mutants.builder import ModuleBuilder
from kvmtest.lab.mutants.matrix import (
    LEGEND,
    Fate,
    Row,
    columns,
    differences,
    letters,
    markdown,
    survivors,
)
from kvmtest.lab.target import NEEDED_MIB, LabOptions, LabTarget
from kvmtest.parallel import Task
from kvmtest.report.at_work import AtWork
from kvmtest.report.progress import Progress
from kvmtest.report.terminal import console
from kvmtest.run_folder import new_folder, write_reports
from kvmtest.target import Outcome

from .lab_run import on_step, write

__all__ = ["run"]

T = TypeVar("T")
OnText = Callable[[str], None]

_STYLES = {Fate.KILLED: "bold green", Fate.SURVIVED: "bold red", Fate.UNDECIDED: "dim"}


def run(
    options: LabOptions, only: Sequence[str], folder: Path | None, jobs: int | None = None
) -> int:
    """Judge the mutants, or ``only`` those named, ``jobs`` at a time; return the exit status.

    Matrix and evidence go to a new ``folder``. The status is 1 where a mutant survived, an expected
    leak was not seen, or the unmutated build is judged other than the stock kernel; 3 where the run
    of a mutant broke; 4 where no mutant was decided; else 0. Raises UsageError, EnvironmentUnfit.
    """
    chosen = chosen_mutants(options.machine, only)
    output = new_folder(folder) if folder else None

    def keep(name: str, outcome: Outcome) -> None:
        if output:
            (output / name).mkdir()
            write(outcome, output / name)
            write_reports(outcome.evidence, output / name)

    with Progress() as progress:
        voice = _Voice(on_step(progress))
        target = LabTarget.of(options, voice, voice)
        kernel, cache = target.kernel, target.machine.cache
        chosen = mutants_of_kernel(chosen, kernel.release, only)
        parts = kit.fetch(kernel, cache, voice)
        bench = Bench(ModuleBuilder(parts, cache, voice, target.vendor), target, keep)
    at_once = jobs or parallel.jobs_that_fit(NEEDED_MIB[options.machine])
    stock, rebuilt = _unmutated(bench, voice, at_once)
    differing = differences(stock.verdicts, rebuilt.verdicts)
    tasks = [voice.task(each.name, partial(bench.judge, each, stock)) for each in chosen]
    with AtWork(len(tasks), _words) as at_work:
        ended = parallel.run(tasks, at_once, at_work)
    rows = [
        each.result or Row(mutant, Fate.UNDECIDED, each.failure, {})
        for mutant, each in zip(chosen, ended, strict=True)
    ]
    _show(rows, differing)
    if output:
        write_whole(output / "matrix.md", markdown(rows, kernel.origin))
        write_whole(output / "matrix.json", json.dumps(list(map(_plain, rows)), indent=1) + "\n")
    if survivors(rows) or differing or any(row.is_unseen for row in rows):
        return 1
    if any(each.failure for each in ended):
        return 3
    return 0 if any(row.fate is Fate.KILLED for row in rows) else 4


class _Voice:
    """Shows the text of a bench; within a task its parent shows it."""

    def __init__(self, show: OnText) -> None:
        self._show = show

    def __call__(self, text: str) -> None:
        self._show(text)

    def task(self, name: str, do: Callable[[], T]) -> Task[T]:
        """Return a task that does something with the bench."""

        def run(show: OnText) -> T:
            # In the task's process alone.
            self._show = show
            return do()

        return Task(name, run)


def _unmutated(bench: Bench, voice: _Voice, at_once: int) -> list[Observed]:
    """Return what is observed on the stock kernel, and on a build of it without a fault.

    The build is compiled while the stock kernel runs. Raises EnvironmentUnfit where one fails.
    """
    tasks = [
        voice.task("the stock kernel", lambda: bench.run("stock", None)),
        voice.task("the unmutated build", lambda: bench.run("rebuilt", bench.builder.build())),
    ]
    shown: AtWork[Observed] = AtWork(len(tasks), lambda _: "done")
    with shown as at_work:
        ended = parallel.run(tasks, at_once, at_work)
    for each in ended:
        if each.result is None:
            raise EnvironmentUnfit(f"{each.name}: {each.failure}")
    return [each.result for each in ended if each.result]


def _words(row: Row) -> str:
    return f"{row.fate}: {row.reason}"


def _plain(row: Row) -> dict[str, object]:
    return {**asdict(row), "mutant": row.mutant.name}


def _show(rows: Sequence[Row], differing: Sequence[str]) -> None:
    screen = console()
    names = columns(rows)
    ruler = "".join(str(number % 10) for number in range(1, len(names) + 1))
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("mutant", "fate", "owner", ruler):
        table.add_column(column, no_wrap=True)
    table.add_column("seen by")
    table.add_column("s", no_wrap=True)
    for row in rows:
        owner = names.index(row.mutant.owner) if row.mutant.owner in names else None
        verdicts = Text(letters(row, names))
        if owner is not None:
            verdicts.stylize("reverse", owner, owner + 1)
        table.add_row(
            row.mutant.name,
            Text(row.fate, _STYLES[row.fate]),
            "" if owner is None else f"{owner + 1:5}",
            verdicts,
            ", ".join(row.witnesses),
            f"{row.build_seconds:.0f}+{row.run_seconds:.0f}",
        )
    screen.print(table)
    screen.print()
    for number, name in enumerate(names, 1):
        screen.print(f"{number:2} {name}")
    screen.print(LEGEND)
    screen.print()
    for line in _remarks(rows, differing):
        screen.print(Text(line), soft_wrap=True)


def _remarks(rows: Sequence[Row], differing: Sequence[str]) -> Iterator[str]:
    for row in rows:
        if row.fate is not Fate.KILLED:
            yield f"{row.mutant.name} {row.fate}: {row.reason}"
        if row.is_unseen:
            yield f"{row.mutant.name}: {row.mutant.leak} does not FAIL by leak"
    yield from differing
    if not differing:
        yield "the unmutated build has the verdicts of the stock kernel"
    counts = [f"{sum(row.fate is f for row in rows)} {f}" for f in Fate]
    yield f"{len(rows)} mutants: {', '.join(counts)}"
