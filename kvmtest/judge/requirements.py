"""Requirements
============

``--require``: what a runner must be able to decide. A runner that tests nothing can't go green.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .readings import Absence, Reading, Role, Verdict
from .rules import Judgement, doubt

__all__ = ["Demand", "Kind", "Requirement", "enforce", "unmet"]


class Kind(StrEnum):
    """What a requirement names."""

    PROPERTY = "property"
    WITNESS = "witness"
    FEATURE = "feature"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A requirement as the user wrote it.

    ``properties`` are the ids concerned: the property itself, those that the witness can
    decide, or those that need the feature.
    """

    text: str
    kind: Kind
    name: str
    properties: frozenset[str]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a requirement asks of one property on one machine.

    The property must be decided; the witness ``name`` must have made a claim, and its controls must
    have held; the feature must be present. ``lacks`` says why a feature is absent.
    """

    text: str
    kind: Kind
    name: str
    lacks: str = ""


def unmet(
    demand: Demand,
    judgement: Judgement,
    readings: Sequence[Reading] = (),
    absences: Sequence[Absence] = (),
) -> str:
    """Return why a demand is not met; "" if it is met."""
    said = f"{judgement.verdict}: {judgement.reason}"
    match demand.kind:
        case Kind.PROPERTY:
            undecided = (Verdict.SKIP, Verdict.INCONCLUSIVE, Verdict.ERROR)
            return said if judgement.verdict in undecided else ""
        case Kind.WITNESS if judgement.verdict in (Verdict.SKIP, Verdict.ERROR):
            return said
        case Kind.WITNESS:
            why = _silence(demand.name, judgement, readings, absences)
        case Kind.FEATURE if demand.lacks and demand.lacks in judgement.reason:
            return said
        case Kind.FEATURE:
            why = demand.lacks
    return f"{why}; without it {said}" if why else ""


def enforce(
    judgement: Judgement,
    demands: Sequence[Demand],
    readings: Sequence[Reading] = (),
    absences: Sequence[Absence] = (),
) -> Judgement:
    """Return FAIL if a demand is not met, else the judgement unchanged; an ERROR stays."""
    if judgement.verdict is Verdict.ERROR:
        return judgement
    by_reason: dict[str, list[str]] = {}
    for demand in demands:
        why = unmet(demand, judgement, readings, absences)
        if why:
            by_reason.setdefault(why, []).append(f"--require {demand.text}")
    if not by_reason:
        return judgement
    reasons = (f"{' '.join(required)}, but {why}" for why, required in by_reason.items())
    return Judgement(Verdict.FAIL, "; ".join(reasons))


def _silence(
    witness: str, judgement: Judgement, readings: Sequence[Reading], absences: Sequence[Absence]
) -> str:
    """Return why a witness made no claim or proves nothing; "" if it decided."""
    # A property that makes no claim has figures instead.
    role = Role.MEASURE if judgement.verdict is Verdict.MEASURED else Role.CLAIM
    if any(r.witness == witness and r.role is role for r in readings):
        return doubt(witness, readings)
    missing = dict.fromkeys(str(a.missing) for a in absences if a.witness == witness)
    return f"{witness} did not look: {'; '.join(missing) or 'it recorded no reading of the claim'}"
