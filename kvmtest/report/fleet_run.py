"""Runs of a fleet
===============

One run of a plan: which host, which kernel, which of its repetitions, and what became of it. It has
the row of a matrix, or a word for why the host left no evidence.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kvmtest.fleet.gaps import WhyNot

from .matrix_run import LONGEST_LINE, MatrixRun, cut

__all__ = ["FleetRun", "by_host", "kernels", "with_evidence", "without"]


@dataclass(frozen=True, slots=True)
class FleetRun:
    """A run of a plan; ``host`` and ``kernel`` are the plan's names.

    ``gap`` says why there is no evidence, as ``run.failure`` does at length; "" where it stands.
    """

    host: str
    kernel: str
    number: int
    run: MatrixRun
    gap: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether a reader must see it."""
        return bool(self.gap) or self.run.is_wrong

    @property
    def is_unread(self) -> bool:
        """Whether its evidence stands there, and can't be read."""
        return bool(self.run.failure) and not self.gap

    @property
    def name(self) -> str:
        """The run's name: host, kernel, and its number among repetitions."""
        return f"{self.host}/{self.kernel}/{self.number}"


def without(host: str, kernel: str, number: int, why: WhyNot) -> FleetRun:
    """Return a run that has no evidence."""
    failure = cut(": ".join(filter(None, why)), LONGEST_LINE)
    return FleetRun(
        host, kernel, number, MatrixRun(host, kernel, "", "error", {}, failure=failure), why.gap
    )


def with_evidence(host: str, kernel: str, number: int, run: MatrixRun) -> FleetRun:
    """Return a run that has evidence; its row is called as the plan calls the host."""
    name = host if number == 1 else f"{host} {number}"
    return FleetRun(host, kernel, number, replace(run, name=name, machine=run.model))


def kernels(runs: Iterable[FleetRun]) -> list[str]:
    """Return the kernels' names in the order of their first runs."""
    return list(dict.fromkeys(each.kernel for each in runs))


def by_host(runs: Iterable[FleetRun]) -> dict[str, list[FleetRun]]:
    """Return each host's runs, hosts in the order of their first runs."""
    found: dict[str, list[FleetRun]] = {}
    for each in runs:
        found.setdefault(each.host, []).append(each)
    return found
