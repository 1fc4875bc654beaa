"""The judge
=========

Pure functions from readings to verdicts; nothing here touches the machine.
"""

from .readings import Absence, Reading, Role, Scalar, Verdict, claim, control, measure
from .rules import Judgement, judge, readings_against, skip, witnesses_against

__all__ = [
    "Absence",
    "Judgement",
    "Reading",
    "Role",
    "Scalar",
    "Verdict",
    "claim",
    "control",
    "judge",
    "measure",
    "readings_against",
    "skip",
    "witnesses_against",
]
