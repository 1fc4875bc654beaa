"""Measuring a labgrid target
==========================

One run of kvmtest on the kernel of a target's strategy, whose results are asked for one by one: how
pytest decides properties there.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from labgrid.strategy import StrategyError

from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.evidence import Result
from kvmtest.properties import Property
from kvmtest.run_options import RunOptions
from kvmtest.target import Outcome

from .strategy import KernelStrategy, Status

__all__ = ["Measurement"]


class Measurement:
    """A run that decides the ``chosen`` properties; it takes place when the first is asked for."""

    def __init__(self, strategy: object, options: RunOptions, chosen: Sequence[Property]) -> None:
        """Raise UsageError where the target's strategy is not ours, or it is to be a dry run."""
        if not isinstance(strategy, KernelStrategy):
            raise UsageError(
                f"with --lg-env properties are decided on the target, and {strategy} boots no "
                "kernel there; name a KernelStrategy in the environment file"
            )
        if options.dry_run:
            raise UsageError("a labgrid target can't be run dry; leave out --kvmtest-dry-run")
        self._strategy = strategy
        only = tuple(dict.fromkeys(prop.id for prop in chosen))
        self._words = replace(options, only=only, output=None).words()

    def decide(self, prop: Property) -> Result:
        """Return a property's result. Raises KvmtestError where the target was not measured."""
        for result in self.outcome.evidence.results:
            if result.id == prop.id:
                return result
        raise EnvironmentUnfit(f"{prop.id} was not decided on {self._strategy.target.name}")

    @property
    def outcome(self) -> Outcome:
        """What the run left. Raises KvmtestError where there is nothing."""
        found = self._measured
        if isinstance(found, KvmtestError):
            raise found
        return found

    @cached_property
    def _measured(self) -> Outcome | KvmtestError:
        try:
            self._strategy.transition(Status.measured, words=self._words)
        except StrategyError as error:
            cause = error.__cause__
            return cause if isinstance(cause, KvmtestError) else EnvironmentUnfit(str(cause))
        assert self._strategy.outcome is not None
        return self._strategy.outcome
