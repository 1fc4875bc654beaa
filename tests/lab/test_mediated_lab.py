"""A kernel of today whose KVM gives guests the CPU's own counters.

It is not the one that the other tests boot, and booting it takes minutes: only with
KVMTEST_LAB_TESTS=all in the environment.
"""

import os
from pathlib import Path

import pytest
from support.lab_job import run_script_inside

from kvmtest.cache import Cache
from kvmtest.errors import KvmtestError
from kvmtest.evidence import Evidence
from kvmtest.evidence.model import Result
from kvmtest.judge import Role, Verdict
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.emulator import Emulator
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.saved_machine import SavedMachine
from kvmtest.lab.target import LabTarget
from kvmtest.target import Job

pytestmark = pytest.mark.skipif(
    os.environ.get("KVMTEST_LAB_TESTS") != "all",
    reason="boots another kernel: KVMTEST_LAB_TESTS=all",
)

SERIES = "7.3"
MEDIATED = Parameters.parse(["kvm_intel.enable_mediated_pmu=1"], "kvm_intel")
INSIDE = Path(__file__).with_name("mediated_inside.py")
LEAKS = ("vmx.leak.host-events", "vmx.leak.guest-pmu", "nvmx.leak.l2")
# A process that holds /dev/kvm, or one that counts guests, as long as the machine runs.
HOLD_KVM = ["sh", "-c", "sleep 9999 < /dev/kvm > /dev/null 2>&1 &"]
COUNT_GUESTS = """\
import sys, time
sys.path.insert(0, "/package")
from kvmtest.host.tree import Tree
from kvmtest.pmu import CounterGroup, find_event
group = CounterGroup(Tree(), [find_event(Tree(), "cpu/instructions/G")])
print(flush=True)
time.sleep(9999)
"""
HOLD_EVENT = ["sh", "-c", f"python3 -c '{COUNT_GUESTS}' 2> /dev/null > /tmp/held & "
              "until test -s /tmp/held; do sleep 0.1; done"]  # fmt: skip
WATCHDOG = "/proc/sys/kernel/nmi_watchdog"


@pytest.fixture(scope="module")
def new_lab(bochs: Emulator) -> LabTarget:
    """The lab on the newest kernel of the series that Debian's archive offers."""
    if not bochs.details.get("pmu"):
        pytest.skip("the distribution's emulator has no counters")
    try:
        kernel = resolve(SERIES, None, Cache.default(), print)
    except KvmtestError as error:
        pytest.skip(f"needs a kernel of Debian's archive: {error}")
    return LabTarget(SavedMachine(bochs, kernel, Cache.default(), print, print))


def decided(lab: LabTarget, *only: str, commands: tuple[list[str], ...] = ()) -> Evidence:
    words = [f"--only={name}" for name in only]
    return lab.run(Job(words, parameters=[str(MEDIATED)], commands=commands)).evidence


def result(evidence: Evidence, name: str) -> Result:
    return next(each for each in evidence.results if each.id == name)


def test_leaks_are_decided_and_the_guests_counters_are_seen_to_be_the_cpus_own(
    new_lab: LabTarget,
) -> None:
    evidence = decided(new_lab, *LEAKS)
    assert evidence.host.mediated_pmu is True
    assert evidence.machine.lab.details.kvm_parameters == str(MEDIATED)
    assert {each.id: each.verdict for each in evidence.results} == dict.fromkeys(
        LEAKS, Verdict.PASS
    )
    said = [r for r in result(evidence, LEAKS[1]).readings if r.what == "the guests' PMU"]
    assert [(r.role, r.observed) for r in said] == [(Role.CONTROL, "mediated")]


def test_a_vm_without_a_pmu_is_in_nobodys_way(new_lab: LabTarget) -> None:
    run_script_inside(new_lab, INSIDE, MEDIATED)


def test_the_nmi_watchdog_stops_and_goes_on(new_lab: LabTarget) -> None:
    on = ["sh", "-c", f"echo 1 > {WATCHDOG}"]
    evidence = decided(new_lab, LEAKS[1], commands=(on,))
    assert result(evidence, LEAKS[1]).verdict is Verdict.PASS
    (change,) = [c for c in evidence.journal.changes if c.path == WATCHDOG]
    assert (change.old, change.new, change.undone) == ("1", "0", True)


def test_somebody_who_counts_guests_is_named_as_what_keeps_a_guest_from_its_pmu(
    new_lab: LabTarget,
) -> None:
    found = result(decided(new_lab, LEAKS[1], commands=(HOLD_EVENT,)), LEAKS[1])
    assert found.verdict is Verdict.SKIP
    assert "while an event that counts guests is open" in found.reason


def test_guests_are_not_counted_beside_others_who_may_start_a_vm(new_lab: LabTarget) -> None:
    evidence = decided(new_lab, LEAKS[0], "vmx.entry.toggled", commands=(HOLD_KVM,))
    hindered = result(evidence, LEAKS[0])
    assert hindered.verdict is Verdict.SKIP
    assert "others use KVM, or may: sleep (pid" in hindered.reason
    toggled = result(evidence, "vmx.entry.toggled")
    assert toggled.verdict is Verdict.PASS
    assert {r.witness for r in toggled.readings} == {"vmcs", "runflags"}
