"""c_helpers/bochs/counted.cc: what the emulator tells of its CPUs is what their counters count."""

from pathlib import Path
from shutil import copy
from typing import Any

import cffi
import pytest
from support.bochs_part import needs_compiler, shared_object

pytestmark = needs_compiler

FIXED0, FIXED_CONTROL, GLOBAL_CONTROL = 0x309, 0x38D, 0x38F
SMI_COUNT, DEBUGCTL, SMI_PERIOD = 0x34, 0x1D9, 0x4B500000
INSTRUCTIONS_ENABLE = 1 << 32
FREEZE = 1 << 14
NOT_OURS, REFUSED, DONE = -1, 0, 1
# VMCS fields, and bits of the controls (SDM volume 3, appendix B and chapter 25)
ENTRY_CONTROLS, EXIT_CONTROLS = 0x4012, 0x400C
GUEST_DEBUGCTL, GUEST_GLOBAL_CONTROL, HOST_GLOBAL_CONTROL = 0x2802, 0x2808, 0x2C04
DEBUG_CONTROLS, LOAD_GLOBAL_ENTRY, LOAD_GLOBAL_EXIT = 1 << 2, 1 << 13, 1 << 12
ENTRY_FAILED = 1 << 31
# Levels as a fixed counter's control has them: 1 kernel, 2 user, 3 both.
KERNEL, USER, BOTH = 1, 2, 3

