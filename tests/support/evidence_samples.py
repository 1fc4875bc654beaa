"""Evidence of a small run, for tests to change."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kvmtest.evidence import (
    CpuRecord,
    Evidence,
    HostRecord,
    JournalRecord,
    KernelLogRecord,
    KernelRecord,
    LabRecord,
    MachineRecord,
    Required,
    Result,
    RunRecord,
)
from kvmtest.evidence.coding import decode

#: A lab's machine as JSON has it.
BOCHS: dict[str, object] = {
    "emulator": "Bochs", "version": "2.7", "model": "corei7_skylake_x", "lacks": {},
    "details": {"cpus": 1},
}  # fmt: skip
I7 = "Intel(R) Core(TM) i7-7800X CPU @ 3.50GHz"


def evidence_of(
    results: Iterable[Result] = (),
    exit_status: int = 0,
    *,
    hostname: str | None = None,
    release: str = "6.12.117",
    lab: Mapping[str, object] | None = None,
    requirements: list[Required] | None = None,
    **run: Any,
) -> Evidence:
    """Return evidence of an Intel host, or of the ``lab``; ``run`` is what is said of the run."""
    about = RunRecord("0.1.0", [], "2026-11-29T14:03:42Z", "2026-11-29T14:04:42Z", False)
    evidence = Evidence(
        replace(about, **run),
        MachineRecord(
            kind="host",
            hostname=hostname,
            virtualisation="bare metal",
            cpu=CpuRecord("intel", model_name=I7),
        ),
        HostRecord(),
        KernelRecord(release),
        JournalRecord([], [], []),
        KernelLogRecord(None, 0, 0),
        list(results),
        exit_status,
        requirements,
    )
    return in_lab(evidence, lab) if lab else evidence


def in_lab(evidence: Evidence, lab: Mapping[str, object]) -> Evidence:
    """Return the same evidence as if it came from a lab."""
    machine = replace(evidence.machine, kind="lab", lab=decode(LabRecord, lab))
    return replace(evidence, machine=machine)
