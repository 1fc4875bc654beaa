"""Hypothesis strategies of results and evidence."""

from dataclasses import replace

from hypothesis import strategies as st

from kvmtest.evidence import (
    ChangeRecord,
    CpuRecord,
    Evidence,
    HostRecord,
    JournalRecord,
    KernelLogRecord,
    KernelRecord,
    LabDetails,
    LabRecord,
    MachineRecord,
    Required,
    Result,
    RunRecord,
    WarningsRecord,
)
from kvmtest.evidence.counting import run_status
from kvmtest.judge import Absence, Reading, Role, Verdict
from kvmtest.judge.requirements import Demand, Kind
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES

TEXT = st.text(max_size=20)
WORDS = st.text(min_size=1, max_size=20)
# JSON has no word for the others.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | NUMBERS | TEXT
FACTS = st.recursive(
    SCALARS, lambda f: st.lists(f, max_size=3) | st.dictionaries(TEXT, f, max_size=3), max_leaves=5
)
MISSING = st.builds(Missing, WORDS, TEXT)
READINGS = st.builds(
    Reading,
    witness=st.sampled_from(sorted(WITNESSES)),
    role=st.sampled_from(Role),
    what=WORDS,
    observed=SCALARS,
    expected=SCALARS,
    time=NUMBERS,
    raw=st.dictionaries(TEXT, SCALARS, max_size=3),
    remedy=TEXT,
)
RESULTS = st.builds(
    Result,
    id=st.sampled_from([p.id for p in PROPERTIES]),
    verdict=st.sampled_from(Verdict),
    reason=WORDS,
    seconds=st.floats(0, 1e6),
    readings=st.lists(READINGS, max_size=3),
    absences=st.lists(st.builds(Absence, st.sampled_from(sorted(WITNESSES)), MISSING), max_size=2),
    missing=st.lists(MISSING, max_size=2),
    detail=TEXT,
    known_defect=st.sampled_from(["", "docs/findings/x.md"]),
    demands=st.none()
    | st.lists(st.builds(Demand, WORDS, st.sampled_from(Kind), WORDS, TEXT), max_size=2),
)
# Names that no field has: what other versions of kvmtest write.
EXTRA = st.dictionaries(TEXT.map("other {}".format), FACTS, max_size=2)
COUNTS = st.integers(0, 1 << 40)
TEXTS = st.lists(TEXT, max_size=2)
LABS = st.builds(
    LabRecord, TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=2),
    st.none() | st.builds(LabDetails, cpus=st.none() | COUNTS, modules_laid_over=st.none() | TEXT),
)  # fmt: skip
EVIDENCE = st.builds(
    Evidence,
    kvmtest=st.builds(
        RunRecord,
        TEXT,
        TEXTS,
        TEXT,
        TEXT,
        st.booleans(),
        st.none() | st.booleans(),
        st.none() | TEXTS,
        EXTRA,
    ),
    machine=st.builds(
        MachineRecord,
        kind=st.sampled_from(["host", "stand-in", "lab"]),
        virtualisation=TEXT,
        cpu=st.none() | st.builds(CpuRecord, vendor=st.none() | TEXT, extra=EXTRA),
        hostname=st.none() | st.sampled_from(["", "runner17"]),
        lab=st.none() | LABS,
        extra=EXTRA,
    ),
    host=st.builds(HostRecord, knob=FACTS, pmus=FACTS, extra=EXTRA),
    kernel=st.builds(
        KernelRecord,
        release=st.none() | TEXT,
        fix=FACTS,
        warnings=st.none() | st.builds(WarningsRecord, FACTS, FACTS, FACTS),
        missing=st.none() | TEXT,
        extra=EXTRA,
    ),
    journal=st.builds(
        JournalRecord,
        st.lists(st.builds(ChangeRecord, TEXT, old=st.none() | TEXT, extra=EXTRA), max_size=2),
        TEXTS,
        TEXTS,
    ),
    kernel_log=st.builds(KernelLogRecord, st.none() | TEXT, COUNTS, COUNTS, EXTRA),
    results=st.lists(RESULTS, max_size=4),
    exit_status=st.integers(0, 255),
    requirements=st.none() | st.lists(st.builds(Required, WORDS, st.booleans(), TEXT), max_size=2),
)

# Runs: evidence whose exit status is the one that kvmtest run ends with.

#: What parsers of the formats look for, wherever a reason may have it from a log or a file's name.
MARKERS = (
    "# SKIP", "# TODO", "# XFAIL", "ok 2 x", "not ok 1 y # SKIP", "Subtest: x", "# Subtest: x",
    "KTAP version 1", "TAP version 14", "1..0", "1..7", "Bail out!", "pragma +strict", "    ok 1",
    "List of all partitions:", "Kernel panic - not syncing: VFS: Unable to mount root fs",
    "reboot: System halted", "x: kunit test case crashed!", "kunit executor: no memory",
    "]]>", "<failure>", "&amp;", "\x1b[31m", "\n", "\r\n", "\\", "---",
)  # fmt: skip
REASONS = st.lists(st.sampled_from(MARKERS) | WORDS, min_size=1, max_size=4).map(" ".join)


@st.composite
def runs(draw: st.DrawFn) -> Evidence:
    """Draw a run whose reasons, problems and names try what parsers bear."""
    of_run = RESULTS.flatmap(
        lambda r: st.builds(
            replace,
            st.just(r),
            reason=REASONS,
            detail=REASONS | st.just(""),
            readings=st.lists(READINGS.flatmap(_renamed), max_size=4),
        )
    )
    results = draw(st.lists(of_run, max_size=6, unique_by=lambda r: r.id))
    evidence = draw(EVIDENCE)
    strict, signal = draw(st.booleans()), draw(st.sampled_from([0, 0, 0, 2, 15]))
    problems = draw(st.lists(REASONS, max_size=2))
    failures = draw(st.lists(REASONS, max_size=1))
    return replace(
        evidence,
        kvmtest=replace(
            evidence.kvmtest, strict=strict, interrupted=bool(signal), problems=problems
        ),
        journal=replace(evidence.journal, failures=failures),
        results=results,
        exit_status=run_status(results, problems + failures, strict=strict, signal=signal),
    )


def _renamed(reading: Reading) -> st.SearchStrategy[Reading]:
    return st.builds(replace, st.just(reading), what=REASONS, remedy=REASONS)


RUNS = runs()
