"""c_helpers/bochs/pmu.c, the model of the lab's counters: what counts, and what switches it."""

import re
from pathlib import Path

import cffi
import pytest
from support.bochs_part import BOCHS, needs_compiler, shared_object

from kvmtest.lab.emulators.bochs.built import PMU

PMC0, SELECT0, FIXED0 = 0xC1, 0x186, 0x309
SMI_COUNT, DEBUGCTL, FIXED_CONTROL = 0x34, 0x1D9, 0x38D
GLOBAL_STATUS, GLOBAL_CONTROL, GLOBAL_INUSE = 0x38E, 0x38F, 0x392
STATUS_RESET, STATUS_SET = 0x390, 0x391
A_PMC0 = 0x4C1
DEAD, STUCK = 0x4B500002, 0x4B500003

USR, OS, ENABLE = 1 << 16, 1 << 17, 1 << 22
INSTRUCTIONS, CYCLES, REFERENCE = 0x00C0, 0x003C, 0x013C
EVERYTHING = 0x7_0000_000F
FREEZE, LBR = 1 << 14, 1
IN_GUEST, IN_SMM = 1, 2

pytestmark = needs_compiler

# The model alone, as a library: without the emulator, whose functions it does not call.
DRIVER = """
#include <cstddef>
#include "pmu.h"
extern "C" {
size_t pmu_size(void) { return sizeof(struct pmu); }
void pmu_set_level(struct pmu *pmu, int cpl) { pmu->cpl = cpl; }
int pmu_level(struct pmu *pmu) { return pmu->cpl; }
int pmu_mode(struct pmu *pmu) { return pmu->in_guest | pmu->in_smm << 1; }
}
"""
DECLARATIONS = """
size_t pmu_size(void);
void pmu_set_level(void *pmu, int cpl);
int pmu_level(void *pmu);
int pmu_mode(void *pmu);
void pmu_advance(void *pmu, uint64_t cycles, uint64_t instructions);
int pmu_read_msr(const void *pmu, uint32_t index, uint64_t *value);
int pmu_write_msr(void *pmu, uint32_t index, uint64_t value);
_Bool pmu_read_counter(const void *pmu, uint32_t index, uint64_t *value);
struct pmu_switch { uint32_t controls; uint64_t debugctl; uint64_t global_control; };
void pmu_enter_guest(void *pmu, const struct pmu_switch *to);
struct pmu_saved { _Bool has_debugctl, has_global_control; uint64_t debugctl, global_control; };
struct pmu_saved pmu_save_guest(const void *pmu, uint32_t controls, _Bool entry_failed);
void pmu_load_host(void *pmu, const struct pmu_switch *to);
void pmu_enter_smm(void *pmu);
void pmu_leave_smm(void *pmu);
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_object(tmp_path_factory.mktemp("pmu") / "pmu.so", DRIVER, "pmu.c")


class Cpu:
    """A CPU that does as many instructions, in twice as many cycles, as it is told."""

    def __init__(self, library: Path) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        self.lib = self.ffi.dlopen(str(library))
        self.pmu = self.ffi.new("char[]", self.lib.pmu_size())
        self.value = self.ffi.new("uint64_t *")
        self.done = 0

    def run(self, instructions: int, *, cpl: int = 0) -> None:
        self.lib.pmu_set_level(self.pmu, cpl)
        self.done += instructions
        self.lib.pmu_advance(self.pmu, 2 * self.done, self.done)

    def read(self, msr: int) -> int:
        assert self.lib.pmu_read_msr(self.pmu, msr, self.value) == 1
        return int(self.value[0])

    def write(self, msr: int, value: int) -> int:
        return int(self.lib.pmu_write_msr(self.pmu, msr, value))

    def rdpmc(self, index: int) -> int | None:
        there = self.lib.pmu_read_counter(self.pmu, index, self.value)
        return int(self.value[0]) if there else None

    def enter(self, controls: int, debugctl: int = 0, global_control: int = 0) -> None:
        to = self.ffi.new("struct pmu_switch *", (controls, debugctl, global_control))
        self.lib.pmu_enter_guest(self.pmu, to)

    def leave(self, controls: int, global_control: int = 0, *, failed: bool = False) -> int | None:
        saved = self.save(controls, failed=failed)
        to = self.ffi.new("struct pmu_switch *", (controls, 0, global_control))
        self.lib.pmu_load_host(self.pmu, to)
        return saved

    def save(self, controls: int, *, failed: bool = False) -> int | None:
        """Do the first step of a VM-exit; return the DEBUGCTL that is saved."""
        saved = self.lib.pmu_save_guest(self.pmu, controls, failed)
        return int(saved.debugctl) if saved.has_debugctl else None

    def saved_global_control(self, controls: int, *, failed: bool = False) -> int | None:
        """Do the first step of a VM-exit; return the IA32_PERF_GLOBAL_CTRL that is saved."""
        saved = self.lib.pmu_save_guest(self.pmu, controls, failed)
        return int(saved.global_control) if saved.has_global_control else None

    def count(self, *events: int) -> None:
        """Have the first counters count events, and the fixed ones at any level."""
        for i, event in enumerate(events):
            assert self.write(SELECT0 + i, event | ENABLE) == 1
        assert self.write(FIXED_CONTROL, 0x333) == 1
        assert self.write(GLOBAL_CONTROL, EVERYTHING) == 1

    def general(self, number: int) -> list[int]:
        return [self.read(PMC0 + i) for i in range(number)]

    def fixed(self) -> list[int]:
        return [self.read(FIXED0 + i) for i in range(3)]


@pytest.fixture
def cpu(model: Path) -> Cpu:
    return Cpu(model)


def test_each_counter_counts_its_event(cpu: Cpu) -> None:
    cpu.count(INSTRUCTIONS | OS, CYCLES | OS, REFERENCE | OS, 0x01C2 | OS)
    cpu.run(100)
    assert cpu.general(4) == [100, 200, 200, 0]
    assert cpu.fixed() == [100, 200, 200]
    assert [cpu.rdpmc(i) for i in (0, 3, 4)] == [100, 0, None]
    assert [cpu.rdpmc((1 << 30) + i) for i in (0, 2, 3)] == [100, 200, None]
    assert cpu.read(GLOBAL_STATUS) == 0
    assert cpu.read(GLOBAL_INUSE) == EVERYTHING


def test_a_counter_is_in_use_where_it_has_an_event(cpu: Cpu) -> None:
    assert cpu.read(GLOBAL_INUSE) == 0
    cpu.write(SELECT0 + 1, INSTRUCTIONS)
    cpu.write(FIXED_CONTROL, 0x200)
    assert cpu.read(GLOBAL_INUSE) == 1 << 34 | 1 << 1


def test_it_is_known_what_runs(cpu: Cpu) -> None:
    """For the source of SMIs, and to count what comes after a VM-exit as the host's kernel's."""
    cpu.enter(0)
    cpu.run(1, cpl=3)
    assert cpu.lib.pmu_mode(cpu.pmu) == IN_GUEST
    cpu.lib.pmu_enter_smm(cpu.pmu)
    assert cpu.lib.pmu_mode(cpu.pmu) == IN_GUEST | IN_SMM
    cpu.lib.pmu_leave_smm(cpu.pmu)
    assert cpu.lib.pmu_mode(cpu.pmu) == IN_GUEST
    cpu.leave(0)
    assert (cpu.lib.pmu_mode(cpu.pmu), cpu.lib.pmu_level(cpu.pmu)) == (0, 0)


def test_user_and_kernel_mode_are_told_apart(cpu: Cpu) -> None:
    cpu.count(*(INSTRUCTIONS | mode for mode in (USR, OS, USR | OS, 0)))
    cpu.write(FIXED_CONTROL, 0x321)
    cpu.run(3, cpl=3)
    cpu.run(40)
    cpu.run(500, cpl=3)
    assert cpu.general(4) == [503, 40, 543, 0]
    assert cpu.fixed() == [40, 2 * 503, 2 * 543]


@pytest.mark.parametrize("bit", [18, 23, 24, 31], ids=["edge", "inverted", "mask 1", "mask 128"])
def test_what_is_not_modelled_counts_nothing(cpu: Cpu, bit: int) -> None:
    cpu.count(INSTRUCTIONS | OS | 1 << bit)
    cpu.run(5)
    assert cpu.general(1) == [0]


def test_a_counter_needs_its_own_enable_and_the_global_one(cpu: Cpu) -> None:
    cpu.count(INSTRUCTIONS | OS, INSTRUCTIONS | OS)
    cpu.write(SELECT0, INSTRUCTIONS | OS)
    cpu.write(GLOBAL_CONTROL, EVERYTHING & ~(1 << 32))
    cpu.run(5)
    cpu.write(GLOBAL_CONTROL, 1)
    cpu.run(70)
    assert cpu.general(2) == [0, 5]
    assert cpu.fixed() == [0, 10, 10]


def test_counters_have_48_bits_and_are_written_with_32(cpu: Cpu) -> None:
    cpu.write(PMC0, 0xFFFF_FFFE)
    cpu.write(FIXED0, (1 << 48) - 1)
    assert cpu.general(1) == [(1 << 48) - 2]
    cpu.count(INSTRUCTIONS | OS)
    cpu.run(3)
    assert (cpu.general(1), cpu.fixed()[0]) == ([1], 2)


def test_a_counters_other_msr_is_the_same_counter_and_written_with_48_bits(cpu: Cpu) -> None:
    for i in range(4):
        assert cpu.write(A_PMC0 + i, 0xFFFF_0000_0000 + i) == 1
    assert cpu.general(4) == [0xFFFF_0000_0000 + i for i in range(4)]
    assert [cpu.rdpmc(i) for i in range(4)] == cpu.general(4)
    cpu.write(PMC0 + 1, 7)
    assert cpu.read(A_PMC0 + 1) == 7
    cpu.count(INSTRUCTIONS | OS)
    cpu.run(3)
    assert cpu.read(A_PMC0) == 0xFFFF_0000_0003


def test_overflows_that_are_put_into_the_status_stay_until_they_are_reset(cpu: Cpu) -> None:
    assert cpu.write(STATUS_SET, 1 << 33 | 5) == 1
    assert cpu.write(STATUS_SET, 1 << 62) == 1
    assert cpu.read(GLOBAL_STATUS) == 1 << 62 | 1 << 33 | 5
    assert cpu.write(STATUS_RESET, 1 << 63 | 1 << 33 | 2) == 1
    assert cpu.read(GLOBAL_STATUS) == 1 << 62 | 5
    assert (cpu.read(STATUS_RESET), cpu.read(STATUS_SET)) == (0, 0)


REFUSED = [
    *((DEBUGCTL, 1 << bit) for bit in (2, 5, 16, 63)),
    *((SMI_COUNT, 0), (GLOBAL_STATUS, 0), (GLOBAL_INUSE, 0), (FIXED0, 1 << 48)),
    *((SELECT0, 1 << 32), (FIXED_CONTROL, 1 << 12), (GLOBAL_CONTROL, 1 << 4)),
    *((GLOBAL_CONTROL, 1 << 35), (DEAD, 2), (STUCK, 2), (A_PMC0, 1 << 48)),
    *((STATUS_SET, 1 << 63), (STATUS_SET, 1 << 4), (STATUS_RESET, 1 << 35)),
]


@pytest.mark.parametrize(("msr", "value"), REFUSED)
def test_reserved_bits_and_writes_of_what_is_read_only_are_refused(
    cpu: Cpu, msr: int, value: int
) -> None:
    before = cpu.read(msr)
    assert cpu.write(msr, value) == 0
    assert cpu.read(msr) == before


@pytest.mark.parametrize("msr", [0xC0, PMC0 + 4, SELECT0 + 4, FIXED0 + 3, 0x345, 0x4C0, A_PMC0 + 4])
def test_other_msrs_are_left_to_the_emulator(cpu: Cpu, msr: int) -> None:
    assert cpu.lib.pmu_read_msr(cpu.pmu, msr, cpu.value) == -1
    assert cpu.write(msr, 0) == -1


def test_vm_entry_loads_and_vm_exit_saves_and_clears_debugctl(cpu: Cpu) -> None:
    cpu.write(DEBUGCTL, LBR)
    cpu.enter(0, FREEZE)
    assert cpu.read(DEBUGCTL) == LBR
    assert cpu.leave(0) is None
    assert cpu.read(DEBUGCTL) == 0
    cpu.enter(1 << 2, FREEZE)
    assert cpu.read(DEBUGCTL) == FREEZE
    assert cpu.leave(1 << 2) == FREEZE
    assert cpu.read(DEBUGCTL) == 0
    cpu.write(DEBUGCTL, FREEZE)
    assert cpu.leave(1 << 2, failed=True) is None
    assert cpu.read(DEBUGCTL) == 0


def test_vm_entry_and_vm_exit_load_the_global_control_if_told(cpu: Cpu) -> None:
    cpu.count(INSTRUCTIONS | OS)
    cpu.enter(0, global_control=0)
    cpu.run(1)
    cpu.leave(0, global_control=0)
    cpu.run(1)
    assert cpu.general(1) == [2]
    cpu.enter(1 << 13, global_control=0)
    cpu.run(5)
    cpu.leave(1 << 12, global_control=1)
    cpu.run(1)
    assert (cpu.general(1), cpu.fixed()[0]) == ([3], 2)


def test_a_vm_exit_stores_msrs_while_they_are_the_guests(cpu: Cpu) -> None:
    """KVM has IA32_PERF_GLOBAL_CTRL stored where the CPU has no control that saves it."""
    cpu.enter(1 << 13 | 1 << 2, debugctl=FREEZE, global_control=EVERYTHING)
    assert cpu.save(1 << 2) == FREEZE
    assert (cpu.read(GLOBAL_CONTROL), cpu.read(DEBUGCTL)) == (EVERYTHING, FREEZE)
    assert cpu.leave(1 << 12, global_control=0) is None
    assert (cpu.read(GLOBAL_CONTROL), cpu.read(DEBUGCTL)) == (0, 0)


@pytest.mark.parametrize("frozen", [False, True])
def test_smm_is_counted_unless_debugctl_freezes_it(cpu: Cpu, frozen: bool) -> None:
    debugctl = LBR | FREEZE * frozen
    cpu.count(INSTRUCTIONS | OS)
    cpu.write(DEBUGCTL, debugctl)
    cpu.run(100)
    cpu.lib.pmu_enter_smm(cpu.pmu)
    assert cpu.read(GLOBAL_CONTROL) == (0 if frozen else EVERYTHING)
    assert cpu.read(DEBUGCTL) == (FREEZE if frozen else LBR)
    cpu.run(11)
    cpu.lib.pmu_leave_smm(cpu.pmu)
    cpu.run(100)
    assert cpu.general(1) == [200 if frozen else 211]
    assert (cpu.read(GLOBAL_CONTROL), cpu.read(DEBUGCTL)) == (EVERYTHING, debugctl)
    assert cpu.read(SMI_COUNT) == 1


def test_an_instruction_counted_before_its_end_is_counted_once(cpu: Cpu) -> None:
    cpu.count(INSTRUCTIONS | OS)
    for steps, counted in ((11, 11), (10, 11), (11, 11), (12, 12)):
        cpu.lib.pmu_advance(cpu.pmu, steps, steps)
        assert (cpu.general(1), cpu.fixed()) == ([counted], [counted] * 3)


def test_dead_counters_keep_their_values(cpu: Cpu) -> None:
    cpu.count(INSTRUCTIONS | OS)
    cpu.run(5)
    cpu.write(DEAD, 1)
    cpu.run(60)
    assert (cpu.general(1), cpu.fixed()[0]) == ([5], 5)
    cpu.write(DEAD, 0)
    cpu.run(1)
    assert (cpu.general(1), cpu.fixed()[0]) == ([6], 6)


def test_a_stuck_debugctl_swallows_what_is_written(cpu: Cpu) -> None:
    cpu.write(STUCK, 1)
    assert cpu.write(DEBUGCTL, FREEZE) == 1
    assert cpu.read(DEBUGCTL) == 0
    cpu.write(STUCK, 0)
    cpu.write(DEBUGCTL, FREEZE)
    assert cpu.read(DEBUGCTL) == FREEZE


def test_evidence_names_the_version_and_the_switch_that_the_model_has() -> None:
    header = (BOCHS / "pmu.h").read_text()
    version = re.search(r"#define PMU_VERSION (\d+)", header)
    period = re.search(r"MSR_LAB_SMI_PERIOD = (0x\w+)", header)
    assert version
    assert PMU["pmu"] == f"kvmtest's model, version {version[1]}"
    assert period
    assert PMU["smi_source_msr"] == int(period[1], 16)


def test_vm_exit_saves_global_control_where_its_control_says_so(cpu: Cpu) -> None:
    cpu.write(GLOBAL_CONTROL, 0x1_0000_0003)
    assert cpu.saved_global_control(1 << 30) == 0x1_0000_0003
    assert cpu.saved_global_control(1 << 2) is None
    assert cpu.saved_global_control(1 << 30, failed=True) is None
