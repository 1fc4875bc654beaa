"""The command itself, killed at any moment, leaves the host as it was.

support/sigkill.py kills; here the victim is a whole `kvmtest run`, in a fork of this process, which
has all modules loaded.
"""

import gc
import os
from collections.abc import Callable, Container, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from support.sigkill import CHANGING, STARTING, UNDOING, StandIn, Way, check_kills, forked
from support.stand_in import KNOB, intel_host

import kvmtest.run  # noqa: F401 - so that the victims need not import it
from kvmtest.cli import main
from kvmtest.host.changes.journal import Journal

SEED = 20250731
KILLS = 200

WAYS = (
    Way("run while it starts", STARTING, least=0),
    Way("run that changes the host", CHANGING, least=0.1),
    Way("run that changes the host, and guardian", CHANGING, guardian_too=True, least=0.1),
    Way("run that undoes", UNDOING, least=0),
    Way("run that undoes, and guardian", UNDOING, guardian_too=True, least=0),
)

# So many that reading the MSRs takes longer than the rest of a run.
CPUS = 256


class Knob(StandIn):
    """A stand-in tree of which a run changes the knob alone."""

    def state(self) -> dict[str, object]:
        return {KNOB: self.tree.read(KNOB)}


@pytest.fixture(autouse=True)
def _frozen() -> Iterator[None]:
    """Keep the victims from collecting garbage, and so from copying, what this process has."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def host(tmp_path: Path) -> Knob:
    # What the run last writes is 1, so that there is something to undo to the end.
    return Knob(intel_host(tmp_path, cpus=CPUS, knob=0))


def victim(root: Path, tell: Callable[[bytes], object]) -> None:
    """Be `kvmtest run`, and tell when it first changes the host and when it first undoes.

    It undoes at the end of the check, which has a scope in the journal.
    """
    write, undo = Journal.write, Journal._undo
    undoing = False

    def telling_write(journal: Journal, name: str, value: str) -> None:
        if not journal.changes:
            tell(CHANGING)
        write(journal, name, value)

    def telling_undo(journal: Journal, after: int = 0, kept: Container[int] = ()) -> None:
        nonlocal undoing
        if not undoing:
            undoing = True
            tell(UNDOING)
        undo(journal, after, kept)

    Journal.write, Journal._undo = telling_write, telling_undo  # type: ignore[method-assign,assignment]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        status = main(["run", "--root", str(root), "--only", "host.knob-effective"])
    assert status == 4, "dead MSRs decide nothing"


def test_a_run_killed_at_any_moment_leaves_the_host_as_it_was(host: Knob) -> None:
    start = forked(lambda tell: victim(host.tree.root, tell))
    outcomes = check_kills(start, host, KILLS, SEED, WAYS, 2 * KILLS)
    assert sum(bool(outcome.differed) for outcome in outcomes) > KILLS / 10
