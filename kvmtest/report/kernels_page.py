"""The page of kernels
===================

The page (docs/kernels.md) of the rows of a survey. Neighbours that agree in all verdicts are one
group; what changes from group to group is said in words, and below is the table of all rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

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

_FIX, _FREEZE_BIT = "kernel.fix-present", "nvmx.vmcs12.freeze-bit"
_QUIRK = "nvmx.vmcs12.quirk-disabled"
#: What a kernel has gained where these properties are decided, and not before.
_FEATURES = {_QUIRK: "the vmcs12 quirk"}
_REFUSED = "docs/findings/bit-14-in-vmcs12-refused.md"

#: A row's marks by property, in the columns' order; "" where nothing was decided.
Marks = Mapping[str, str]


def page(rows: Sequence[Surveyed]) -> str:
    """Return the page: for each machine what changed from kernel to kernel, and a table.

    The oldest kernel is the first. A table has a column for each property that any of its rows
    decides.
    """
    rows = sorted(rows, key=lambda row: row.age)
    lines = [
        "# Kernels",
        "",
        f"Made by `kvmtest lab survey` from {DATA}: Debian's stock kernels in emulated machines. "
        "It proves the kernels' code and the suite, not a piece of hardware.",
        "",
        "Neighbours that agree in all verdicts are one line; a range never goes beyond a series, "
        "such as 6.12. `vmx.entry.*` are the properties of that family that the machine decides. "
        "A dagger marks a known defect, whose finding is named below. An empty field was not "
        "decided.",
    ]
    if not rows:
        lines += ["", "No kernel was surveyed yet."]
    machines = {
        heading: [row for row in rows if row.heading == heading]
        for heading in sorted({row.heading for row in rows})
    }
    for heading, of_machine in machines.items():
        lines += ["", f"## {heading}", "", *_story(of_machine)]
        if vmcs12 := list(_vmcs12(of_machine)):
            lines += ["", "### An L1 that sets bit 14 of its L2's DEBUGCTL", "", *vmcs12]
    findings = dict.fromkeys(f for row in rows for f in row.known_defects.items())
    if findings:
        lines += ["", "## Known defects", ""]
        lines += [f"* † `{name}`: [{finding}]({_link(finding)})" for name, finding in findings]
    for heading, of_machine in machines.items():
        lines += ["", f"## All kernels: {heading}", "", *_table(of_machine)]
    return "\n".join(lines) + "\n"


def _story(rows: Sequence[Surveyed]) -> Iterator[str]:
    """Give a line for each group of neighbours that agree, with what changed since the last."""
    columns = _columns(rows)
    known: Marks | None = None
    before = ""
    for (failure, _), members in groupby(rows, lambda row: (row.failure, _marks(row, columns))):
        group = list(members)
        now = _marks(group[0], columns)
        if failure:
            said = f"nothing was decided: {failure}"
        elif known is None:
            said = "; ".join(_all_of(now)) or "nothing was decided"
        else:
            said = "; ".join(_changes(known, now)) or f"as {before}"
        if not failure:
            known, before = now, _short(group[-1], rows)
        yield f"* {_ranges(group, rows)}: {said}"


def _vmcs12(rows: Sequence[Surveyed]) -> Iterator[str]:
    """Give a line for each group of neighbours that treat bit 14 in vmcs12 alike."""
    told = [row for row in rows if _of_l1(row)]
    for said, members in groupby(told, _of_l1):
        yield f"* {_ranges(list(members), rows)}: {said}"


def _of_l1(row: Surveyed) -> str:
    """Say what becomes of an L1 that sets bit 14 in vmcs12; "" where the row does not tell."""
    if row.verdicts.get(_FREEZE_BIT) not in _DECIDED:
        return ""
    if row.verdicts.get(_FIX) in _DECIDED:
        if row.verdicts[_FREEZE_BIT] != Verdict.PASS:
            return "is not treated as the kernel's capability says"
        if row.verdicts.get(_QUIRK) in _DECIDED:
            return "enters L2, which runs with the host's bit; userspace can disable the quirk"
        return f"can't enter L2, nor can userspace restore it ([{_REFUSED}]({_link(_REFUSED)}))"
    return "enters L2: the kernel has no rule for the bit"


def _columns(rows: Iterable[Surveyed]) -> list[str]:
    rows = list(rows)
    return [p.id for p in PROPERTIES if any(row.verdicts.get(p.id) in _DECIDED for row in rows)]


def _marks(row: Surveyed, columns: Iterable[str]) -> Marks:
    return {name: _mark(row, name) for name in columns}


def _all_of(marks: Marks) -> Iterator[str]:
    """Say which verdict each property has."""
    for mark in dict.fromkeys(marks.values()):
        if mark:
            names = [name for name, own in marks.items() if own == mark]
            yield f"{mark} {_folded(names, marks)}"


def _changes(old: Marks, new: Marks) -> Iterator[str]:
    """Say what changed, the properties with the same change together."""
    changes: dict[tuple[str, str], list[str]] = {}
    for name in new:
        if old[name] != new[name]:
            changes.setdefault((old[name], new[name]), []).append(name)
    for (was, is_now), names in changes.items():
        for feature in (_FEATURES[name] for name in names if name in _FEATURES):
            if not was:
                yield f"{feature} appears"
            elif not is_now:
                yield f"{feature} is gone"
        folded, several = _folded(names, new), len(names) > 1
        if not was:
            yield f"{folded} {'are' if several else 'is'} decided: {is_now}"
        elif not is_now:
            yield f"{folded} {'are' if several else 'is'} no longer decided (before: {was})"
        else:
            yield f"{folded} {'go' if several else 'goes'} from {was} to {is_now}"


def _folded(names: Sequence[str], columns: Iterable[str]) -> str:
    """Return names in words; a family, all of whose columns are named, by its prefix."""
    columns = list(columns)
    left, said = list(names), []
    while left:
        name = left[0]
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) + "." for length in range(1, len(parts)))
        family = [name]
        for prefix in prefixes:
            members = [each for each in columns if each.startswith(prefix)]
            if len(members) > 1 and set(members) <= set(left):
                family, name = members, f"{prefix}*"
                break
        left = [each for each in left if each not in family]
        said.append(f"`{name}`")
    return _listed(said)


def _ranges(group: Sequence[Surveyed], rows: Sequence[Surveyed]) -> str:
    """Name a group's kernels, by a range for each series."""
    ranges = []
    for _, members in groupby(group, lambda row: row.series):
        series = list(members)
        first, last = _short(series[0], rows), _short(series[-1], rows)
        ranges.append(f"**{first}**" if first == last else f"**{first} to {last}**")
    kernels = f" ({len(group)} kernels)" if len(group) > 1 else ""
    return f"{_listed(ranges)}{kernels}"


def _short(row: Surveyed, rows: Sequence[Surveyed]) -> str:
    """Name a kernel by its version, or by its release where kernels of its version disagree."""
    columns = _columns(rows)
    alike = {
        (each.failure, *_marks(each, columns).values())
        for each in rows
        if each.version == row.version
    }
    return row.version if len(alike) == 1 else row.release


def _listed(words: Sequence[str]) -> str:
    """Return words as a sentence has them: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _table(rows: Sequence[Surveyed]) -> Iterator[str]:
    columns = _columns(rows)
    yield "| kernel | version | built | " + " | ".join(f"`{name}`" for name in columns) + " |"
    yield "|---|---|---|" + "---|" * len(columns)
    for row in rows:
        marks = _marks(row, columns).values()
        built = f"{row.release} | {row.debian_version or row.version} | {row.date or ''}"
        yield f"| {built} | {' | '.join(marks)} |"


def _mark(row: Surveyed, name: str) -> str:
    verdict = row.verdicts.get(name, "")
    mark = _MARKS.get(Verdict(verdict), "") if verdict else ""
    return f"{mark} †" if mark and name in row.known_defects else mark


def _link(finding: str) -> str:
    return finding.removeprefix("docs/")
