"""The kernel's own parser of KTAP comes to the same end as the exit status of a run.

`kunit.py parse` exits with 0 where some test passed and none failed. Where the parser can't be had
these tests are skipped, with KVMTEST_LAB_TESTS=required in the environment failed.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from support.evidence_strategies import RUNS
from support.kunit import Kunit, parsers
from support.stand_in import FIXED, UNFIXED, intel_host, run_kvmtest

from kvmtest.errors import KvmtestError
from kvmtest.evidence import Evidence, Result, load
from kvmtest.evidence.counting import run_problem
from kvmtest.judge import Role, Verdict
from kvmtest.report.files import ktap_of

RECORDED = sorted((Path(__file__).parents[1] / "recorded").glob("*.json"))


@pytest.fixture(scope="session")
def kunits() -> list[Kunit]:
    try:
        return parsers()
    except KvmtestError as error:
        reason = f"needs the kernel's KTAP parser: {error}; name one in KVMTEST_KUNIT"
        if os.environ.get("KVMTEST_LAB_TESTS") in ("required", "all"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_it_agrees_with_the_exit_status_of_every_recorded_run(
    kunits: list[Kunit], path: Path
) -> None:
    run = load(path)
    for kunit in kunits:
        for subtests in (False, True):
            status = kunit.status(ktap_of(run, subtests=subtests))
            assert (status == 0) == (run.exit_status == 0), kunit.folder


def test_the_recorded_runs_ended_in_every_way() -> None:
    assert {load(path).exit_status for path in RECORDED} >= {0, 1, 3, 4, 130}
    kinds = {load(path).machine.kind for path in RECORDED}
    assert kinds == {"host", "stand-in", "lab"}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=RUNS)
def test_it_agrees_with_the_exit_status_of_any_run(kunits: list[Kunit], run: Evidence) -> None:
    ktap = ktap_of(run)
    names = [r.id for r in run.results] + ["kvmtest.run"] * bool(run_problem(run))
    for kunit in kunits:
        assert kunit.passes(ktap) == (run.exit_status == 0)
        parsed = kunit.parse(ktap)
        assert [test.name for test in parsed.subtests] == names
        assert not any(test.subtests for test in parsed.subtests)
        assert parsed.counts.errors == 0
        skipped = sum(r.verdict not in DECIDED for r in run.results)
        assert parsed.counts.skipped == skipped
        assert parsed.counts.crashed == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=RUNS)
def test_it_counts_the_readings_of_any_run_as_subtests(kunits: list[Kunit], run: Evidence) -> None:
    ktap = ktap_of(run, subtests=True)
    for kunit in kunits:
        assert kunit.passes(ktap) == (run.exit_status == 0)
        parsed = kunit.parse(ktap)
        assert (parsed.counts.errors, parsed.counts.crashed) == (0, 0)
        for test, result in zip(parsed.subtests, run.results, strict=False):
            tested = sum(r.role in (Role.CLAIM, Role.CONTROL) for r in result.readings)
            assert test.name == result.id
            assert len(test.subtests) == (tested + 1 if result.readings else 0)
            assert all(not each.subtests for each in test.subtests)


DECIDED = (Verdict.PASS, Verdict.FAIL, Verdict.ERROR)


def _run(*results: Result, exit_status: int, **about: Any) -> Evidence:
    old = load(RECORDED[0])
    journal = replace(old.journal, failures=[])
    run = replace(old.kvmtest, **{"strict": False, "interrupted": False, **about})
    return replace(
        old, kvmtest=run, journal=journal, results=list(results), exit_status=exit_status
    )


PASSED = Result("kernel.fix-present", Verdict.PASS, "r")
KNOWN = Result("vmx.entry.fresh", Verdict.FAIL, "r", known_defect="docs/findings/x.md")


@pytest.mark.parametrize(
    "run",
    [
        _run(PASSED, exit_status=0),
        _run(PASSED, KNOWN, exit_status=0),
        _run(PASSED, Result("any.soak", Verdict.INCONCLUSIVE, "r"), exit_status=0),
        _run(PASSED, Result("any.soak", Verdict.MEASURED, "r"), exit_status=0),
        _run(PASSED, Result("any.soak", Verdict.FAIL, "r"), exit_status=1),
        _run(PASSED, KNOWN, exit_status=1, strict=True),
        _run(PASSED, Result("any.soak", Verdict.ERROR, "x # SKIP y"), exit_status=3),
        _run(PASSED, exit_status=3, problems=["pytest broke"]),
        _run(PASSED, exit_status=130, interrupted=True),
        _run(KNOWN, exit_status=4),
        _run(Result("any.soak", Verdict.SKIP, "r"), exit_status=4),
        _run(exit_status=4),
    ],
    ids=lambda run: f"{run.exit_status}-{'-'.join(r.verdict for r in run.results)}",
)
def test_its_command_agrees_with_every_kind_of_run(kunits: list[Kunit], run: Evidence) -> None:
    for kunit in kunits:
        assert (kunit.status(ktap_of(run)) == 0) == (run.exit_status == 0)
        assert kunit.passes(ktap_of(run)) == (run.exit_status == 0)


ONE = ["--only", "kernel.fix-present"]


@pytest.mark.parametrize(
    ("btf", "words", "status"),
    [
        (FIXED, [], 0),
        (UNFIXED, [], 1),
        (b"junk", ONE, 4),
        (UNFIXED, [*ONE, "--bisect"], 1),
    ],
    ids=["decided", "failed", "nothing decided", "bisected"],
)
def test_it_agrees_with_the_process_of_a_run(
    kunits: list[Kunit], tmp_path: Path, btf: bytes, words: list[str], status: int
) -> None:
    tree = intel_host(tmp_path / "host", btf=btf)
    output = tmp_path / "out"
    assert run_kvmtest("run", "--root", tree.root, "-o", output, *words).status == status
    ktap = (output / "ktap.txt").read_text()
    for kunit in kunits:
        assert (kunit.status(ktap) == 0) == (status == 0)
