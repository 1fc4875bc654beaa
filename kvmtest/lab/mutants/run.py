"""kvmtest lab mutants
===================

Builds KVM with each named fault, runs the suite on it, and prints which property noticed.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from rich.table import Table
from rich.text import Text

from kvmtest.cache import Cache
from kvmtest.errors import UsageError
from kvmtest.evidence import Evidence
from kvmtest.evidence.directory import new_folder
from kvmtest.evidence.file import write_whole
from kvmtest.judge import Role, Verdict, witnesses_against
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.bochs import SHOWN
from kvmtest.lab.emulators.emulator import Hardware
from kvmtest.lab.lab import Lab
from kvmtest.lab.machine import MachineFailed
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.run import MACHINES, VENDORS, assemble, run_once, teller, write
from kvmtest.properties import find as find_property
from kvmtest.report.files import write_reports
from kvmtest.report.terminal import Progress, console

from . import kit
from .builder import ModuleBuilder, PatchRefused
from .matrix import (
    LEGEND,
    Fate,
    Row,
    Verdicts,
    columns,
    differences,
    fate,
    letters,
    markdown,
    survivors,
)
from .table import MUTANTS, REPAIRS, Mutant, find

__all__ = ["Options", "run"]

_STYLES = {Fate.KILLED: "bold green", Fate.SURVIVED: "bold red", Fate.UNDECIDED: "dim"}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; no ``only`` means all mutants of the machine."""

    machine: str = "intel"
    kernel: Sequence[str] | None = None
    only: list[str] = field(default_factory=list)
    output: Path | None = None


class _Seen(NamedTuple):
    """What a run said: verdicts, who spoke of which property, who against it, the CPU's flags."""

    verdicts: Verdicts
    speaking: frozenset[tuple[str, str]]
    against: frozenset[tuple[str, str]]
    cpu_flags: Sequence[str]

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """Return what the evidence of a run says."""
        cpu = evidence.machine.cpu
        return cls(
            {result.id: result.verdict for result in evidence.results},
            frozenset(
                (result.id, reading.witness)
                for result in evidence.results
                for reading in result.readings
                if reading.role is Role.CLAIM
            ),
            frozenset((r.id, w) for r in evidence.results for w in witnesses_against(r.readings)),
            (cpu and cpu.features) or [],
        )


@dataclass
class _Bench:
    """One kernel, its builder, who makes the lab with some hardware, and its CPUs."""

    builder: ModuleBuilder
    lab: Callable[[Hardware], Lab]
    cpus: int

    def judge(self, mutant: Mutant, stock: _Seen, output: Path | None) -> Row:
        """Build a mutant, run the suite on it, and return its row; ``stock`` is without it."""
        began = time.monotonic()
        try:
            modules = self.builder.build([mutant.patch])
        except PatchRefused as refused:
            return Row(mutant, Fate.UNDECIDED, str(refused), {})
        built = time.monotonic()
        try:
            seen = self.run(modules, mutant, output)
        except MachineFailed as failed:
            # One bad mutant, out of many, ends nothing but its own run.
            seconds = time.monotonic() - built
            return Row(mutant, Fate.UNDECIDED, str(failed), {}, built - began, seconds)
        lacking = [flag for flag in mutant.cpu_flags if flag not in seen.cpu_flags]
        if lacking:
            reason = f"the machine's CPU has no {', '.join(lacking)}"
            what, why = Fate.UNDECIDED, reason
        else:
            wanted = Verdict.PASS if mutant in REPAIRS else Verdict.FAIL
            what, why = fate(mutant, seen.verdicts, wanted)
        seconds = time.monotonic() - built
        new, unseen = _new(seen, stock), _is_unseen(mutant, seen, stock)
        return Row(mutant, what, why, seen.verdicts, built - began, seconds, new, unseen)

    def run(
        self, modules: Path | None, mutant: Mutant | None = None, output: Path | None = None
    ) -> _Seen:
        """Run the suite with some modules, and return what it said."""
        lab = self.lab(self._hardware(mutant) if mutant else Hardware(self.cpus))
        wanted = mutant.parameters if mutant else ()
        parameters = Parameters.parse(wanted, lab.emulator.modules[0])
        outcome, evidence = run_once(lab, ["--strict"], modules=modules, parameters=parameters)
        if output:
            folder = output / (mutant.name if mutant else "stock" if modules is None else "rebuilt")
            folder.mkdir()
            write(outcome, folder)
            write_reports(evidence, folder)
        return _Seen.of(evidence)

    def _hardware(self, mutant: Mutant) -> Hardware:
        """Return a machine in which the mutant's fault can show, as far as there is one."""
        cpus = 2 if "second-cpu" in find_property(mutant.owner).needs else self.cpus
        return Hardware(cpus, cpu_features=tuple(f for f in mutant.cpu_flags if f in SHOWN))


