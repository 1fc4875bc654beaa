"""Verdict rules
=============

From readings to a verdict. Pure: no I/O, no clock.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from .readings import Absence, Reading, Role, Verdict

__all__ = ["Judgement", "doubt", "judge", "readings_against", "skip", "witnesses_against"]

#: The number of figures in a PASS's reason; the evidence has all.
_FIGURES_TOLD = 2


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its reason in words."""

    verdict: Verdict
    reason: str


def judge(readings: Sequence[Reading], absences: Sequence[Absence] = ()) -> Judgement:
    """Return the verdict that follows from the readings.

    * FAIL: a witness speaks against the claim, and its control held.
    * PASS: at least one witness speaks for it, none against, and the control of each one held.
    * MEASURED: there are figures, and no claim.
    * SKIP: no witness could look, or an obstacle stopped each one that began.
    * INCONCLUSIVE: anything else; the reason says what would decide it.
    """
    claims = [r for r in readings if r.role is Role.CLAIM]
    doubts = _doubts(claims, readings)
    if against := _against(claims, doubts):
        return Judgement(Verdict.FAIL, _failed(against))
    if not claims:
        return _without_claims(readings, absences)
    if doubts:
        return Judgement(Verdict.INCONCLUSIVE, "; ".join(doubts.values()))
    figures = [r for r in readings if r.role is Role.MEASURE]
    return Judgement(Verdict.PASS, _passed(claims, figures, absences))


def readings_against(readings: Sequence[Reading]) -> list[Reading]:
    """Return the claims that do not hold, of witnesses whose controls held."""
    claims = [r for r in readings if r.role is Role.CLAIM]
    return _against(claims, _doubts(claims, readings))


def witnesses_against(readings: Sequence[Reading]) -> list[str]:
    """Return the witnesses whose controls held and that speak against the claim."""
    return list(dict.fromkeys(r.witness for r in readings_against(readings)))


def skip(reasons: Iterable[str]) -> Judgement:
    """Return the verdict on a property that does not apply or lacks a precondition."""
    return Judgement(Verdict.SKIP, "; ".join(dict.fromkeys(reasons)))


def _against(claims: Iterable[Reading], doubts: Container[str]) -> list[Reading]:
    return [r for r in claims if not r.agrees and r.witness not in doubts]


def _doubts(claims: Iterable[Reading], readings: Sequence[Reading]) -> dict[str, str]:
    """Return the witnesses that made a claim but prove nothing, with the reason."""
    speakers = dict.fromkeys(r.witness for r in claims)
    return {witness: why for witness in speakers if (why := doubt(witness, readings))}


def doubt(witness: str, readings: Sequence[Reading]) -> str:
    """Return why a witness proves nothing; "" if all its controls held."""
    controls = [r for r in readings if r.witness == witness and r.role is Role.CONTROL]
    if not controls:
        return f"{witness}: no control was run"
    broken = [r for r in controls if not r.agrees]
    if not broken:
        return ""
    remedies = dict.fromkeys(r.remedy for r in broken if r.remedy)
    return f"{witness}: control did not hold: {'; '.join([str(broken[0]), *remedies])}"


def _failed(against: Sequence[Reading]) -> str:
    first, more = against[0], len(against) - 1
    also = f" (and {more} more against)" if more else ""
    return f"{first.witness}: {first}{also}"


def _passed(
    claims: Sequence[Reading], figures: Sequence[Reading], absences: Sequence[Absence]
) -> str:
    parts = []
    for witness in dict.fromkeys(r.witness for r in claims):
        mine = [r for r in claims if r.witness == witness]
        more = f" (and {len(mine) - 1} more)" if len(mine) > 1 else ""
        parts.append(f"{witness}: {mine[0]}{more}")
    parts += [str(r) for r in figures[:_FIGURES_TOLD]]
    if len(figures) > _FIGURES_TOLD:
        parts.append(f"{len(figures) - _FIGURES_TOLD} more figures")
    parts += _not_asked(absences)
    return "; ".join(parts)


def _not_asked(absences: Sequence[Absence]) -> list[str]:
    return [f"not asked: {a.witness} ({a.missing.what})" for a in absences]


def _controlled(readings: Sequence[Reading]) -> list[str]:
    """Return the witnesses that have controls."""
    return list(dict.fromkeys(r.witness for r in readings if r.role is Role.CONTROL))


def _without_claims(readings: Sequence[Reading], absences: Sequence[Absence]) -> Judgement:
    doubts = [why for w in _controlled(readings) if (why := doubt(w, readings))]
    if doubts:
        return Judgement(Verdict.INCONCLUSIVE, "; ".join(doubts))
    figures = [r for r in readings if r.role is Role.MEASURE]
    if figures:
        parts = [*map(str, figures), *_not_asked(absences)]
        return Judgement(Verdict.MEASURED, "; ".join(parts))
    stopped = {a.witness for a in absences}
    silent = [w for w in _controlled(readings) if w not in stopped]
    if absences and not silent:
        return skip(f"{a.witness}: {a.missing}" for a in absences)
    mute = [f"{w}: no claim was made, though its controls held" for w in silent]
    parts = [*(mute or ["no witness looked"]), *_not_asked(absences), "report a bug of kvmtest"]
    return Judgement(Verdict.INCONCLUSIVE, "; ".join(parts))
