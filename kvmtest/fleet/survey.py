"""A survey as a plan
==================

A survey's hosts are lab machines, and each of its kernels runs once in one or more of them: which
runs are still to be made, and the plan of these. A run leaves a row in place of a folder.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, KvmtestError
from kvmtest.kernels.offers import Offer
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.survey import (
    Key,
    Surveyed,
    SurveyMachine,
    basis_of,
    row_of,
    row_of_failure,
)
from kvmtest.lab.target import LabTarget
from kvmtest.parallel import Task
from kvmtest.target import Outcome

from . import lab_host
from .course import Course, Ended, Ending, Fact
from .course import Run as RunStep
from .drive import drive
from .host import KernelKind, PlannedKernel
from .lab_host import LabHost
from .plan import LabMachine, Plan, PlannedHost, PlannedRun
from .tasks import Lane, lanes

__all__ = ["Run", "fetching", "pending", "plan_of", "tasks"]

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One kernel in one machine; ``kernel`` is what --kernel takes."""

    kernel: str
    machine: SurveyMachine


def pending(
    offers: Iterable[Offer], machines: Sequence[SurveyMachine], rows: Mapping[Key, Surveyed]
) -> Iterator[Run]:
    """Give the runs of the kernels on offer that have no row of this kernel and this basis.

    A row without verdicts is made again.
    """
    for offer in offers:
        for machine in machines:
            row = rows.get(machine.key(offer.release))
            made_from = row and not row.failure and (row.debian_version, row.basis)
            if made_from != (offer.debian_version, machine.basis):
                yield Run(offer.release, machine)


def plan_of(runs: Sequence[Run]) -> Plan:
    """Return the plan of a survey; nothing in it is tried twice."""
    machines = {run.machine.options.machine: run.machine for run in runs}
    return Plan(
        {name: _host(name, machine) for name, machine in machines.items()},
        {run.kernel: _kernel(run.kernel) for run in runs},
        [
            PlannedRun(
                (run.machine.options.machine,), (run.kernel,),
                deadline=run.machine.job.deadline, retries=0,
            )
            for run in runs
        ],
    )  # fmt: skip


def _host(name: str, machine: SurveyMachine) -> PlannedHost:
    options = machine.options
    parameters = tuple(machine.job.parameters)
    reach = LabMachine(options.machine, options.cpus, options.cpu_features, parameters)
    return PlannedHost(name, reach, "lab")


def _kernel(name: str) -> PlannedKernel:
    if Path(name).exists():
        return PlannedKernel(name, KernelKind.TREE, paths=(Path(name),))
    return PlannedKernel(name, KernelKind.DEBIAN, name)


def tasks(runs: Sequence[Run]) -> list[Task[Surveyed]]:
    """Return the tasks that make the rows of runs, in their order."""
    plan = plan_of(runs)
    by_name = {(lane.tasks[0].kernel, lane.host.name): lane for lane in lanes(plan)}
    return [
        _task(plan, by_name[run.kernel, run.machine.options.machine], run.machine) for run in runs
    ]


def _task(plan: Plan, lane: Lane, machine: SurveyMachine) -> Task[Surveyed]:
    kernel = lane.tasks[0].kernel

    def do(show: OnText) -> Surveyed:
        def at_work(text: str) -> None:
            # What would stay on the screen is said of the row.
            if not text.endswith("\n"):
                show(text)

        row = _Row(machine, Course(lane.tasks))
        course = drive(row, plan.kernels, lambda: row.opened(lane, at_work), at_work)
        if row.made is None:
            (given_up,) = course.failed.values()
            raise EnvironmentUnfit(given_up.ended.why)
        return row.made

    return Task(f"{kernel} {lane.host.name}", do)


@dataclass
class _Row:
    """What is kept of a lane: a row (kvmtest.fleet.drive.Record)."""

    machine: SurveyMachine
    course: Course
    made: Surveyed | None = None
    _host: LabHost | None = field(default=None, init=False)

    @contextmanager
    def opened(self, lane: Lane, show: OnText) -> Iterator[LabHost]:
        reach = lane.host.reach
        assert isinstance(reach, LabMachine)
        with lab_host.opened(lane.host.name, reach, show, once=True) as self._host:
            yield self._host

    @property
    def _target(self) -> LabTarget | None:
        return self._host.target if self._host else None

    def note(self, fact: Fact) -> None:
        # A machine that fails has a row, too.
        if self._target and isinstance(fact, Ended) and fact.ending is Ending.FAILED:
            self._keep(row_of_failure(self._target, self.machine, fact.why))

    def job_id(self, step: RunStep) -> str:
        return ""

    def keep(self, step: RunStep, outcome: Outcome) -> tuple[int, str]:
        assert self._target
        name = self.machine.options.machine
        self._keep(row_of(self._target.kernel, name, outcome.evidence))
        return outcome.exit_status, ""

    def _keep(self, row: Surveyed) -> None:
        assert self._target
        # Of what ran: kvmtest may have changed since the survey began.
        self.made = replace(row, basis=basis_of(self._target))

    def keep_console(self, step: RunStep, console: str) -> None:
        """Keep nothing: the reason is in the row."""


def fetching(runs: Sequence[Run]) -> Task[None]:
    """Return the task that fetches and unpacks the kernels of ``runs`` one after the other.

    A kernel that a run needs meanwhile is fetched once: whoever comes later waits. An error is
    that of the run.
    """
    needed = {run.kernel: run.machine.emulator.modules for run in runs}

    def fetch(show: OnText) -> None:
        for kernel, modules in needed.items():
            with contextlib.suppress(KvmtestError, OSError):
                resolve([kernel], None, Cache.default(), show, modules)

    return Task("fetching", fetch)
