"""kvmtest lab survey
==================

Runs the suite on a list of kernels, and keeps the verdicts in kernels.json, from which it writes
the page kernels.md.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from rich.text import Text

from kvmtest import named_file
from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.evidence import Evidence
from kvmtest.evidence.file import write_whole
from kvmtest.judge import Verdict
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.emulator import Hardware
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.run import MACHINES, assemble, run_once, teller
from kvmtest.properties import PROPERTIES
from kvmtest.report.terminal import Progress, console

__all__ = ["Surveyed", "page", "run"]

_DATA, _PAGE = "kernels.json", "kernels.md"
#: The most that is read of the former, in bytes: a kernel's row has about 1 KiB.
MOST = 16 * named_file.MIB
_MARKS = {
    Verdict.PASS: "PASS",
    Verdict.FAIL: "**FAIL**",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.ERROR: "ERROR",
    Verdict.MEASURED: "MEASURED",
}
_DECIDED = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")


Key = tuple[str, str, str, int, str]

# Rows without the lab's machine are older: of one for each emulator.
_LAB_OF = {"Bochs": "intel", "QEMU": "amd"}


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One kernel's verdicts by property in one machine, and what they were had with.

    ``machine`` is the emulator, its version, the CPU's model and how many there are; ``lab`` the
    name of the lab's machine, ``setup`` the parameters that KVM's modules were loaded with, where
    they were not their own.
    """

    release: str
    version: str
    debian_version: str | None
    date: str | None
    kvmtest: str
    machine: str
    verdicts: Mapping[str, str]
    known_defects: Mapping[str, str]
    lab: str = ""
    cpus: int = 0
    setup: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of the data, where it may have been written before machines had names."""
        made = cls(**row)
        cpus = re.search(r"(\d+) CPU", made.machine)
        return replace(
            made,
            lab=made.lab or _LAB_OF.get(made.emulator, made.emulator),
            cpus=made.cpus or int(cpus[1] if cpus else 1),
        )

    @property
    def key(self) -> Key:
        """What there is one of in the data: a kernel in a machine with so many CPUs, so set up."""
        return self.release, self.lab, self.emulator, self.cpus, self.setup

    @property
    def emulator(self) -> str:
        """The emulator's name."""
        return self.machine.split()[0]

    @property
    def heading(self) -> str:
        """What its table is called."""
        return f"{self.machine}, {self.setup}" if self.setup else self.machine


def run(
    kernels: Sequence[str],
    folder: Path,
    machine: str,
    cpus: int | None,
    parameters: Sequence[str] = (),
) -> int:
    """Survey kernels in a machine, and write data and page to the folder; what is there stays.

    KVM's modules get the ``parameters``, each MODULE.NAME=VALUE. Returns 0, or 3 where a kernel
    could not be surveyed.
    """
    surveyed = _load(folder / _DATA)
    failures = []
    with Progress() as progress:
        tell = teller(progress)
        emulator = MACHINES[machine]()
        hardware = Hardware(cpus or emulator.cpus)
        setting = Parameters.parse(parameters, emulator.modules[0])
        cache = Cache.default()
        for number, spec in enumerate(kernels, 1):
            tell(f"[{number}/{len(kernels)}] {spec}")
            try:
                kernel = resolve(spec, None, cache, tell, needed=emulator.modules)
                lab = assemble(progress, emulator, kernel, cache, hardware)
                _, evidence = run_once(lab, [], parameters=setting)
            except KvmtestError as error:
                failures.append(f"{spec}: {error}")
                continue
            row = _surveyed(kernel, machine, evidence)
            surveyed[row.key] = row
            _write(folder, surveyed)
    for line in failures:
        console(sys.stderr).print(Text(f"kvmtest: {line}"), soft_wrap=True)
    console().print(f"{len(kernels) - len(failures)} of {len(kernels)} kernels: {folder / _PAGE}")
    return 3 if failures else 0


def _surveyed(kernel: BootableKernel, name: str, evidence: Evidence) -> Surveyed:
    machine = evidence.machine.lab
    details = machine and machine.details
    if not machine or not details or not details.cpus:
        raise EnvironmentUnfit("the evidence does not say which machine it is from; run it again")
    parts = [f"{machine.emulator} {machine.version}", machine.model]
    if name not in _LAB_OF.values():
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


def _load(path: Path) -> dict[Key, Surveyed]:
    try:
        rows = [Surveyed.of(row) for row in json.loads(named_file.read(path, MOST))]
        # Rows that make no page are told now, and not after an hour of runs.
        page(sorted(rows, key=_age))
        return {row.key: row for row in rows}
    except FileNotFoundError:
        return {}
    except OSError as error:
        problem = error.strerror
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        problem = str(error)
    raise EnvironmentUnfit(f"{path}: {problem}; remove it, or name another -o DIR")


def _write(folder: Path, surveyed: Mapping[Key, Surveyed]) -> None:
    rows = sorted(surveyed.values(), key=_age)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / _DATA, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    write_whole(folder / _PAGE, page(rows))


def _age(row: Surveyed) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", row.version)], row.release


def page(rows: Sequence[Surveyed]) -> str:
    """Return the page: for each machine a table with a row for each kernel.

    It has a column for each property that is decided in any row of it.
    """
    lines = [
        "# Kernels",
        "",
        f"Made by `kvmtest lab survey` from {_DATA}: Debian's stock kernels in emulated machines. "
        "It proves the kernels' code and the suite, not a piece of hardware.",
        "",
        "A dagger marks a known defect, whose finding is named below. An empty field was not "
        "decided.",
    ]
    for heading in dict.fromkeys(row.heading for row in rows):
        lines += ["", f"## {heading}", "", *_table([r for r in rows if r.heading == heading])]
    findings = dict.fromkeys(f for row in rows for f in row.known_defects.items())
    if findings:
        lines += ["", "## Known defects", ""]
        lines += [f"* † `{name}`: [{finding}]({_link(finding)})" for name, finding in findings]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Surveyed]) -> Iterator[str]:
    columns = [p.id for p in PROPERTIES if any(row.verdicts.get(p.id) in _DECIDED for row in rows)]
    yield "| kernel | version | built | " + " | ".join(f"`{name}`" for name in columns) + " |"
    yield "|---|---|---|" + "---|" * len(columns)
    for row in rows:
        marks = [_mark(row, name) for name in columns]
        built = f"{row.release} | {row.debian_version or row.version} | {row.date or ''}"
        yield f"| {built} | {' | '.join(marks)} |"


def _mark(row: Surveyed, name: str) -> str:
    verdict = row.verdicts.get(name, "")
    mark = _MARKS.get(Verdict(verdict), "") if verdict else ""
    return f"{mark} †" if mark and name in row.known_defects else mark


def _link(finding: str) -> str:
    return finding.removeprefix("docs/")
