"""KTAP
====

The kernel's test format (Documentation/dev-tools/ktap.rst), for the kernel's own parser
(tools/testing/kunit) and others. A property is one line; diagnostic lines before it explain the
result. An undecided property is SKIP, a known defect XFAIL, as kselftest.h prints it.

With subtests each reading is one, and the verdict the last of them: parsers count the leaves
alone. A subtest fails only if it is a reading behind a FAIL that counts, or its verdict; a control
that did not hold is SKIP.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from kvmtest.errors import printable
from kvmtest.evidence import Result
from kvmtest.evidence.counting import fails, is_excused
from kvmtest.findings import reference
from kvmtest.judge import Reading, Role, Verdict, witnesses_against

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
    subtests: bool = False,
) -> str:
    """Return the results as KTAP, one test each; a known defect is XFAIL unless ``strict``.

    ``machine`` and ``facts`` (:func:`~kvmtest.report.heading.facts`) become diagnostic lines in the
    head. ``problem`` is the problem of the run itself
    (:func:`~kvmtest.evidence.counting.run_problem`): one more test, which fails.
    ``subtests``: a property with readings has each of them as a subtest.
    """
    about = {**({"machine": machine} if machine else {}), **(facts or {})}
    lines = ["KTAP version 1", f"1..{len(results) + bool(problem)}"]
    lines += _diagnostics(f"{name}: {fact}" for name, fact in about.items())
    for number, result in enumerate(results, 1):
        lines += _diagnostics(_why(result, strict))
        if subtests and result.readings:
            lines += [f"  {line}" for line in _subtests(result, strict)]
        lines.append(_line(number, result.id, result, strict))
    if problem:
        lines += [*_diagnostics([problem]), f"not ok {len(results) + 1} {RUN}"]
    return "\n".join(lines) + "\n"


def _subtests(result: Result, strict: bool) -> Iterator[str]:
    """Give the readings of a result as tests, and its verdict as the last."""
    tested = [r for r in result.readings if r.role in (Role.CLAIM, Role.CONTROL)]
    against = witnesses_against(result.readings)
    yield "KTAP version 1"
    yield f"# Subtest: {_name(result.id)}"
    yield f"1..{len(tested) + 1}"
    yield from _diagnostics(f"{r.witness} measure: {r}" for r in _of(Role.MEASURE, result))
    if samples := sum(1 for _ in _of(Role.SAMPLE, result)):
        yield f"# {samples} samples are in evidence.json"
    seen: Counter[str] = Counter()
    for number, reading in enumerate(tested, 1):
        name = _name(f"{reading.witness} {reading.role}: {reading.what}")
        seen[name] += 1
        again = f" ({seen[name]})" if seen[name] > 1 else ""
        ok, directive = _outcome(reading, result, against, strict)
        yield f"{'ok' if ok else 'not ok'} {number} {name}{again}{directive}"
    yield _line(len(tested) + 1, "verdict", result, strict)


def _of(role: Role, result: Result) -> Iterator[Reading]:
    return (each for each in result.readings if each.role is role)


def _outcome(
    reading: Reading, result: Result, against: Container[str], strict: bool
) -> tuple[bool, str]:
    """Return whether a reading is ok, and the directive that says why it does not fail.

    ``against`` are the witnesses that speak against the claim.
    """
    if reading.agrees:
        return True, ""
    seen = _directive(str(reading).removeprefix(f"{reading.what}: "))
    if reading.role is Role.CONTROL:
        return True, f" # SKIP did not hold: {seen}"
    if reading.witness not in against:
        return True, f" # SKIP decides nothing: {seen}"
    if is_excused(result, strict=strict):
        return True, f" # XFAIL known defect: {seen}"
    # The diagnostic lines of the property have what was seen.
    return not fails(result, strict=strict), ""


def _line(number: int, test: str, result: Result, strict: bool) -> str:
    name = _name(test)
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


def _diagnostics(texts: Iterable[str]) -> Iterator[str]:
    return (f"# {_plain(text)}" for text in texts)


def _name(text: str) -> str:
    # No parser has an escape for # in a name.
    return _plain(text).replace("#", "-")


def _directive(text: str) -> str:
    """Return text to follow a directive, with # escaped: "# SKIP" would be a directive."""
    return _plain(text).replace("#", r"\#")


def _plain(text: str) -> str:
    """Return text on one line, without any marker that parsers act on."""
    return _MARKERS.sub(r"\1\\:", printable(" ".join(text.split())))
