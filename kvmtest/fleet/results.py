"""The results of a fleet
======================

The folder that a plan's runs leave, and what it says of each lane.

    DIR/plan.yaml                     the plan
    DIR/fleet.json                    its digest, the folder that its paths are relative to, a token
    DIR/HOST/ledger.jsonl             what was done with a host
    DIR/HOST/KERNEL/ledger.jsonl      the same of a lab machine, which has a lane for each kernel
    DIR/HOST/KERNEL/N/evidence.json   a run; where this file stands, the run is done
"""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kvmtest import __version__, named_file
from kvmtest.disk import sync
from kvmtest.errors import EnvironmentUnfit, UsageError, printable
from kvmtest.evidence import Evidence, load, save
from kvmtest.evidence.file import EVIDENCE, write_whole
from kvmtest.target import Outcome, TargetFailed

from .course import Course, Fact, Resumed, Run
from .folder_lock import LOCK
from .ledger import LEDGER, Ledger, entries
from .plan import Plan, parse
from .tasks import Lane, Task, TaskKey, lanes

__all__ = ["LaneRecord", "Results", "require_new"]

PLAN, ABOUT = "plan.yaml", "fleet.json"
SCHEMA = "kvmtest-fleet/1"

_MOST = named_file.MIB
#: The most characters kept of a kernel log and of a console.
_LONGEST_LOG = 16 * named_file.MIB

Kept = Callable[[Evidence, Path], str]
"""What is done with evidence that was kept in a folder; returns words about it."""


@dataclass(frozen=True)
class Results:
    """A folder of results; only whoever holds its lock writes to it."""

    folder: Path
    plan: Plan
    token: str
    """Makes the names of this fleet's jobs differ from those of all others."""

    @classmethod
    def create(cls, folder: Path, plan: Plan) -> "Results":
        """Make a new folder, or use an empty one; raises UsageError, EnvironmentUnfit."""
        require_new(folder)
        about = {
            "schema": SCHEMA,
            "kvmtest": __version__,
            "plan": plan.digest,
            "folder": str(plan.path.parent.absolute()),
            "token": secrets.token_hex(6),
        }
        write_whole(folder / PLAN, plan.text)
        write_whole(folder / ABOUT, json.dumps(about, indent=1) + "\n")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Results":
        """Read the folder of a fleet; raises EnvironmentUnfit, PlanError."""
        try:
            about = json.loads(named_file.read(folder / ABOUT, _MOST))
            text = named_file.read(folder / PLAN, _MOST).decode()
            schema, digest, base, token = (
                str(about[name]) for name in ("schema", "plan", "folder", "token")
            )
        except OSError as error:
            problem = error.strerror or str(error)
            raise EnvironmentUnfit(
                f"{folder}: {problem}; name a folder that kvmtest fleet run made"
            ) from None
        except (ValueError, TypeError, LookupError, RecursionError):
            raise EnvironmentUnfit(f"{folder / ABOUT}: this is not what it was") from None
        if schema != SCHEMA:
            raise EnvironmentUnfit(f"{folder}: its schema is {schema}; this kvmtest has {SCHEMA}")
        plan = parse(text, folder / PLAN, Path(base))
        if plan.digest != digest:
            raise UsageError(
                f"{folder / PLAN} was changed since the fleet began; "
                "give the new plan to kvmtest fleet run with another -o DIR"
            )
        return cls(folder, plan, token)

    @cached_property
    def lanes(self) -> list[Lane]:
        """The plan's lanes."""
        return lanes(self.plan)

    @property
    def tasks(self) -> Iterator[tuple[Lane, Task]]:
        """All tasks, in the order of the lanes."""
        return ((lane, task) for lane in self.lanes for task in lane.tasks)

    def run_folder(self, lane: Lane, key: TaskKey) -> Path:
        """Return the folder of a run."""
        kernel, number = key
        return self.folder / lane.host.name / kernel / str(number)

    def evidence(self, lane: Lane, key: TaskKey) -> Path:
        """Return where the evidence of a run stands, or will stand."""
        return self.run_folder(lane, key) / EVIDENCE

    def ledger(self, lane: Lane) -> Path:
        """Return the ledger of a lane."""
        return self.folder / lane.folder / LEDGER

    def course(self, lane: Lane) -> Course:
        """Return where a lane stands, by its ledger; raises EnvironmentUnfit."""
        return self._course(lane, [entry.fact for entry in entries(self.ledger(lane))])

    def _course(self, lane: Lane, facts: list[Fact]) -> Course:
        try:
            return Course.of(lane.tasks, facts)
        except (ValueError, LookupError):
            raise EnvironmentUnfit(
                f"{self.ledger(lane)} does not fit the plan; it was changed, or is another fleet's"
            ) from None

    def kept(self, lane: Lane, course: Course) -> dict[TaskKey, int]:
        """Return the exit status of each run of a lane whose evidence stands there.

        Raises EvidenceUnreadable for evidence that the ledger does not know and that is none.
        """
        found = {}
        for task in lane.tasks:
            path = self.evidence(lane, task.key)
            if path.exists():
                known = course.done.get(task.key)
                found[task.key] = load(path).exit_status if known is None else known
        return found

    def job_id(self, step: Run) -> str:
        """Return the name of a job on its host."""
        return f"{self.token}.{step.kernel}.{step.number}.{step.attempt}"


