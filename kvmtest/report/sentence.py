"""Sentence
========

How a run ended, in one sentence that begins with a word for its verdict, and how many properties
have which verdict.
"""

import signal
from collections import Counter
from collections.abc import Iterable

from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import PASSED, SIGNALLED, UNDECIDED, fails, is_excused
from kvmtest.judge import Verdict

__all__ = ["OF_VMX", "number_of", "one_line", "sentence", "summary"]

#: How the ids of the properties of VMX begin.
OF_VMX = ("vmx.", "nvmx.")

#: PASSes that together show the fix at work.
_FIX_WORKS = {"vmx.entry.fresh", "vmx.entry.toggled"}


def one_line(evidence: Evidence, status: int | None = None) -> str:
    """Return the sentence and the exit status, which is ``status`` if not the evidence's."""
    end = evidence.exit_status if status is None else status
    return f"{sentence(evidence)} (exit {end})"


def sentence(evidence: Evidence) -> str:
    """Return the run's end in one sentence, which begins with a word for its verdict."""
    kernel = _kernel(evidence)
    results = evidence.results
    counted = [r for r in results if fails(r, strict=evidence.strict)]
    failed = sum(r.verdict is Verdict.FAIL for r in counted)
    passed = {r.id for r in results if r.verdict is Verdict.PASS}
    if evidence.kvmtest.interrupted:
        undone = "NOT as it was" if evidence.journal.failures else "as it was"
        return f"INTERRUPTED: {_signal(evidence)} stopped the run on {kernel}; the host is {undone}"
    if failed:
        return f"FAIL: {_failed(results, failed, kernel)}"
    if counted:
        return f"ERROR: {number_of(len(counted), 'check')} broke on {kernel}"
    if evidence.exit_status not in (PASSED, UNDECIDED):
        return f"ERROR: the run on {kernel} had a problem besides its verdicts"
    if not passed:
        known = any(r.is_known_failure for r in results)
        shows = f"{kernel} shows nothing but a known defect"
        return f"UNDECIDED: {shows if known else f'nothing was decided in {kernel}'}"
    return f"PASS: {_passed(results, passed, kernel)}"


def _failed(results: Iterable[Result], failed: int, kernel: str) -> str:
    fix = {r.verdict for r in results if r.id == "kernel.fix-present"}
    if Verdict.FAIL in fix:
        return f"{kernel} lacks the fix"
    broken = f"{number_of(failed, 'property', 'properties')} {'fails' if failed == 1 else 'fail'}"
    return f"{broken} in {kernel}{', which has the fix' if Verdict.PASS in fix else ''}"


def _passed(results: Iterable[Result], passed: set[str], kernel: str) -> str:
    if passed >= _FIX_WORKS:
        return f"the fix works in {kernel}"
    if "svm.flag-never" in passed:
        return f"KVM for AMD loads no host bit in {kernel}"
    wanted = any(r.id.startswith(OF_VMX) for r in results)
    none = wanted and not any(name.startswith(OF_VMX) for name in passed)
    return f"{_hold(len(passed))} in {kernel}{', none of them of VMX' * none}"


def summary(evidence: Evidence) -> str:
    """Return how many there are of each verdict: "3 pass, 1 known defect, 29 not decided".

    Known defects are apart from what fails unless the run is strict.
    """
    known = sum(is_excused(r, strict=evidence.strict) for r in evidence.results)
    counts = Counter(r.verdict for r in evidence.results)
    counts[Verdict.FAIL] -= known
    order = (v for v in Verdict if v is not Verdict.SKIP)
    said = [f"{counts[v]} {v.lower()}" for v in order if counts[v]]
    said += [number_of(known, "known defect")] * bool(known)
    said += [f"{counts[Verdict.SKIP]} not decided"] * bool(counts[Verdict.SKIP])
    return ", ".join(said) or "no property was run"


def number_of(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 change", "2 changes"."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def _signal(evidence: Evidence) -> str:
    """Return the name of the signal that ended a run, by its exit status."""
    try:
        return signal.Signals(evidence.exit_status - SIGNALLED).name
    except ValueError:
        return "a signal"


def _kernel(evidence: Evidence) -> str:
    release = evidence.kernel.release
    return f"Linux {release}" if release else "an unknown kernel"


def _hold(count: int) -> str:
    return f"{number_of(count, 'property', 'properties')} {'holds' if count == 1 else 'hold'}"
