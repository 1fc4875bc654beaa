"""KTAP
====

The kernel's test format (Documentation/dev-tools/ktap.rst). What decides nothing is SKIP.
"""

from collections.abc import Sequence

from kvmtest.evidence import Result
from kvmtest.judge import Verdict

__all__ = ["ktap"]


def ktap(results: Sequence[Result], machine: str = "", *, strict: bool = False) -> str:
    """Return the results as KTAP, one test each; a known defect is XFAIL unless ``strict``.

    ``machine`` says in a diagnostic line where they were had.
    """
    lines = ["KTAP version 1", f"1..{len(results)}"]
    if machine:
        lines.append(f"# machine: {machine}")
    lines += [_line(number, result, strict) for number, result in enumerate(results, 1)]
    return "\n".join(lines) + "\n"


def _line(number: int, result: Result, strict: bool) -> str:
    words = " ".join(result.reason.split())
    reason = "".join(c if c.isprintable() else "\ufffd" for c in words)
    match result.verdict:
        case Verdict.PASS:
            return f"ok {number} {result.id}"
        case Verdict.FAIL if result.known_defect and not strict:
            known = f"known defect, {result.known_defect}"
            return f"# {reason}\nnot ok {number} {result.id} # XFAIL {known}"
        case Verdict.FAIL:
            return f"# {reason}\nnot ok {number} {result.id}"
        case Verdict.ERROR:
            return f"not ok {number} {result.id} # ERROR {reason}"
        case Verdict.SKIP:
            return f"ok {number} {result.id} # SKIP {reason}"
        case _:
            return f"ok {number} {result.id} # SKIP {result.verdict}: {reason}"
