"""kvmtest replay
==============

Judges the readings of a recorded run again, so that a reader can check a verdict.
"""

import argparse

from .parser import Commands, add_command, add_evidence

__all__ = ["add"]

SAME, DIFFERENT = 0, 1


def add(commands: Commands) -> None:
    """Add the command."""
    words = "judge the readings of a recorded run again"
    epilog = "exit status: 0 the same verdicts, 1 some differ, 2 usage, 3 unreadable evidence"
    add_command(commands, "replay", run, words, add_evidence, epilog)


def run(options: argparse.Namespace) -> int:
    """Print recorded and new verdicts; return 0 if they are the same, 1 if some differ.

    Raises :class:`~kvmtest.evidence.EvidenceUnreadable`, or UsageError where the run required what
    this version does not know.
    """
    from kvmtest.evidence import EvidenceUnreadable, load
    from kvmtest.evidence.compare import compare_results
    from kvmtest.replay import replay
    from kvmtest.report.terminal import console, show_replay

    evidence = load(options.evidence)
    try:
        replayed = list(replay(evidence))
    except (ArithmeticError, KeyError, ValueError) as error:
        problem = f"a sample is broken or lacks {error}"
        raise EvidenceUnreadable(
            f"{options.evidence}: {problem}; copy it again, or run again"
        ) from None
    judged = {result.id for result in replayed}
    recorded = [result for result in evidence.results if result.id in judged]
    compared = compare_results(recorded, replayed)
    show_replay(console(), compared, replayed, len(evidence.results) - len(replayed))
    return DIFFERENT if any(each.is_changed for each in compared) else SAME
