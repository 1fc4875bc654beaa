"""Writes docs/schedules.md from docs/schedules.json and the enumeration in kvmtest.interleave.

With files of evidence as arguments, docs/schedules.json is made from their readings first.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvmtest.evidence.file import load
from kvmtest.interleave import model
from kvmtest.interleave.schedule import ALIKE, Does, number_of

#: A row of a table.
_Cells = tuple[int | str, ...]

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET, DATA = DOCS / "schedules.md", DOCS / "schedules.json"

_CLAIM = re.compile(
    r"schedules of (\d+) steps?(?: with hotplug)?, of (\d+), that leave another bit 14 .*"
)
_PLAIN, _EMULATING = "vmx.entry.schedules", "vmx.entry.after-emulation"


def collected(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what evidence says of the schedules, by property; each step and length once."""
    found: dict[str, Any] = {}
    for evidence in map(load, paths):
        for result in evidence.results:
            rows = [
                {
                    "length": int(match[1]),
                    "played": int(match[2]),
                    "looks": reading.raw["looks"],
                    "steps": reading.raw["steps"],
                    "wrong": reading.observed,
                    "first": reading.raw["first"],
                }
                for reading in result.readings
                if (match := _CLAIM.fullmatch(reading.what))
            ]
            if rows:
                lab = evidence.machine.lab
                assert lab is not None
                run = {
                    "kernel": evidence.kernel.release,
                    "machine": f"{lab.emulator} {lab.version}, CPUs: {lab.details.cpus}",
                    "rows": [],
                }
                found.setdefault(result.id, run)["rows"] += rows
    for run in found.values():
        run["rows"] = list({(row["steps"], row["length"]): row for row in run["rows"]}.values())
    return found


def document() -> str:
    """Return the page."""
    data = json.loads(DATA.read_text())
    return "\n".join(_lines(data)) + "\n"


_INTRODUCTION = """\
# Schedules

Made by `python tools/schedules_doc.py` from schedules.json and `kvmtest/interleave/`. To make
schedules.json again:

    kvmtest lab run --schedule-steps 6 --cpus 2 --deadline 9000 -o A --only vmx.entry.schedules
    kvmtest lab run --schedule-steps 6 --cpus 2 --deadline 9000 -o B \\
        --only vmx.entry.after-emulation
    python tools/schedules_doc.py A/evidence.json B/evidence.json

Each run took 1.8 hours of a machine with two CPUs and other work, both at the same time.

A schedule is a sequence of steps of two vCPUs, each in a process of its own, which ptrace stops at
the entry and at the exit of every KVM_RUN. So each step comes at an exact point: before an entry,
in the guest, at the exit, or twice between. Each schedule begins with new vCPUs and
freeze_on_smi=1. At its end the CPU refuses the next entry of each vCPU that acted; bit 14 in the
VMCS that KVM dumps must be the model's.
"""

_STEPS = """
A vCPU's steps have its number: `r0 T e0` runs vCPU 0, toggles the knob, and has KVM emulate vCPU 0.
A toggle comes while the vCPU that runs next is stopped at the entry of its KVM_RUN; the first of
two comes while it is still stopped at the exit of the one before. While a vCPU is in the guest the
other is stopped, and a step is over when the guest has run on.
"""

_LOST_UPDATES = """
Only schedules in which KVM emulates are played. Those with a wrong VMCS reach the lost update of
[lost-update-while-emulating.md](findings/lost-update-while-emulating.md), and are the ones that the
model leaves wrong with `loses`.
"""


_HEAD = "| steps | schedules in all | played | VMCSs looked at | with a wrong VMCS |"


def _lines(data: dict[str, Any]) -> Iterator[str]:
    yield from _INTRODUCTION.splitlines()
    yield from ("", "| step | what happens |", "|---|---|")
    yield from (f"| {does.value} | {does.words} |" for does in Does)
    yield from _STEPS.splitlines()
    yield from ("", "## The model", "")
    yield from (f"    {line}".rstrip() for line in inspect.getsource(model.final_bit).splitlines())
    yield from ("", "## What is left out", "")
    yield from ("A schedule is not played if it is like one that is:", "")
    yield from (f"{number}. {reason}" for number, reason in enumerate(ALIKE, 1))
    yield from _of_property(_PLAIN, data[_PLAIN])
    yield from _of_property(_EMULATING, data[_EMULATING], ", `unrestricted_guest=0`", _LOST_UPDATES)


def _of_property(id_: str, run: dict[str, Any], more: str = "", about: str = "") -> Iterator[str]:
    """Give a property's two tables: schedules without hotplug, and those with it."""
    yield from ("", f"## {id_}", "", f"Linux {run['kernel']}, {run['machine']}{more}.")
    yield from about.splitlines()
    yield from _table(row for row in run["rows"] if Does.UNPLUG.value not in row["steps"])
    yield from ("", "Those in which a CPU goes offline:")
    yield from _table(row for row in run["rows"] if Does.UNPLUG.value in row["steps"])


def _table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Give a table; where some VMCS is wrong, with the shortest schedule that leaves it so."""
    listed = list(rows)
    wrong = any(row["wrong"] for row in listed)
    yield from (
        "",
        _HEAD + " the first of them |" * wrong,
        "|---" * (_HEAD.count("|") - 1 + wrong) + "|",
    )
    yield from _rows(_counts(row) + ((_first(row),) if wrong else ()) for row in listed)


def _counts(row: dict[str, Any]) -> _Cells:
    steps = {Does(letter) for letter in row["steps"]}
    counts = (row["played"], row["looks"], row["wrong"])
    in_all = number_of(steps, row["length"], steps & {Does.UNPLUG, Does.EMULATE})
    return (row["length"], in_all, *counts)


def _first(row: dict[str, Any]) -> str:
    return f"`{row['first'].partition(',')[0]}`" if row["wrong"] else ""


def _rows(rows: Iterable[_Cells]) -> Iterator[str]:
    """Give a table's rows, and one with the sums of all columns of numbers but the first."""
    listed = list(rows)
    _, *columns = zip(*listed, strict=True)
    sums = [sum(c) if all(isinstance(cell, int) for cell in c) else "" for c in columns]
    for cells in (*listed, ("all", *sums)):
        yield f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    if sys.argv[1:]:
        DATA.write_text(json.dumps(collected([Path(a) for a in sys.argv[1:]]), indent=1) + "\n")
    TARGET.write_text(document())
