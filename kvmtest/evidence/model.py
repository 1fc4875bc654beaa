"""The evidence of a run
=====================

Everything a reader needs to believe or doubt the verdicts: values that become JSON and come back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any

from kvmtest.judge import Absence, Reading, Role, Verdict
from kvmtest.judge.requirements import Demand, Kind
from kvmtest.missing import Missing

__all__ = ["SCHEMA", "Evidence", "Required", "Result"]

#: Name and version of the format; a change that old readers would misread raises the number.
SCHEMA = "kvmtest-evidence/1"


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    return tuple(field.name for field in fields(kind))


@dataclass(frozen=True, slots=True)
class Required:
    """What became of a ``--require``: whether it was met, and why not."""

    text: str
    met: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one property, and the readings it rests on.

    ``seconds`` is how long its check took; ``missing`` are the preconditions behind a SKIP;
    ``detail`` is the traceback behind an ERROR. ``known_defect`` is the finding about a defect that
    this kernel is known to have here, whether it showed (FAIL) or not (PASS). ``demands`` are those
    of the run's requirements, which the verdict follows.
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
    demands: list[Demand] = field(default_factory=list)

    @property
    def is_known_failure(self) -> bool:
        """Whether it is a FAIL that the exit status leaves out, unless the run is strict."""
        return self.verdict is Verdict.FAIL and bool(self.known_defect)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON has it.

        Not by :func:`dataclasses.asdict`, which copies each of thousands of readings deeply.
        """
        names = _names(Reading)
        values_of = attrgetter(*names)
        return {
            **{name: getattr(self, name) for name in _names(Result)},
            "readings": [dict(zip(names, values_of(r), strict=True)) for r in self.readings],
            "absences": [asdict(absence) for absence in self.absences],
            "missing": [asdict(missing) for missing in self.missing],
            "demands": [asdict(demand) for demand in self.demands],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Result":
        """Return the result that :meth:`to_dict` made ``data`` of."""
        readings = [Reading(**{**r, "role": Role(r["role"])}) for r in data["readings"]]
        absences = [Absence(a["witness"], Missing(**a["missing"])) for a in data["absences"]]
        parts = {
            "verdict": Verdict(data["verdict"]),
            "readings": readings,
            "absences": absences,
            "missing": [Missing(**m) for m in data["missing"]],
            "demands": [Demand(**{**d, "kind": Kind(d["kind"])}) for d in data.get("demands", ())],
        }
        return cls(**{**data, **parts})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One run. ``kvmtest``, ``machine``, ``host`` and ``kernel`` are facts as JSON has them."""

    kvmtest: dict[str, Any]
    machine: dict[str, Any]
    host: dict[str, Any]
    kernel: dict[str, Any]
    journal: dict[str, Any]
    kernel_log: dict[str, Any]
    results: list[Result]
    exit_status: int
    requirements: list[Required] = field(default_factory=list)

    @property
    def strict(self) -> bool:
        """Whether known defects counted in the exit status."""
        return bool(self.kvmtest.get("strict"))

    @property
    def machine_name(self) -> str:
        """What kind of machine it is; a lab with its emulator and modules that are not stock."""
        lab = self.machine.get("lab")
        name = str(self.machine["kind"])
        if not lab:
            return name
        laid = lab.get("details", {}).get("modules_laid_over")
        over = f"; {laid} laid over the kernel's" if laid else ""
        return f"{name} ({lab['emulator']} {lab['version']}, {lab['model']}{over})"

    @property
    def summary(self) -> dict[str, int]:
        """How many results there are of each verdict."""
        return {v.value: sum(r.verdict is v for r in self.results) for v in Verdict}

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence as JSON has it, by the schema beside this module."""
        parts = {name: getattr(self, name) for name in _names(Evidence) if name != "results"}
        parts["requirements"] = [asdict(required) for required in self.requirements]
        results = [result.to_dict() for result in self.results]
        return {"schema": SCHEMA, **parts, "results": results, "summary": self.summary}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Evidence":
        """Return the evidence that :meth:`to_dict` made ``data`` of."""
        parts = {k: v for k, v in data.items() if k not in ("schema", "summary")}
        results = [Result.from_dict(r) for r in data["results"]]
        required = [Required(**r) for r in data.get("requirements", ())]
        return cls(**{**parts, "results": results, "requirements": required})