# The emulator's loop, by the same macros: each step of it is one more in a CPU's count.
DRIVER = """
#include "emulator.h"
#include "instrument.h"

extern "C" {
void begin(unsigned how_many)
{
	stand_in_make_cpus(how_many);
	for (unsigned i = 0; i < how_many; i++)
		BX_INSTR_INITIALIZE(i);
}
int registered(void) { return SIM->get_bochs_root()->items.size(); }
void execute(unsigned cpu, unsigned instructions, unsigned cpl)
{
	BX_INSTR_TRACE(cpu, cpl);
	BX_CPU(cpu)->icount += instructions;
}
void fault(unsigned cpu)
{
	BX_CPU(cpu)->icount++;
	BX_INSTR_FAULT(cpu);
}
void repeat(unsigned cpu, unsigned iterations)
{
	for (; iterations > 1; iterations--) {
		BX_CPU(cpu)->icount++;
		BX_INSTR_REPEAT_AGAIN(cpu);
	}
	BX_CPU(cpu)->icount++;
}
void set_field(unsigned cpu, unsigned field, uint64_t value) { BX_CPU(cpu)->vmcs[field] = value; }
uint64_t get_field(unsigned cpu, unsigned field) { return BX_CPU(cpu)->vmcs[field]; }
void enter_guest(unsigned cpu, bool event_exits)
{
	BX_INSTR_VMENTRY(cpu);
	if (event_exits)
		fault(cpu);
	else
		BX_CPU(cpu)->icount++;
}
void leave_guest(unsigned cpu, uint32_t reason)
{
	BX_INSTR_VMEXIT(cpu, reason, 0);
	BX_INSTR_LOAD_HOST(cpu);
	fault(cpu);
}
void enter_smm(unsigned cpu)
{
	BX_INSTR_ENTER_SMM(cpu);
	BX_INSTR_IN_SMM(cpu);
}
void resume(unsigned cpu)
{
	BX_INSTR_RSM(cpu);
	BX_CPU(cpu)->icount++;
}
uint32_t smbase(unsigned cpu) { return BX_CPU(cpu)->smbase; }
bool rdpmc(unsigned cpu, uint32_t counter, uint64_t *value)
{
	return BX_INSTR_RDPMC(cpu, counter, value);
}
int read_msr(unsigned cpu, uint32_t index, uint64_t *value)
{
	return BX_INSTR_READ_MSR(cpu, index, value);
}
int write_msr(unsigned cpu, uint32_t index, uint64_t value)
{
	return BX_INSTR_WRITE_MSR(cpu, index, value);
}
}
"""
DECLARATIONS = """
void begin(unsigned how_many);
int registered(void);
void execute(unsigned cpu, unsigned instructions, unsigned cpl);
void fault(unsigned cpu);
void repeat(unsigned cpu, unsigned iterations);
void set_field(unsigned cpu, unsigned field, uint64_t value);
uint64_t get_field(unsigned cpu, unsigned field);
void enter_guest(unsigned cpu, _Bool event_exits);
void leave_guest(unsigned cpu, uint32_t reason);
void enter_smm(unsigned cpu);
void resume(unsigned cpu);
uint32_t smbase(unsigned cpu);
_Bool rdpmc(unsigned cpu, uint32_t counter, uint64_t *value);
int read_msr(unsigned cpu, uint32_t index, uint64_t *value);
int write_msr(unsigned cpu, uint32_t index, uint64_t value);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counted") / "counted.so"
    return shared_object(path, DRIVER, "counted.cc", "pmu.c", "smi.cc", "state.cc")


class Machine:
    """Two CPUs whose instructions are counted, on the levels that it is told."""

    def __init__(self, library: Path) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        self.lib: Any = self.ffi.dlopen(str(library))
        self.value = self.ffi.new("uint64_t *")
        self.lib.begin(2)

    def count(self, levels: int, cpu: int = 0) -> None:
        self.write(FIXED_CONTROL, levels, cpu)
        self.write(GLOBAL_CONTROL, INSTRUCTIONS_ENABLE, cpu)

    def counted(self, cpu: int = 0) -> int:
        return self.read(FIXED0, cpu)

    def write(self, msr: int, value: int, cpu: int = 0) -> None:
        assert self.lib.write_msr(cpu, msr, value) == DONE

    def read(self, msr: int, cpu: int = 0) -> int:
        assert self.lib.read_msr(cpu, msr, self.value) == DONE
        return int(self.value[0])


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(copy(library, tmp_path))


def test_each_instruction_is_counted_once_on_the_level_that_it_ran_on(machine: Machine) -> None:
    machine.lib.execute(0, 1000, 0)
    machine.count(USER)
    for instructions, level in ((30, 0), (4, 3), (500, 0), (7, 3)):
        machine.lib.execute(0, instructions, level)
    assert machine.counted() == 11
    machine.write(FIXED_CONTROL, KERNEL)
    machine.lib.execute(0, 60, 0)
    machine.lib.execute(0, 9, 3)
    assert machine.counted() == 71


def test_each_cpu_has_counters_of_its_own(machine: Machine) -> None:
    for cpu in (0, 1):
        machine.count(BOTH, cpu)
    machine.lib.execute(0, 5, 0)
    machine.lib.execute(1, 70, 0)
    assert [machine.counted(0), machine.counted(1)] == [5, 70]


def test_a_step_that_retires_nothing_is_not_counted(machine: Machine) -> None:
    machine.count(BOTH)
    machine.lib.execute(0, 10, 0)
    machine.lib.fault(0)
    machine.lib.execute(0, 10, 0)
    assert machine.counted() == 20


def test_a_repeated_instruction_is_counted_once(machine: Machine) -> None:
    machine.count(BOTH)
    machine.lib.repeat(0, 100)
    assert machine.counted() == 1


def test_rdpmc_reads_what_has_been_counted_by_then_and_only_where_there_is_a_counter(
    machine: Machine,
) -> None:
    machine.count(BOTH)
    machine.lib.execute(0, 10, 0)
    assert machine.lib.rdpmc(0, 1 << 30, machine.value)
    assert machine.value[0] == 10
    assert not machine.lib.rdpmc(0, 9, machine.value)
    assert machine.value[0] == 10


@pytest.mark.parametrize("event_exits", [False, True])
def test_a_vm_entry_is_an_instruction_of_the_host_even_if_an_event_exits_at_once(
    machine: Machine, event_exits: bool
) -> None:
    machine.lib.set_field(0, ENTRY_CONTROLS, LOAD_GLOBAL_ENTRY)
    machine.lib.set_field(0, EXIT_CONTROLS, LOAD_GLOBAL_EXIT)
    machine.lib.set_field(0, HOST_GLOBAL_CONTROL, INSTRUCTIONS_ENABLE)
    machine.count(BOTH)
    machine.lib.execute(0, 10, 0)
    machine.lib.enter_guest(0, event_exits)
    # What the guest does is not counted: its VMCS loads 0.
    machine.lib.execute(0, 500, 3)
    machine.lib.leave_guest(0, 0)
    machine.lib.execute(0, 7, 0)
    assert machine.counted() == 10 + 1 + 7


def test_what_a_guest_did_is_counted_up_to_its_exit(machine: Machine) -> None:
    machine.lib.set_field(0, ENTRY_CONTROLS, LOAD_GLOBAL_ENTRY)
    machine.lib.set_field(0, GUEST_GLOBAL_CONTROL, INSTRUCTIONS_ENABLE)
    machine.lib.set_field(0, EXIT_CONTROLS, LOAD_GLOBAL_EXIT)
    machine.count(BOTH)
    machine.write(GLOBAL_CONTROL, 0)
    machine.lib.execute(0, 10, 0)
    machine.lib.enter_guest(0, False)
    machine.lib.execute(0, 500, 3)
    # The instruction that exits does not retire.
    machine.lib.leave_guest(0, 0)
    machine.lib.execute(0, 7, 0)
    assert machine.counted() == 500


def test_debugctl_is_loaded_from_the_vmcs_and_saved_to_it(machine: Machine) -> None:
    machine.lib.set_field(0, ENTRY_CONTROLS, DEBUG_CONTROLS)
    machine.lib.set_field(0, EXIT_CONTROLS, DEBUG_CONTROLS)
    machine.lib.set_field(0, GUEST_DEBUGCTL, FREEZE)
    machine.lib.enter_guest(0, False)
    assert machine.read(DEBUGCTL) == FREEZE
    machine.write(DEBUGCTL, FREEZE | 1)
    machine.lib.leave_guest(0, 0)
    assert machine.lib.get_field(0, GUEST_DEBUGCTL) == FREEZE | 1
    assert machine.read(DEBUGCTL) == 0


@pytest.mark.parametrize(("controls", "reason"), [(0, 0), (DEBUG_CONTROLS, ENTRY_FAILED | 33)])
def test_debugctl_is_not_saved_unless_asked_for_nor_by_an_entry_that_failed(
    machine: Machine, controls: int, reason: int
) -> None:
    machine.lib.set_field(0, EXIT_CONTROLS, controls)
    machine.lib.set_field(0, GUEST_DEBUGCTL, 1)
    machine.write(DEBUGCTL, FREEZE)
    machine.lib.leave_guest(0, reason)
    assert machine.lib.get_field(0, GUEST_DEBUGCTL) == 1
    assert machine.read(DEBUGCTL) == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_smm_is_counted_with_the_rsm_that_ends_it_unless_it_is_frozen(
    machine: Machine, frozen: bool
) -> None:
    machine.count(BOTH)
    machine.write(DEBUGCTL, FREEZE if frozen else 0)
    machine.lib.execute(0, 100, 3)
    machine.lib.enter_smm(0)
    machine.lib.execute(0, 20, 0)
    machine.lib.resume(0)
    machine.lib.execute(0, 3, 3)
    assert machine.counted() == (103 if frozen else 124)
    assert machine.read(SMI_COUNT) == 1


def test_a_cpu_gets_its_place_in_smram_when_it_enters_smm(machine: Machine) -> None:
    before = machine.lib.smbase(1)
    machine.lib.enter_smm(1)
    assert machine.lib.smbase(1) == before
    machine.write(0x4B500004, 1)
    machine.lib.resume(1)
    machine.lib.enter_smm(1)
    assert machine.lib.smbase(1) not in (before, machine.lib.smbase(0))


def test_msrs_are_the_smis_or_the_counters_or_the_emulators(machine: Machine) -> None:
    machine.write(SMI_PERIOD, 5000)
    assert machine.read(SMI_PERIOD, cpu=1) == 5000
    assert machine.lib.write_msr(0, SMI_PERIOD, 1) == REFUSED
    assert machine.lib.write_msr(0, DEBUGCTL, 1 << 63) == REFUSED
    machine.value[0] = 17
    assert machine.lib.read_msr(0, 0xC0000080, machine.value) == NOT_OURS
    assert machine.lib.write_msr(0, 0xC0000080, 1) == NOT_OURS
    assert machine.value[0] == 17


def test_what_is_saved_is_named_once_whatever_the_number_of_cpus(machine: Machine) -> None:
    assert machine.lib.registered() == 1
