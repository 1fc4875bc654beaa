"""The page of kernels
===================

The page (docs/kernels.md) of the rows of a survey of kernels.
"""

from collections.abc import Iterator, Sequence

from kvmtest.judge import Verdict
from kvmtest.lab.survey import Surveyed
from kvmtest.properties import PROPERTIES

__all__ = ["DATA", "page"]

#: The file with the rows, which the page names.
DATA = "kernels.json"

_MARKS = {
    Verdict.PASS: "PASS",
    Verdict.FAIL: "**FAIL**",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.ERROR: "ERROR",
    Verdict.MEASURED: "MEASURED",
}
_DECIDED = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")


def page(rows: Sequence[Surveyed]) -> str:
    """Return the page: a table for each machine, a row for each kernel, the oldest first.

    A table has a column for each property that any of its rows decides.
    """
    rows = sorted(rows, key=lambda row: row.age)
    lines = [
        "# Kernels",
        "",
        f"Made by `kvmtest lab survey` from {DATA}: Debian's stock kernels in emulated machines. "
        "It proves the kernels' code and the suite, not a piece of hardware.",
        "",
        "A dagger marks a known defect, whose finding is named below. An empty field was not "
        "decided.",
    ]
    for heading in dict.fromkeys(row.heading for row in rows):
        lines += ["", f"## {heading}", "", *_table([r for r in rows if r.heading == heading])]
    findings = dict.fromkeys(f for row in rows for f in row.known_defects.items())
    if findings:
        lines += ["", "## Known defects", ""]
        lines += [f"* † `{name}`: [{finding}]({_link(finding)})" for name, finding in findings]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Surveyed]) -> Iterator[str]:
    columns = [p.id for p in PROPERTIES if any(row.verdicts.get(p.id) in _DECIDED for row in rows)]
    yield "| kernel | version | built | " + " | ".join(f"`{name}`" for name in columns) + " |"
    yield "|---|---|---|" + "---|" * len(columns)
    for row in rows:
        marks = [_mark(row, name) for name in columns]
        built = f"{row.release} | {row.debian_version or row.version} | {row.date or ''}"
        yield f"| {built} | {' | '.join(marks)} |"


def _mark(row: Surveyed, name: str) -> str:
    verdict = row.verdicts.get(name, "")
    mark = _MARKS.get(Verdict(verdict), "") if verdict else ""
    return f"{mark} †" if mark and name in row.known_defects else mark


def _link(finding: str) -> str:
    return finding.removeprefix("docs/")
