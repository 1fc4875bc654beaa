"""A watch is told so that a person can read it in a narrow terminal too."""

import io
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from kvmtest.host.facts.vmm import Vmm
from kvmtest.judge import Judgement, Verdict
from kvmtest.missing import Missing
from kvmtest.report.watch import page
from kvmtest.watch import Figures, Watched

EXITS = Counter({"HLT": 60, "EPT_VIOLATION": 30, "IO_INSTRUCTION": 9, "CPUID": 1})


def shown(width: int = 80, **changed: Any) -> str:
    values: dict[str, Any] = {
        "vmm": Vmm(2435, "qemu-system-x86", {12: 0, 13: 1}),
        "vcpus": [
            Figures(0, 2437, 1234.5, 98765.4, 98765.1, False, EXITS, 10, 10),
            Figures(1, None),
        ],
        "toggles": 10,
        "judgement": Judgement(Verdict.PASS, "each was told"),
        "readings": [],
        "missing": [],
        "recovered": [],
        "undo_failures": [],
    }
    file = io.StringIO()
    screen = Console(file=file, width=width, highlight=False)
    for part in page(Watched(**{**values, **changed})):
        screen.print(part)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return "\n".join(line.rstrip() for line in lines)


def test_each_vcpu_has_a_row() -> None:
    text = shown()
    assert "process  qemu-system-x86 (pid 2435), vCPUs: 2" in text
    assert "knob     toggled 10 times, and put back" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "2437", "1234", "98765", "98765", "10", "of", "10"] in rows
    assert ["1", "?", "-", "-", "-", "-"] in rows
    assert "vCPU 0 exits by HLT 60 %, EPT_VIOLATION 30 %, IO_INSTRUCTION 9 %, …" in text
    assert text.endswith("PASS each was told")


def test_a_rate_of_a_trace_that_lost_events_is_at_least_that() -> None:
    text = shown(vcpus=[Figures(0, 2437, 1234.5, 98765.4, 98765.1, lost=True)])
    assert "1234       >98765     >98765" in text


@pytest.mark.parametrize("width", [60, 80])
def test_a_row_stays_a_line(width: int) -> None:
    (row,) = (line for line in shown(width).splitlines() if line.startswith("0 "))
    assert row.endswith("10 of 10")


def test_what_is_missing_is_named_once() -> None:
    missing = [Missing("there is no knob", "run on Intel"), Missing("no kprobes", "boot another")]
    judgement = Judgement(Verdict.SKIP, "; ".join(map(str, missing)))
    text = shown(toggles=0, missing=missing, judgement=judgement)
    assert "knob     not toggled" in text
    assert text.count("there is no knob") == 1
    assert text.endswith("SKIP nothing was decided, for what is missing")
