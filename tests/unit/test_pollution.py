"""Five answers for whoever counts events; each rests on what was seen, and fits its line."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.stand_in import FIXED, KNOB, UNFIXED, intel_host, write

from kvmtest import pollution
from kvmtest.host.facts.lab import LabFacts
from kvmtest.host.facts.msr import (
    IA32_DEBUGCTL,
    IA32_DEBUGCTL_FREEZE_WHILE_SMM,
    IA32_PERF_CAPABILITIES,
    MSR_SMI_COUNT,
)
from kvmtest.host.machine import Machine
from kvmtest.kernels.series import FIX, Evidence, Finding, State
from kvmtest.missing import Missing
from kvmtest.pollution import Pollution, Smis, Tone, observed

PRESENT = Finding(FIX, State.PRESENT, (Evidence.TYPES, Evidence.CODE))
ABSENT = Finding(FIX, State.ABSENT, (Evidence.TYPES,))
UNKNOWN = Finding(FIX, State.UNKNOWN, (), "these types do not describe KVM")
NO_MSR = Missing("module msr is not loaded (no /dev/cpu/N/msr)", "modprobe msr")
NO_KNOB = Missing("AMD CPUs have no such bit", "run on an Intel CPU")
NO_PMU = Missing("this virtual machine has no PMU (no cpu PMU in sysfs)", "give it one")
LONG = Missing(
    f"nothing counts SMIs: {NO_PMU.what}; {NO_MSR.what}",
    "do this and that, and then find somebody who does the rest",
)

#: A machine of which there is nothing to complain.
GOOD = Pollution(
    has_bit=True,
    is_virtual=False,
    knob_path="/sys/devices/cpu/freeze_on_smi",
    knob=1,
    bits=dict.fromkeys(range(16), 1),
    fix=PRESENT,
    version=(6, 12, 117),
    smis=Smis(dict.fromkeys(range(16), 0), 1.0, "MSR 0x34", dict.fromkeys(range(16), 1840)),
)
OFF, ON = {0: 0, 1: 0}, {0: 1, 1: 1}
SOME = {**dict.fromkeys(range(16), 1), 3: 0, 7: 0, 8: 0}
MANY = {cpu: cpu % 2 for cpu in range(128)}
AMD = replace(GOOD, has_bit=False, knob_path=None, knob=NO_KNOB, bits=NO_MSR)
OLD = replace(GOOD, fix=ABSENT, version=(6, 12, 40))

ANSWERS = [
    # freeze_on_smi
    (GOOD, 0, "on", Tone.GOOD),
    (replace(GOOD, knob=0), 0, "off", Tone.BAD),
    (AMD, 0, "none here: this CPU has no such bit", Tone.OPEN),
    (replace(GOOD, knob_path=None, knob=NO_PMU), 0, "none here: this virtual machine has no PMU",
     Tone.OPEN),
    (replace(GOOD, knob=Missing("a word " * 20)), 0, f"unknown: {'a word ' * 6}a …", Tone.OPEN),
    # on every CPU
    (GOOD, 1, "yes: MSR 0x1d9 bit 14 is 1 on 16 of 16", Tone.GOOD),
    (replace(GOOD, bits=OFF), 1, "no: MSR 0x1d9 bit 14 is 0 on 2 of 2", Tone.BAD),
    (replace(GOOD, bits=SOME), 1, "no: MSR 0x1d9 bit 14 is 0 on CPU 3,7-8", Tone.BAD),
    (replace(GOOD, bits=MANY), 1, "no: MSR 0x1d9 bit 14 is 0 on 64 of 128", Tone.BAD),
    # With the knob off the bit's 0 says nothing about whether a 1 would arrive.
    (replace(GOOD, knob=0, bits=OFF), 1, "MSR 0x1d9 bit 14 is 0 on 2 of 2", Tone.OPEN),
    (replace(GOOD, knob=0, bits={0: 0, 1: 1}), 1, "no: MSR 0x1d9 bit 14 is 1 on CPU 1", Tone.BAD),
    (replace(AMD, bits=OFF), 1, "MSR 0x1d9 bit 14 is 0 on 2 of 2", Tone.OPEN),
    (replace(GOOD, bits=NO_MSR), 1, "unknown: module msr is not loaded", Tone.OPEN),
    # in guests
    (GOOD, 2, "kept: this kernel has the fix (types, code)", Tone.GOOD),
    (OLD, 2, "lost: this kernel lacks the fix (types)", Tone.BAD),
    (replace(GOOD, fix=UNKNOWN), 2, "unknown: these types do not describe KVM", Tone.OPEN),
    (AMD, 2, "nothing to keep: this CPU has no such bit", Tone.OPEN),
    # SMIs
    (GOOD, 3, "0 a CPU in 1 s (MSR 0x34); 1840 since reset", Tone.OPEN),
    (
        replace(GOOD, smis=Smis({0: 3, 1: 5}, 2.004, "perf event msr/smi/")),
        3, "3 to 5 a CPU in 2 s (perf event msr/smi/)", Tone.OPEN,
    ),
    # What a hypervisor lends a guest counts none of the host's.
    (replace(GOOD, is_virtual=True), 3, "0 a CPU of this VM in 1 s (MSR 0x34)", Tone.OPEN),
    (replace(GOOD, smis=LONG), 3, "not counted: this virtual machine has no PMU", Tone.OPEN),
    # what to do
    (GOOD, 4, "nothing: kvmtest run would prove it", Tone.GOOD),
    (replace(GOOD, knob=0), 4, "echo 1 > /sys/devices/cpu/freeze_on_smi", Tone.BAD),
    (replace(OLD, knob=0), 4, "echo 1 > /sys/devices/cpu/freeze_on_smi; boot 6.12.43+", Tone.BAD),
    (OLD, 4, "boot Linux 6.12.43 or later, or run no guest", Tone.BAD),
    (replace(OLD, version=(5, 10, 1)), 4, "boot Linux 6.17 or later, or run no guest", Tone.BAD),
    (replace(OLD, version=None), 4, "boot Linux 6.17 or later, or run no guest", Tone.BAD),
    # Somebody took the fix back.
    (
        replace(OLD, version=(6, 12, 50)),
        4, "boot Linux 6.17 or later, or run no guest", Tone.BAD,
    ),
    (
        replace(GOOD, bits=OFF),
        4, "echo 0 > /sys/devices/cpu/freeze_on_smi; then 1; look again", Tone.BAD,
    ),
    (
        replace(GOOD, bits=OFF, is_virtual=True),
        4, "run on bare metal: this is a virtual machine", Tone.BAD,
    ),
    (replace(GOOD, bits=NO_MSR), 4, "modprobe msr", Tone.OPEN),
    (replace(GOOD, fix=UNKNOWN), 4, "kvmtest run: it shows if guests keep it", Tone.OPEN),
    (
        replace(GOOD, smis=LONG),
        4, "do this and that, and then find somebody who does the …", Tone.OPEN,
    ),
    (replace(GOOD, smis=Missing("it broke")), 4, "get what is missing", Tone.OPEN),
    (replace(GOOD, knob_path=None, knob=NO_MSR), 4, "modprobe msr", Tone.OPEN),
    (AMD, 4, "count SMIs beside it: kvmtest smi watch", Tone.OPEN),
    (replace(AMD, smis=LONG), 4, "count SMIs beside, once that is possible", Tone.OPEN),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "at", "words", "tone"), ANSWERS)
def test_an_answer_says_what_was_seen(seen: Pollution, at: int, words: str, tone: Tone) -> None:
    answer = seen.answers[at]
    assert (answer.words, answer.tone) == (words, tone)


#: The widest answers: a hybrid CPU's knob, and perf's name of AMD's event.
WIDE = replace(
    OLD,
    knob=0,
    knob_path="/sys/devices/cpu_core/freeze_on_smi",
    smis=Smis({0: 100, 1: 1000}, 3600, "perf event cpu/event=0x2b/"),
)


@pytest.mark.parametrize("seen", [WIDE, replace(WIDE, knob=1, bits=OFF), *(a[0] for a in ANSWERS)])
def test_an_answer_fits_its_line_of_80_columns(seen: Pollution) -> None:
    room = 80 - len("freeze_on_smi  ") - len(" (see 10)")
    assert len(seen.answers) == 5
    assert [len(a.words) for a in seen.answers if len(a.words) > room + 9 * (not a.missing)] == []


def test_what_keeps_an_answer_from_being_a_better_one_is_named() -> None:
    assert list(replace(GOOD, bits=NO_MSR, smis=LONG).missing) == [NO_MSR, LONG]
    (unknown,) = replace(GOOD, fix=UNKNOWN).missing
    assert unknown.what.endswith("can't be seen: these types do not describe KVM")
    assert list(GOOD.missing) == []


def test_the_readme_s_sample_is_what_is_said() -> None:
    smis = {cpu: 2 * (cpu == 3) for cpu in range(16)}
    total = {cpu: 1840 + number for cpu, number in smis.items()}
    seen = replace(
        GOOD, fix=ABSENT, version=(6, 1, 140), smis=Smis(smis, 1.0002, "MSR 0x34", total)
    )
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "".join(f"{a.question:<15}{a.words}\n" for a in seen.answers) in readme


# A look at a machine


def host(root: Path, *, bit: int = 1, btf: bytes = FIXED, knob: int = 1) -> Machine:
    """Return an Intel host whose MSRs have the bit, and have counted nine SMIs."""
    tree = intel_host(root, btf=btf, knob=knob)
    msrs = bytearray(IA32_PERF_CAPABILITIES + 8)
    msrs[MSR_SMI_COUNT] = 9
    msrs[IA32_DEBUGCTL : IA32_DEBUGCTL + 8] = (bit * IA32_DEBUGCTL_FREEZE_WHILE_SMM).to_bytes(
        8, "little"
    )
    write(tree, "/dev/cpu/0/msr", bytes(msrs))
    return Machine(tree)


def test_a_good_host_has_nothing_to_do(tmp_path: Path) -> None:
    seen = observed(host(tmp_path), 0.01)
    assert [answer.tone for answer in seen.answers if answer.tone is Tone.BAD] == []
    assert seen.answers[4].words == "nothing: kvmtest run would prove it"
    assert isinstance(seen.smis, Smis)
    assert (seen.smis.by_cpu, seen.smis.since_reset) == ({0: 0, 1: 0}, {0: 9, 1: 9})
    assert seen.smis.seconds >= 0.01


def test_smis_are_those_of_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, look = host(tmp_path), pollution._seen

    def look_while_smis_come(machine: Machine, smis: Smis | Missing) -> Pollution:
        device = machine.tree.path("/dev/cpu/0/msr")
        msrs = bytearray(device.read_bytes())
        msrs[MSR_SMI_COUNT] += 3
        device.write_bytes(msrs)
        return look(machine, smis)

    monkeypatch.setattr(pollution, "_seen", look_while_smis_come)
    words = observed(machine, 0.01).answers[3].words
    assert words.startswith("3 a CPU in 0.0")
    assert words.endswith(" s (MSR 0x34); 12 since reset")


def test_a_count_that_fails_is_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, look = host(tmp_path), pollution._seen

    def look_while_a_cpu_goes(machine: Machine, smis: Smis | Missing) -> Pollution:
        machine.tree.path("/dev/cpu/1").unlink(missing_ok=True)
        return look(machine, smis)

    monkeypatch.setattr(pollution, "_seen", look_while_a_cpu_goes)
    smis = observed(machine, 0.01).smis
    assert isinstance(smis, Missing)
    assert smis.what.startswith("SMIs could not be counted: can't read MSR 0x34")


def test_without_msrs_nothing_is_claimed_of_them_nor_of_smis(tmp_path: Path) -> None:
    machine = host(tmp_path)
    machine.tree.path("/dev/cpu/0/msr").unlink()
    seen = observed(machine, 0.01)
    assert [answer.words for answer in seen.answers] == [
        "on",
        "unknown: module msr is not loaded",
        "kept: this kernel has the fix (types)",
        "not counted: module msr is not loaded",
        "modprobe msr",
    ]
    whats = [missing.what for missing in seen.missing]
    assert whats[0] == NO_MSR.what
    assert whats[1].startswith("nothing counts SMIs: ")


def test_the_kernel_s_state_is_that_of_inspection(tmp_path: Path) -> None:
    assert observed(host(tmp_path / "old", btf=UNFIXED), 0).fix.state is State.ABSENT
    machine = host(tmp_path / "none", btf=b"")
    seen = observed(machine, 0)
    assert seen.fix.state is State.UNKNOWN
    assert seen.answers[2].missing
    assert "see" in seen.answers[2].missing.what


def test_in_a_lab_s_machine_types_are_enough(tmp_path: Path) -> None:
    machine = host(tmp_path, btf=UNFIXED)
    vars(machine)["lab"] = LabFacts("emulator", "a CPU", "1")
    seen = observed(machine, 0)
    assert (seen.fix.state, seen.fix.evidence) == (State.ABSENT, (Evidence.TYPES,))


@pytest.mark.parametrize("is_lab", [False, True])
def test_a_virtual_machine_s_smis_are_its_own_unless_a_lab_emulates_it(
    tmp_path: Path, is_lab: bool
) -> None:
    tree = host(tmp_path).tree
    cpus = tree.path("/proc/cpuinfo")
    cpus.write_text(cpus.read_text().replace("flags\t\t: msr", "flags\t\t: hypervisor msr"))
    machine = Machine(tree)
    if is_lab:
        vars(machine)["lab"] = LabFacts("emulator", "a CPU", "1")
    seen = observed(machine, 0.01)
    assert seen.is_virtual != is_lab
    assert (" of this VM in " in seen.answers[3].words) != is_lab


def test_a_knob_that_is_none_is_no_answer(tmp_path: Path) -> None:
    machine = host(tmp_path)
    write(machine.tree, KNOB, "Y\n")
    answer = observed(machine, 0).answers[0]
    assert answer.words == f"unknown: {KNOB} says 'Y', …"
    assert answer.missing
    assert "says 'Y'" in answer.missing.what
