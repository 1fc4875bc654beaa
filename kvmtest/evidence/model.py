"""The evidence of a run
=====================

All that a reader needs to believe or doubt the verdicts, as values that become JSON and come back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvmtest.judge import Absence, Reading, Verdict
from kvmtest.judge.requirements import Demand
from kvmtest.missing import Missing

from .coding import decode, encode
from .records import (
    HostRecord,
    JournalRecord,
    KernelLogRecord,
    KernelRecord,
    MachineRecord,
    RunRecord,
)

__all__ = ["SCHEMA", "Evidence", "Required", "Result"]

#: Name and version of the format; a change that old readers would misread raises the number.
SCHEMA = "kvmtest-evidence/1"


@dataclass(frozen=True, slots=True)
class Required:
    """The outcome of a ``--require``: whether it was met, and why not."""

    text: str
    met: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one property, and the readings behind it.

    ``seconds`` is how long its check took; ``missing`` are the preconditions behind a SKIP;
    ``detail`` is the traceback behind an ERROR. ``known_defect`` is the finding about a defect that
    this kernel is known to have, whether it showed (FAIL) or not (PASS). ``demands`` come from the
    run's requirements; None if they were not recorded.
    """

    id: str
    verdict: Verdict
    reason: str
    seconds: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    detail: str = ""
    known_defect: str = ""
    demands: list[Demand] | None = None

    @property
    def is_known_failure(self) -> bool:
        """Whether this is a FAIL that the exit status ignores, unless the run is strict."""
        return self.verdict is Verdict.FAIL and bool(self.known_defect)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One run; ``requirements`` is None if their outcome was not recorded."""

    kvmtest: RunRecord
    machine: MachineRecord
    host: HostRecord
    kernel: KernelRecord
    journal: JournalRecord
    kernel_log: KernelLogRecord
    results: list[Result]
    exit_status: int
    requirements: list[Required] | None = None

    @property
    def strict(self) -> bool:
        """Whether known defects counted in the exit status."""
        return bool(self.kvmtest.strict)

    @property
    def machine_name(self) -> str:
        """The machine's kind; for a lab also its emulator and any modules that are not stock."""
        lab = self.machine.lab
        if not lab:
            return self.machine.kind
        laid = self.modules_laid_over
        over = f"; {laid} laid over the kernel's" if laid else ""
        return f"{self.machine.kind} ({lab.emulator} {lab.version}, {lab.model}{over})"

    @property
    def modules_laid_over(self) -> str:
        """The files of KVM that took the place of a lab kernel's own; "" if none did."""
        lab = self.machine.lab
        return (lab and lab.details and lab.details.modules_laid_over) or ""

    @property
    def summary(self) -> dict[str, int]:
        """How many results there are of each verdict."""
        return {v.value: sum(r.verdict is v for r in self.results) for v in Verdict}

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence as a JSON object that fits the schema beside this module."""
        return {"schema": SCHEMA, **encode(self), "summary": self.summary}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Evidence":
        """Return the evidence that :meth:`to_dict` turned into ``data``."""
        return decode(cls, {k: v for k, v in data.items() if k not in ("schema", "summary")})
