"""The page of kernels
===================

The results of a survey of kernels: a row a kernel, and the page (docs/kernels.md) of all rows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from kvmtest.judge import Verdict
from kvmtest.properties import PROPERTIES

__all__ = ["DATA", "FIRST_MACHINES", "Key", "Surveyed", "page"]

#: The file with the rows, which the page names.
DATA = "kernels.json"

_MARKS = {
    Verdict.PASS: "PASS",
    Verdict.FAIL: "**FAIL**",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.ERROR: "ERROR",
    Verdict.MEASURED: "MEASURED",
}
_DECIDED = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")

Key = tuple[str, str, str, int, str]

#: The machine's name in older rows, which lack it: each emulator had one machine.
FIRST_MACHINES = {"Bochs": "intel", "QEMU": "amd"}


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One kernel's verdicts by property in one machine."""

    release: str
    version: str
    debian_version: str | None
    date: str | None
    kvmtest: str
    """The version that ran."""

    machine: str
    """The emulator, its version, the CPU's model and the number of CPUs, in words."""

    verdicts: Mapping[str, str]
    known_defects: Mapping[str, str]
    lab: str = ""
    """The name of the lab's machine, such as amd-uefi."""

    cpus: int = 0
    setup: str = ""
    """The parameters that KVM's modules were loaded with; empty for their defaults."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of the file; older rows lack the machine's name."""
        made = cls(**row)
        cpus = re.search(r"(\d+) CPU", made.machine)
        return replace(
            made,
            lab=made.lab or FIRST_MACHINES.get(made.emulator, made.emulator),
            cpus=made.cpus or int(cpus[1] if cpus else 1),
        )

    @property
    def key(self) -> Key:
        """The key by which a later row replaces this one."""
        return self.release, self.lab, self.emulator, self.cpus, self.setup

    @property
    def emulator(self) -> str:
        """The emulator's name."""
        return self.machine.split()[0]

    @property
    def heading(self) -> str:
        """The heading of its table."""
        return f"{self.machine}, {self.setup}" if self.setup else self.machine

    @property
    def age(self) -> tuple[list[int], str]:
        """The sort key of rows, the oldest kernel first."""
        return [int(number) for number in re.findall(r"\d+", self.version)], self.release


def page(rows: Sequence[Surveyed]) -> str:
    """Return the page: a table for each machine, a row for each kernel, the oldest first.

    A table has a column for each property that any of its rows decides.
    """
    rows = sorted(rows, key=lambda row: row.age)
    lines = [
        "# Kernels",
        "",
        f"Made by `kvmtest lab survey` from {DATA}: Debian's stock kernels in emulated machines. "
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