def _vendor(mutant: Mutant) -> str:
    """Return the vendor module whose machines decide the mutant's owner."""
    return "kvm_amd" if "kvm-amd" in find_property(mutant.owner).needs else "kvm_intel"


def _chosen(options: Options) -> list[Mutant]:
    """Return the mutants to judge; raises UsageError where one is another machine's."""
    named = [find(name) for name in options.only]
    vendor = VENDORS[options.machine]
    for mutant in named:
        if _vendor(mutant) != vendor:
            machines = [name for name, v in VENDORS.items() if v == _vendor(mutant)]
            raise UsageError(f"{mutant.name} is one for --machine {' or '.join(machines)}")
    return named or [m for m in (*MUTANTS, *REPAIRS) if _vendor(m) == vendor]


def _of_kernel(chosen: Sequence[Mutant], release: str, named: Sequence[str]) -> list[Mutant]:
    """Leave out the mutants whose line the kernel has not; raises UsageError where one is named."""
    major, minor = map(int, release.split("-")[0].split(".")[:2])
    for mutant in chosen:
        if mutant.since > (major, minor) and mutant.name in named:
            first = ".".join(map(str, mutant.since))
            raise UsageError(f"{mutant.name} is one for Linux {first} and later, not {release}")
    return [mutant for mutant in chosen if mutant.since <= (major, minor)]


def _new(seen: _Seen, stock: _Seen) -> tuple[str, ...]:
    """Return the witnesses that speak against what they do not on the stock kernel."""
    return tuple(sorted({witness for _, witness in seen.against - stock.against}))


def _is_unseen(mutant: Mutant, seen: _Seen, stock: _Seen) -> bool:
    """Whether SMIs are counted as on the stock kernel where the mutant has them counted wrongly."""
    wanted = (mutant.leak, "leak")
    return wanted in stock.speaking - seen.against


def run(options: Options) -> int:
    """Judge the mutants; return 0 where none survived and the unmutated build is like the stock.

    1 where that is not so, or where one did not FAIL by leak where it must; 4 where nothing was
    decided. Raises UsageError, EnvironmentUnfit.
    """
    chosen = _chosen(options)
    output = new_folder(options.output) if options.output else None
    with Progress() as progress:
        tell = teller(progress)
        emulator = MACHINES[options.machine]()
        cache = Cache.default()
        kernel = resolve(options.kernel, None, cache, tell, needed=emulator.modules)
        chosen = _of_kernel(chosen, kernel.release, options.only)
        bench = _Bench(
            ModuleBuilder(kit.fetch(kernel, cache, tell), cache, tell, emulator.modules[0]),
            partial(assemble, progress, emulator, kernel, cache),
            emulator.cpus,
        )
        tell("the stock kernel")
        stock = bench.run(None, output=output)
        rebuilt = bench.run(bench.builder.build(), output=output)
        differing = differences(stock.verdicts, rebuilt.verdicts)
        rows: list[Row] = []
        for number, mutant in enumerate(chosen, 1):
            tell(f"[{number}/{len(chosen)}] {mutant.name}")
            rows.append(bench.judge(mutant, stock, output))
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
