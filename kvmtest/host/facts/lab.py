"""Lab
====

Whether this machine is a lab's emulated one. The lab's init sets KVMTEST_LAB in the environment: a
JSON object that names the emulator and what it can't show.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmtest.errors import EnvironmentUnfit

__all__ = ["VARIABLE", "LabFacts"]

VARIABLE = "KVMTEST_LAB"


@dataclass(frozen=True, slots=True)
class LabFacts:
    """An emulated machine: emulator, its version, the CPU model.

    ``lacks`` has a reason for each precondition (a row of kvmtest.checks.preconditions) that the
    machine seems to meet and does not. ``details`` are further facts for evidence: digests of the
    image and the kernel, the command line, whether the machine was restored.
    """

    emulator: str
    model: str
    version: str
    lacks: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str | int] = field(default_factory=dict)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "LabFacts | None":
        """Return the facts in ``environment``, or None; raises EnvironmentUnfit for nonsense."""
        text = environment.get(VARIABLE)
        if text is None:
            return None
        try:
            lab = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise _unfit(str(error)) from None
        texts = (lab.emulator, lab.model, lab.version)
        if not all(isinstance(each, str) and each for each in texts):
            raise _unfit("emulator, model and version are texts")
        if not isinstance(lab.lacks, dict) or not all(
            isinstance(reason, str) and reason for reason in lab.lacks.values()
        ):
            raise _unfit("lacks is an object of reasons")
        if not isinstance(lab.details, dict) or not all(
            isinstance(fact, str | int) for fact in lab.details.values()
        ):
            raise _unfit("details is an object of texts and numbers")
        return lab


def _unfit(problem: str) -> EnvironmentUnfit:
    what = " ".join(problem.split())
    return EnvironmentUnfit(f"{VARIABLE} in the environment is no lab ({what}); unset it")
