"""KTAP
====

The kernel's test format (Documentation/dev-tools/ktap.rst), for the kernel's own parser
(tools/testing/kunit) and others. A property is one line, without subtests, as parsers count
the leaves; diagnostic lines before it explain the result. An undecided property is SKIP, a known
defect XFAIL, as kselftest.h prints it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from kvmtest.errors import printable
from kvmtest.evidence import Result
from kvmtest.evidence.counting import is_excused
from kvmtest.findings import reference
from kvmtest.judge import Verdict

from .telling import RUN, telling, would_be_seen

__all__ = ["ktap"]

# kunit_parser.py takes the first for a heading at the beginning of a diagnostic line (TEST_HEADER),
# the others for the end of the output anywhere (KTAP_END).
_MARKERS = re.compile("(^Subtest|List of all partitions|not syncing: VFS|reboot):")


def ktap(
    results: Sequence[Result],
    machine: str = "",
    *,
    strict: bool = False,
    facts: Mapping[str, str] | None = None,
    problem: str = "",
) -> str:
    """Return the results as KTAP, one test each; a known defect is XFAIL unless ``strict``.

    ``machine`` and ``facts`` (:func:`~kvmtest.report.heading.facts`) become diagnostic lines in the
    head. ``problem`` is the problem of the run itself
    (:func:`~kvmtest.evidence.counting.run_problem`): one more test, which fails.
    """
    about = {**({"machine": machine} if machine else {}), **(facts or {})}
    lines = ["KTAP version 1", f"1..{len(results) + bool(problem)}"]
    lines += _diagnostics(f"{name}: {fact}" for name, fact in about.items())
    for number, result in enumerate(results, 1):
        lines += [*_diagnostics(_why(result, strict)), _line(number, result, strict)]
    if problem:
        lines += [*_diagnostics(iter([problem])), f"not ok {len(results) + 1} {RUN}"]
    return "\n".join(lines) + "\n"


def _line(number: int, result: Result, strict: bool) -> str:
    # No parser has an escape for # in a name.
    name = _plain(result.id).replace("#", "-")
    match result.verdict:
        case Verdict.PASS:
            return f"ok {number} {name}"
        case Verdict.FAIL if is_excused(result, strict=strict):
            known = f"known defect, {reference(result.known_defect)}"
            return f"ok {number} {name} # XFAIL {_directive(known)}"
        case Verdict.FAIL:
            return f"not ok {number} {name}"
        case Verdict.ERROR:
            return f"not ok {number} {name} # ERROR {_directive(result.reason)}"
        case Verdict.SKIP:
            return f"ok {number} {name} # SKIP {_directive(result.reason)}"
        case _:
            reason = _directive(result.reason)
            return f"ok {number} {name} # SKIP {result.verdict}: {reason}"


def _why(result: Result, strict: bool) -> Iterator[str]:
    """Give the diagnostic lines before a result's line, which has no room for them."""
    known = result.known_defect and reference(result.known_defect)
    if result.verdict is Verdict.FAIL:
        yield result.reason
        if known and strict:
            yield f"known defect, {known}"
    if result.verdict is Verdict.PASS and known:
        yield f"a known defect does not show: {known}"
    yield from telling(result)
    if seen := would_be_seen(result):
        yield seen


def _diagnostics(texts: Iterator[str]) -> Iterator[str]:
    return (f"# {_plain(text)}" for text in texts)


def _directive(text: str) -> str:
    """Return text to follow a directive, with # escaped: "# SKIP" would be a directive."""
    return _plain(text).replace("#", r"\#")


def _plain(text: str) -> str:
    """Return text on one line, without any marker that parsers act on."""
    return _MARKERS.sub(r"\1\\:", printable(" ".join(text.split())))
