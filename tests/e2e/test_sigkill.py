"""A run killed at any moment leaves the host as it was.

Three ways are mixed: the victim alone, so that its guardian must undo; the guardian too, so that
`kvmtest restore` must; and the victim while it undoes.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.sigkill import (
    CHANGING,
    KNOBS,
    STARTING,
    UNDOING,
    StandIn,
    Way,
    change_everything,
    check_kills,
    forked,
    made,
)

from kvmtest.host.changes.journal import Journal
from kvmtest.host.tree import Tree

SEED = 20250729
KILLS = 200

WAYS = (
    Way("victim while it starts its guardian", STARTING, least=0),
    Way("victim", CHANGING),
    Way("victim and guardian", CHANGING, guardian_too=True),
    Way("victim while it undoes", UNDOING),
    Way("victim while it undoes, and guardian", UNDOING, guardian_too=True),
)


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return made(Tree(tmp_path))


def test_a_run_killed_at_any_moment_leaves_the_host_as_it_was(stand_in: StandIn) -> None:
    start = forked(lambda tell: change_everything(stand_in, tell))
    outcomes = check_kills(start, stand_in, KILLS, SEED, WAYS, 3 * KILLS)
    assert sum(outcome.entries > 0 for outcome in outcomes) > KILLS / 2


def test_the_kills_find_a_victim_that_changes_the_host_without_the_journal(
    stand_in: StandIn,
) -> None:
    def cheat(tell: Callable[[bytes], object]) -> None:
        journal = Journal.open(stand_in.tree)
        knob = stand_in.tree.path(KNOBS[0])
        tell(CHANGING)
        for _ in range(50):
            knob.write_text("0\n")
            journal.write(KNOBS[1], "0")
        tell(UNDOING)
        knob.write_text("1\n")
        journal.close()

    with pytest.raises(AssertionError, match=f"seed {SEED}, attempt"):
        check_kills(forked(cheat), stand_in, KILLS, SEED, WAYS, 3 * KILLS)