def require_new(folder: Path) -> None:
    """Create a folder, or take an empty one; raises UsageError otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"-o {folder}: {error.strerror}; choose another folder") from None
    if ABOUT in held:
        raise UsageError(f"-o {folder}: it holds a fleet's results; kvmtest fleet resume {folder}")
    # What a fleet command leaves that was killed before it began.
    held = {name for name in held if name not in (PLAN, LOCK) and not name.startswith(f".{PLAN}.")}
    held = {name for name in held if not name.startswith(f".{ABOUT}.")}
    if held:
        raise UsageError(f"-o {folder}: it holds files ({min(held)}); choose a new folder")


class LaneRecord:
    """What one lane leaves in the results: its ledger, its runs (kvmtest.fleet.drive.Record)."""

    def __init__(self, results: Results, lane: Lane, on_kept: Kept) -> None:
        """Open the lane's ledger to go on with it; raises EnvironmentUnfit."""
        self._results = results
        self._lane = lane
        self._on_kept = on_kept
        path = results.ledger(lane)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(path)
        told = results._course(lane, [entry.fact for entry in self._ledger.entries])
        self.course = told.resumed(results.kept(lane, told))
        if self._ledger.entries:
            self.note(Resumed())

    def note(self, fact: Fact) -> None:
        """Write a fact down."""
        self._ledger.write(fact)

    def job_id(self, step: Run) -> str:
        """Return the name of the job of a run."""
        return self._results.job_id(step)

    def keep(self, step: Run, outcome: Outcome) -> tuple[int, str]:
        """Keep what a run left, evidence last; return its exit status, and words about it.

        Raises EvidenceUnreadable for what does not fit the schema, TargetFailed where kvmtest ended
        otherwise than its evidence says, EnvironmentUnfit where it can't be written.
        """
        evidence = outcome.evidence
        if outcome.exit_status != evidence.exit_status:
            raise TargetFailed(
                f"kvmtest ended with status {outcome.exit_status}, and its evidence says "
                f"{evidence.exit_status}: something went wrong after it was written",
                outcome.console,
            )
        folder = self._folder(step)
        log = outcome.files.get("kernel.log", b"")[:_LONGEST_LOG].decode(errors="replace")
        write_whole(folder / "kernel.log", printable(log, "\n\t"))
        write_whole(folder / "console.log", _shown(outcome.console))
        words = self._on_kept(evidence, folder)
        save(evidence, folder / EVIDENCE)
        sync(folder)
        return evidence.exit_status, words

    def keep_console(self, step: Run, console: str) -> None:
        """Keep what the target of a run without evidence printed."""
        if console:
            name = f"console-{step.attempt}.log"
            write_whole(self._folder(step) / name, _shown(console))

    def _folder(self, step: Run) -> Path:
        folder = self._results.run_folder(self._lane, (step.kernel, step.number))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentUnfit(f"can't make {folder}: {error.strerror}") from None
        return folder

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def __enter__(self) -> "LaneRecord":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def _shown(console: str) -> str:
    return printable(console[-_LONGEST_LOG:], "\n\t")
