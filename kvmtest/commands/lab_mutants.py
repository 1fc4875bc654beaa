"""kvmtest lab mutants
===================

Breaks KVM on purpose, one line at a time, and prints which property noticed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kvmtest.evidence.file import write_whole
from kvmtest.lab.mutants import kit
from kvmtest.lab.mutants.bench import Bench, chosen_mutants, mutants_of_kernel
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
from kvmtest.lab.target import LabOptions, LabTarget
from kvmtest.report.terminal import Progress, console
from kvmtest.run_folder import new_folder, write_reports
from kvmtest.target import Outcome

from .lab_run import on_line, on_step, write

__all__ = ["run"]

_STYLES = {Fate.KILLED: "bold green", Fate.SURVIVED: "bold red", Fate.UNDECIDED: "dim"}


def run(
    options: LabOptions, only: Sequence[str], folder: Path | None, jobs: int | None = None
) -> int:
    """Judge the mutants, or ``only`` those named; write matrix and evidence to a new ``folder``.

    Returns 1 where a mutant survived, an expected leak was not seen, or the unmutated build is
    judged other than the stock kernel; 4 where no mutant was decided; else 0. Raises UsageError,
    EnvironmentUnfit.
    """
    chosen = chosen_mutants(options.machine, only)
    output = new_folder(folder) if folder else None

    def keep(name: str, outcome: Outcome) -> None:
        if output:
            (output / name).mkdir()
            write(outcome, output / name)
            write_reports(outcome.evidence, output / name)

    with Progress() as progress:
        show = on_step(progress)
        target = LabTarget.of(options, show, on_line(progress))
        kernel, cache = target.kernel, target.machine.cache
        chosen = mutants_of_kernel(chosen, kernel.release, only)
        parts = kit.fetch(kernel, cache, show)
        bench = Bench(ModuleBuilder(parts, cache, show, target.vendor), target, keep)
        show("the stock kernel")
        stock = bench.run("stock", None)
        rebuilt = bench.run("rebuilt", bench.builder.build())
        differing = differences(stock.verdicts, rebuilt.verdicts)
        rows: list[Row] = []
        for number, mutant in enumerate(chosen, 1):
            show(f"[{number}/{len(chosen)}] {mutant.name}")
            rows.append(bench.judge(mutant, stock))
    _show(rows, differing)
    if output:
        write_whole(output / "matrix.md", markdown(rows, kernel.origin))
        write_whole(output / "matrix.json", json.dumps(list(map(_plain, rows)), indent=1) + "\n")
    if survivors(rows) or differing or any(row.is_unseen for row in rows):
        return 1
    return 0 if any(row.fate is Fate.KILLED for row in rows) else 4


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
