"""The distribution's Bochs, of any version: the fallback where there is no emulator with counters.

It boots for the run, which takes a minute: KVMTEST_LAB_TESTS=all in the environment.
"""

import os

import pytest
from support.intel_lab import DECIDED, LOST_UPDATE, NEED_COUNTERS

from kvmtest.cache import Cache
from kvmtest.errors import KvmtestError
from kvmtest.evidence import Evidence
from kvmtest.judge import Verdict
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.bochs.stock import StockBochs
from kvmtest.lab.saved_machine import SavedMachine
from kvmtest.lab.target import LabTarget
from kvmtest.target import Job, Outcome

pytestmark = pytest.mark.skipif(
    os.environ.get("KVMTEST_LAB_TESTS") != "all",
    reason="boots a machine that can't be saved: KVMTEST_LAB_TESTS=all",
)

WHY = "the lab's own emulator can't be built: there is no network"


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    try:
        bochs, cache = StockBochs.find(WHY), Cache.default()
        kernel = resolve(None, None, cache, print)
    except KvmtestError as error:
        pytest.skip(f"needs Bochs and a kernel of Debian's archive: {error}")
    return LabTarget(SavedMachine(bochs, kernel, cache, print, print)).run(Job())


def verdicts(evidence: Evidence) -> dict[str, Verdict]:
    return {result.id: result.verdict for result in evidence.results}


def test_whatever_needs_no_counters_is_decided(outcome: Outcome) -> None:
    found = verdicts(outcome.evidence)
    assert {name for name, v in found.items() if v is Verdict.PASS} == DECIDED
    assert found[LOST_UPDATE] is Verdict.FAIL
    assert Verdict.ERROR not in found.values()
    assert outcome.exit_status == 0


def test_what_needs_counters_says_why_there_are_none(outcome: Outcome) -> None:
    results = {result.id: result for result in outcome.evidence.results}
    for name in NEED_COUNTERS:
        assert results[name].verdict is Verdict.SKIP
        assert "the emulated machine (Bochs) " in results[name].reason
        assert WHY in results[name].reason


def test_evidence_names_the_emulator_and_why_it_was_chosen(outcome: Outcome) -> None:
    lab = outcome.evidence.machine.lab
    assert lab is not None
    assert lab.details is not None
    assert (lab.emulator, lab.version) == ("Bochs", StockBochs.find().version)
    assert lab.details.extra["emulator_chosen"] == WHY
    assert lab.details.start == "booted"
