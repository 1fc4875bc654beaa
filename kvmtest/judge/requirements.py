"""Requirements
============

``--require``: what a runner must be able to decide, so that it can't go green by testing nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass

from .readings import Verdict
from .rules import Judgement

__all__ = ["Requirement", "enforce"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the user wrote, and the ids of the properties that it makes compulsory."""

    text: str
    properties: frozenset[str]


def enforce(
    property_id: str, judgement: Judgement, requirements: Collection[Requirement]
) -> Judgement:
    """Return FAIL for a required property that nobody decided, else the judgement as it is."""
    by = [r.text for r in requirements if property_id in r.properties]
    if not by or judgement.verdict not in (Verdict.SKIP, Verdict.INCONCLUSIVE):
        return judgement
    required = " ".join(f"--require {text}" for text in by)
    return Judgement(Verdict.FAIL, f"{required}, but {judgement.verdict}: {judgement.reason}")
