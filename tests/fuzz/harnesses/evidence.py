"""evidence/file.py, and what is made of evidence: reports, tables, a replay, a comparison."""

import io
import json
import zlib
from argparse import Namespace
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from xml.etree import ElementTree

from support.evidence_samples import BOCHS, evidence_of
from support.leak_simulation import readings, simulated

from fuzz.harness import Harness
from fuzz.json_mutator import mutate
from fuzz.scratch import scratch
from kvmtest.commands.replay import run as replay_command
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.evidence import (
    ChangeRecord,
    EvidenceUnreadable,
    HostRecord,
    JournalRecord,
    Result,
    load,
)
from kvmtest.evidence.compare import compare
from kvmtest.evidence.pairs import Pairs
from kvmtest.judge import Absence, Verdict, claim, control, measure
from kvmtest.judge.leak import conclude
from kvmtest.missing import Missing
from kvmtest.replay import replay
from kvmtest.report.comparison import as_json, lines
from kvmtest.report.files import ktap_of
from kvmtest.report.html.run_page import run_page
from kvmtest.report.html.source import Source
from kvmtest.report.kcidb import kcidb
from kvmtest.report.markdown import markdown
from kvmtest.report.terminal import show_evidence
from kvmtest.run_folder import write_reports

# The terminal's tables take a hundred times as long as all else.
SHOWN_ONE_OF = 256


def parse(data: bytes) -> None:
    folder = scratch("evidence")
    path = folder / "evidence.json"
    path.write_bytes(data)
    evidence = load(path)
    write_reports(evidence, folder)
    assert (folder / "ktap.txt").read_text().startswith("KTAP version 1\n")
    ElementTree.parse(folder / "junit.xml")
    if zlib.crc32(data) % SHOWN_ONE_OF:
        # What it documents, and run() tells of in one line.
        with suppress(KeyError, ValueError, ArithmeticError):
            for _ in replay(evidence):
                pass
    else:
        with redirect_stdout(io.StringIO()):
            show_evidence(evidence)
            page = run_page(evidence, Source("evidence.json", ""))
            replay_command(Namespace(evidence=path))
            pairs = Pairs({"": compare(evidence, evidence)}, {})
            assert all(line.plain.isprintable() for line in lines(pairs, verbose=True))
            json.dumps(as_json(pairs), allow_nan=False)
        assert "<script" not in page
        assert json.loads("".join(kcidb([("", evidence)])))["version"] == {"major": 5, "minor": 3}
        assert markdown(evidence).startswith("### ")
        assert ktap_of(evidence, subtests=True).startswith("KTAP version 1\n")


def seed(results: list[Result]) -> bytes:
    evidence = evidence_of(
        results, 1, command=["run", "--require", "vmx.entry.fresh"], lab=BOCHS, strict=False
    )
    host = HostRecord(lockdown="none", pmus=[1, None])
    journal = JournalRecord([ChangeRecord("write")], [], [])
    evidence = replace(evidence, host=host, journal=journal)
    return json.dumps(evidence.to_dict()).encode()


SIMPLE = [
    Result("kernel.fix-present", Verdict.PASS, "btf: yes", 0.5, [
        claim("btf", "the member", True, True), control("btf", "the struct", 2, 2, "boot another"),
    ]),
    Result("vmx.entry.fresh", Verdict.SKIP, "no VMX", 0.1, [],
           [Absence("vmcs", Missing("no dump", "load it"))], [Missing("no VMX", "run on Intel")]),
    Result("svm.leak.guest-only", Verdict.MEASURED, "11", 1.5, [measure("leak", "events", 11.5)],
           known_defect="docs/findings/a.md"),
    Result("any.soak", Verdict.ERROR, "it broke", 0.1, detail="Traceback\n a"),
]  # fmt: skip
_samples = simulated(rounds=2)
LEAK = Result(
    "vmx.leak.host-events", Verdict.INCONCLUSIVE, "too few", 9.5,
    readings(_samples, conclude(_samples)),
)  # fmt: skip

HARNESS = Harness(
    parse=parse,
    seeds=(seed(SIMPLE), seed([LEAK]), seed([])),
    refusals=(EvidenceUnreadable, UsageError, EnvironmentUnfit),
    longest=32768,
    mutate=mutate,
)
