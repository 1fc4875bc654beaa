"""kvmtest's properties of TDX, on a stand-in for KVM's TDX: sound, and with each fault.

No machine with TDX is at hand. What would run there runs here: interface, TD and checks.
"""

from pathlib import Path
from typing import cast

import pytest
from support.stand_in import command, need_kvm
from support.tdx_standin.abi import PAGE
from support.tdx_standin.faults import FAULTS, HARDSHIPS
from support.tdx_standin.host import LACKS
from support.tdx_standin.measurement import Measurement
from support.under_tdx import UnderTdx, under_tdx

from kvmtest.evidence import Evidence, load
from kvmtest.guests import load as load_image
from kvmtest.guests.td import _memory
from kvmtest.kvm import Memory, Vm
from kvmtest.properties import PROPERTIES

DECIDED = [p.id for p in PROPERTIES if p.id.startswith("tdx.") and p.id != "tdx.leak.host-events"]


def run(
    folder: Path, *ids: str, fault: str = "", hardship: str = "", lack: str = ""
) -> tuple[Evidence, UnderTdx]:
    need_kvm()
    words = command("run", "-o", folder / "out", "--allow-other-vms")
    for each in ids:
        words += ["--only", each]
    faults, hardships = ([each] if each else [] for each in (fault, hardship))
    ran = under_tdx(*words, folder=folder, faults=faults, hardships=hardships, lack=lack)
    assert "Traceback" not in ran.err + ran.out, ran.err
    return load(folder / "out"), ran


def verdicts(evidence: Evidence) -> dict[str, str]:
    return {result.id: result.verdict for result in evidence.results}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, UnderTdx]:
    ids = (*DECIDED, "host.knob-effective", "host.msr-survives")
    return run(tmp_path_factory.mktemp("sound"), *ids)


def test_every_property_passes_on_a_sound_stand_in(sound: tuple[Evidence, UnderTdx]) -> None:
    evidence, ran = sound
    assert set(verdicts(evidence).values()) == {"PASS"}, ran.out
    assert (ran.status, evidence.exit_status) == (0, 0)


def test_each_witness_speaks(sound: tuple[Evidence, UnderTdx]) -> None:
    evidence, _ = sound
    for result in evidence.results:
        if result.id in DECIDED:
            wanted = next(p.witnesses for p in PROPERTIES if p.id == result.id)
            speaking = {reading.witness for reading in result.readings if reading.role == "claim"}
            assert speaking == set(wanted), result.id


def test_the_host_is_left_as_it_was(sound: tuple[Evidence, UnderTdx]) -> None:
    _, ran = sound
    assert (ran.knob, set(ran.bits)) == (1, {1})


def test_tds_ran_and_none_died(sound: tuple[Evidence, UnderTdx]) -> None:
    _, ran = sound
    ran_long = [td for td in ran.tds if sum(td["tdcalls"]) > 100]
    assert len(ran_long) >= 3
    assert not any(reason for td in ran.tds for reason in td["dead"])
    for td in ran_long:
        assert all(entries >= calls for entries, calls in zip(td["entries"], td["tdcalls"],
                                                             strict=True))  # fmt: skip


def test_a_td_is_made_without_a_refusal(sound: tuple[Evidence, UnderTdx]) -> None:
    _, ran = sound
    for td in ran.tds:
        if sum(td["tdcalls"]):
            assert [step for step in td["steps"] if step["number"]] == []


class Slots:
    """Gives memory as a VM does."""

    def add_private_memory(self, size: int, guest_address: int = 0) -> Memory:
        return Memory(size, guest_address)


def expected_measurement() -> str:
    measurement = Measurement()
    for memory in _memory(cast(Vm, Slots()), load_image("td")):
        for gpa in range(memory.guest_address, memory.guest_address + memory.size, PAGE):
            measurement.add_page(gpa)
            measurement.extend(gpa, memory.read(gpa, PAGE))
        memory.close()
    return measurement.value().hex()


def test_a_td_has_the_measurement_of_the_guest(sound: tuple[Evidence, UnderTdx]) -> None:
    _, ran = sound
    measured = {td["mrtd"] for td in ran.tds if sum(td["tdcalls"])}
    assert measured == {expected_measurement()}


@pytest.mark.parametrize("hardship", HARDSHIPS)
def test_no_verdict_changes_for_a_hardship(tmp_path: Path, hardship: str) -> None:
    evidence, ran = run(tmp_path, "tdx.runs-under-toggling", hardship=hardship)
    assert verdicts(evidence) == {"tdx.runs-under-toggling": "PASS"}
    assert any(step["why"].startswith("as if a signal") for td in ran.tds for step in td["steps"])
    assert {td["mrtd"] for td in ran.tds} == {expected_measurement()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_property_notices_a_fault(tmp_path: Path, fault: str) -> None:
    owner = FAULTS[fault].noticed_by
    evidence, ran = run(tmp_path, owner, fault=fault)
    assert verdicts(evidence) == {owner: "FAIL"}, ran.out
    assert ran.status == 1


@pytest.mark.parametrize("lack", LACKS)
def test_what_the_host_lacks_is_named(tmp_path: Path, lack: str) -> None:
    evidence, ran = run(tmp_path, *DECIDED, "host.knob-effective", lack=lack)
    told = {result.id: (result.verdict, result.reason) for result in evidence.results}
    assert told.pop("host.knob-effective")[0] == "PASS"
    for verdict, reason in told.values():
        assert verdict == "SKIP"
        assert reason.startswith(LACKS[lack].said)
    assert ran.tds == []


def test_each_property_has_a_fault_that_it_notices() -> None:
    assert {fault.noticed_by for fault in FAULTS.values()} == set(DECIDED)
