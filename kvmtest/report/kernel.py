"""Kernel inspection
=================

What was found of the series in each kernel, in words and as JSON: first whether the fix is in it,
then a line for each commit, then what to backport.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmtest.errors import printable
from kvmtest.kernels.parts import KernelParts
from kvmtest.kernels.series import FIX, Evidence, Finding, State, advice, finding_of

__all__ = ["as_json", "show"]

_SHORT = {Evidence.CODE: "code"}
_STYLES = {State.PRESENT: "green", State.ABSENT: "bold red", State.UNKNOWN: "yellow"}


def show(
    screen: Console, parts: KernelParts, findings: Sequence[Finding], *, verbose: bool = False
) -> None:
    """Print the conclusion, the kernel, a line for each commit, and the advice.

    With ``verbose`` each commit has its subject and what was seen of it.
    """
    fix = finding_of(FIX, findings)
    conclusion = Text(_filled(screen, f"{fix.state}: {_conclusion(parts, findings)}"))
    conclusion.stylize(_STYLES[fix.state], 0, len(fix.state) + 1)
    screen.print(conclusion, soft_wrap=True)
    screen.print(Text(_filled(screen, _kernel(parts)), "dim"), soft_wrap=True)
    if verbose or any(finding.state is not State.UNKNOWN for finding in findings):
        screen.print(_commits(findings, verbose))
    # An unknown fix is unknown for the first of them, which the conclusion has.
    lacks = parts.lacks[1:] if fix.state is State.UNKNOWN else parts.lacks
    for line in (*(f"Not examined: {each}" for each in lacks), advice(findings, parts.version)):
        screen.print(Text(_filled(screen, line)), soft_wrap=True)


def as_json(parts: KernelParts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return one kernel and what was found in it, as ``kernel inspect --json`` prints it."""
    return {
        "target": parts.name,
        "origin": parts.origin,
        "release": parts.release or None,
        "version": ".".join(map(str, parts.version)) if parts.version else None,
        "package": parts.package or None,
        "commit": parts.commit or None,
        "fix": finding_of(FIX, findings).state,
        "commits": [
            {
                "id": finding.commit.id,
                "subject": finding.commit.subject,
                "in_version": finding.commit.in_version,
                "state": finding.state,
                "evidence": list(finding.evidence),
                "observation": finding.observation or None,
                "unneeded": finding.unneeded or None,
            }
            for finding in findings
        ],
        "advice": advice(findings, parts.version),
        "lacks": list(parts.lacks),
    }


def _conclusion(parts: KernelParts, findings: Sequence[Finding]) -> str:
    kernel = parts.release or parts.name
    fix = finding_of(FIX, findings)
    if fix.state is State.UNKNOWN:
        why = parts.lacks[0] if parts.lacks else fix.observation or "there is no file of KVM"
        return f"whether {kernel} has the fix can't be seen: {why}"
    if fix.state is State.ABSENT:
        return f"{kernel} lacks the fix: {fix.observation}"
    missing = [finding.commit.id for finding in findings if finding.is_missing]
    lacks = f", and lacks {', '.join(missing)}" if missing else ""
    return f"{kernel} has the fix, by its {' and '.join(fix.evidence)}{lacks}"


def _kernel(parts: KernelParts) -> str:
    version = "Linux " + ".".join(map(str, parts.version)) if parts.version else ""
    commit = f"commit {parts.commit}" if parts.commit else ""
    return ", ".join(filter(None, (version, commit, parts.package or parts.origin)))


def _commits(findings: Sequence[Finding], verbose: bool) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    for no_wrap in (True, True, False, True):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    for finding in findings:
        commit = finding.commit
        state = Text(finding.state, style="" if finding.unneeded else _STYLES[finding.state])
        if verbose:
            subject = f"{commit.subject} (in {commit.in_version})"
            table.add_row(state, commit.id, Text(subject))
            table.add_row("", "", Text(printable(_seen(finding)), "dim"))
        else:
            table.add_row(state, commit.id, Text(commit.what), Text(_evidence(finding)))
    return table


def _evidence(finding: Finding) -> str:
    if finding.unneeded:
        return "not needed"
    return ", ".join(_SHORT.get(each, each) for each in finding.evidence) or "not seen"


def _seen(finding: Finding) -> str:
    """Return what was looked at, what was seen there, and why the commit is not needed."""
    seen = ": ".join(filter(None, (", ".join(finding.evidence), finding.observation)))
    return "; ".join(filter(None, (seen or "not seen", finding.unneeded)))


def _filled(screen: Console, text: str) -> str:
    """Return a text in lines, without breaking a word such as a path."""
    return textwrap.fill(
        printable(text), screen.width, break_long_words=False, break_on_hyphens=False
    )
