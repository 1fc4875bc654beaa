"""A run killed at any moment leaves the host as it was.

Three ways are mixed: the victim alone, so that its guardian must undo; the guardian too, so that
`kvmtest restore` must; and the victim while it undoes.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sigkill import (
    CHANGING,
    KNOBS,
    STARTING,
    UNDOING,
    Outcome,
    StandIn,
    Start,
    Way,
    change_everything,
    forked,
    kill_at_random,
    made,
    spans,
)

from kvmtest.host.journal import RECORD, Journal
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
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with made(Tree(tmp_path)) as stand_in:
        yield stand_in


def check_kills(
    start: Start, stand_in: StandIn, kills: int, seed: int, ways: Sequence[Way], attempts: int
) -> list[Outcome]:
    """Kill ``kills`` victims in all ways; each time the host must be as it was before."""
    rng = random.Random(seed)
    before = stand_in.state()
    seconds = spans(start, stand_in)
    assert stand_in.state() == before, "not even an undisturbed victim undoes its changes"
    outcomes: list[Outcome] = []
    met: Counter[str] = Counter()
    for attempt in range(attempts):
        way = ways[len(outcomes) % len(ways)]
        outcome = kill_at_random(start, stand_in, way, seconds[way.phase], rng)
        where = f"seed {seed}, attempt {attempt}, kill {len(outcomes)}: {way.name}"
        assert stand_in.state() == before, where
        assert not stand_in.tree.exists(RECORD), where
        # Other work on the machine changes how long a victim takes: the kills follow it.
        seconds[way.phase] *= 0.9 if outcome is None else 1.02
        if outcome is None:
            continue
        outcomes.append(outcome)
        met[way.name] += bool(outcome.differed)
        if len(outcomes) == kills:
            break
    assert len(outcomes) == kills, f"most victims ended before their kill (seed {seed})"
    for way in ways:
        # Else the kills came where there was nothing to undo.
        share = met[way.name] * len(ways) / kills
        assert share >= way.least, (
            f"seed {seed}: {way.name}: only {share:.0%} of the kills met a change"
        )
    return outcomes


def test_a_run_killed_at_any_moment_leaves_the_host_as_it_was(stand_in: StandIn) -> None:
    start = forked(lambda tell: change_everything(stand_in, tell))
    outcomes = check_kills(start, stand_in, KILLS, SEED, WAYS, 3 * KILLS)
    assert sum(outcome.entries > 0 for outcome in outcomes) > KILLS / 2
    changed = Counter(name for outcome in outcomes for name in outcome.differed)
    never = {"cpus"} if len(os.sched_getaffinity(0)) == 1 else set()
    assert set(stand_in.state()) - set(changed) <= never, "some kinds of change met no kill"


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
