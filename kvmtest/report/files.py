"""KTAP and JUnit of evidence
==========================

The reports beside evidence.json, made from the evidence alone.
"""

from kvmtest.evidence import Evidence
from kvmtest.evidence.counting import run_problem

from .heading import facts, machine_words
from .junit import NOTHING_ATTACHED, Attachments, junit
from .ktap import ktap

__all__ = ["junit_of", "ktap_of"]


def ktap_of(evidence: Evidence, hostname: str = "", *, subtests: bool = False) -> str:
    """Return a run as KTAP; ``hostname`` is used if the evidence has none.

    ``subtests``: each reading is a test of its own.
    """
    return ktap(
        evidence.results,
        machine_words(evidence),
        strict=evidence.strict,
        facts=facts(evidence, hostname),
        problem=run_problem(evidence),
        subtests=subtests,
    )


def junit_of(
    evidence: Evidence, hostname: str = "", attachments: Attachments = NOTHING_ATTACHED
) -> str:
    """Return a run as JUnit; ``hostname`` is used if the evidence has none."""
    known = facts(evidence, hostname)
    return junit(
        evidence.results,
        known.get("hostname", ""),
        machine_words(evidence),
        strict=evidence.strict,
        facts=known,
        problem=run_problem(evidence),
        attachments=attachments,
    )
