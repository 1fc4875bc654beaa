"""The witness klog
================

Reads the reports of trouble in the kernel log, of the whole run or since a moment in it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Self

from kvmtest.checks.context import RunLog
from kvmtest.host.changes.clear_warn_once import EarlierWarnings
from kvmtest.host.observe.kernel_log import LogSlice, Position, Trouble, troubles
from kvmtest.judge import Reading, claim, control, measure

__all__ = ["LogWitness", "log_controls"]


class LogWitness:
    """Sees trouble since its opening, and of what is reported once a boot, trouble before it.

    A WARN_ON_ONCE that an earlier check of this run caused stays silent afterwards, so that
    reports whose lines match ``own`` count from the run's beginning on. ``words`` puts a line into
    words, where its numbers have some.
    """

    def __init__(
        self, run: RunLog, own: re.Pattern[str], words: Callable[[str], str], begin: Position
    ) -> None:
        self._run = run
        self._own = own
        self._words = words
        self._begin = begin

    @classmethod
    def open(
        cls, run: RunLog, own: re.Pattern[str], words: Callable[[str], str] = lambda line: line
    ) -> Self:
        """Return a witness of the log from now on; raises LogError."""
        return cls(run, own, words, run.log.here())

    def look(self, state: str) -> Iterator[Reading]:
        """Claim that no trouble was reported; the controls come with it. Raises LogError."""
        log = self._run.log
        later = troubles(log.since(self._begin).records)
        whole = log.since_marker()
        earlier = troubles(whole.records[: self._begin.records])
        found = [*(each for each in earlier if self._is_own(each)), *later]
        yield from log_controls(self._run, whole, speaks=bool(found))
        headlines = "; ".join(self._words(each.headline) for each in found[:3])
        yield claim("klog", f"warnings {state}", len(found), 0, headlines=headlines)

    def _is_own(self, trouble: Trouble) -> bool:
        return any(self._own.search(line) for line in trouble.lines)


def log_controls(run: RunLog, gained: LogSlice, *, speaks: bool) -> Iterator[Reading]:
    """Show that trouble since the run began would be in ``gained``; ``speaks``: some is.

    A warning is its own proof: the other controls matter for a silent log alone.
    """
    if speaks:
        yield control("klog", "the warnings, read from the log", True, True, "")
        return
    proof = "seen" if run.marker.unproven is None else str(run.marker.unproven)
    remedy = "run as root, so that a mark can be written to /dev/kmsg"
    yield control("klog", "the run's own mark in the log", proof, "seen", remedy)
    remedy = "boot with a larger log_buf_len"
    yield control("klog", "lines lost since the mark", gained.lost, 0, remedy)
    yield from _would_warn_again(run.before)


def _would_warn_again(before: EarlierWarnings | None) -> Iterator[Reading]:
    """Show that a WARN that fires once a boot would still show in the log."""
    if before is None:
        return
    why = before.not_cleared
    proof, remedy = "yes", ""
    if why and not before.none_fired:
        proof = f"unknown, as one may have fired before the run, and {why.what}"
        remedy = why.remedy
    what = "a WARN that fires once a boot would show"
    yield control("klog", what, proof, "yes", f"{remedy}, or boot anew" if remedy else "boot anew")
    if not before.none_fired and why is None:
        limit = "their once was given back, up to Linux 6.12 not to those of modules with own words"
        yield measure("klog", "WARNs may have fired before the run", limit)
