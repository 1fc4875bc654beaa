"""c_helpers/bochs/smi.cc, the lab's SMIs: when they come, to whom, and what handles them."""

from pathlib import Path
from shutil import copy
from typing import Any

import cffi
import pytest
from support.bochs_part import needs_compiler, shared_object

PERIOD, RAISED, TURNS = 0x4B500000, 0x4B500001, 0x4B500004
ALWAYS = 1 << 63
DONE, REFUSED, NOT_OURS = 1, 0, -1

pytestmark = needs_compiler

# CPUs in modes of the test's, and an assembler's handler.
DRIVER = """
#include "emulator.h"
#include "instrument.h"
#include "smi.h"

struct counted counted[MAX_CPUS];

asm(".pushsection .rodata; .code16; .globl assembled, assembled_end;"
    "assembled: mov $0x12345, %ecx; 1: dec %ecx; jnz 1b; ljmp $0xa000, $0x8000;"
    "assembled_end: .code64; .popsection");

extern "C" {
extern const char assembled[], assembled_end[];

void begin(unsigned how_many)
{
	stand_in_make_cpus(how_many);
	for (unsigned i = 0; i < how_many; i++)
		BX_CPU(i)->smbase = i ? 0x30000 : 0xa0000;
	smi_initialize();
}
void set_mode(unsigned i, bool in_guest, bool in_smm, bool has_paging)
{
	counted[i].pmu.in_guest = in_guest;
	counted[i].pmu.in_smm = in_smm;
	BX_CPU(i)->cr0.val32 = has_paging ? 1u << 31 : ~(1u << 31);
}
uint64_t ticks(void) { return bx_pc_system.ticks; }
void expire(void)
{
	bx_pc_system.ticks = 0;
	bx_pc_system.handler(NULL);
}
int delivered(unsigned i) { return BX_CPU(i)->smis; }
int written(void) { return bx_mem.writes; }
uint32_t enter(unsigned i)
{
	smi_relocate(i);
	smi_write_handler(i);
	return BX_CPU(i)->smbase;
}
int handler_size(void) { return assembled_end - assembled; }
bool is_as_assembled(uint32_t address)
{
	const Bit8u *written = bx_mem.smram + address - bx_mem.base;
	size_t size = handler_size();

	return size == bx_mem.last_size && !memcmp(written, assembled, size);
}
int smi_read(uint32_t index, uint64_t *value) { return smi_read_msr(index, value); }
int smi_write(unsigned cpu, uint32_t index, uint64_t value)
{
	return smi_write_msr(cpu, index, value);
}
}
"""
DECLARATIONS = """
void begin(unsigned how_many);
void set_mode(unsigned i, _Bool in_guest, _Bool in_smm, _Bool has_paging);
uint64_t ticks(void);
void expire(void);
int delivered(unsigned i);
int written(void);
uint32_t enter(unsigned i);
int handler_size(void);
_Bool is_as_assembled(uint32_t address);
int smi_read(uint32_t index, uint64_t *value);
int smi_write(unsigned cpu, uint32_t index, uint64_t value);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_object(tmp_path_factory.mktemp("smi") / "smi.so", DRIVER, "smi.cc")


@pytest.fixture
def source(library: Path, tmp_path: Path) -> Any:
    """A source of its own for each test, which has begun."""
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    lib = ffi.dlopen(str(copy(library, tmp_path)))
    lib.begin(1)
    return lib


def read(source: Any, msr: int) -> int:
    value = cffi.FFI().new("uint64_t *")
    assert source.smi_read(msr, value) == DONE
    return int(value[0])


def test_it_is_off_at_first_and_can_be_switched_off(source: Any) -> None:
    assert (read(source, PERIOD), source.ticks()) == (0, 0)
    assert source.smi_write(0, PERIOD, 5000) == DONE
    assert read(source, PERIOD) == 5000
    assert source.ticks()
    assert source.smi_write(0, PERIOD, 0) == DONE
    assert source.ticks() == 0


def test_distances_vary_about_the_period(source: Any) -> None:
    source.smi_write(0, PERIOD, 10_000)
    distances = []
    for _ in range(2000):
        distances.append(source.ticks())
        source.expire()
    assert min(distances) >= 5_000
    assert max(distances) < 15_000
    assert sum(distances) / len(distances) == pytest.approx(10_000, rel=0.03)
    assert len(set(distances)) > 1500


@pytest.mark.parametrize(
    ("always", "in_guest", "in_smm", "has_paging", "comes"),
    [
        (False, True, False, True, True),
        (False, False, False, True, False),
        (False, True, True, True, False),
        (False, True, False, False, False),
        (True, True, False, True, True),
        (True, False, False, True, True),
        (True, False, False, False, True),
        (True, False, True, True, False),
        (True, True, False, False, False),
    ],
)
def test_an_smi_comes_where_it_may(
    source: Any, always: bool, in_guest: bool, in_smm: bool, has_paging: bool, comes: bool
) -> None:
    source.smi_write(0, PERIOD, 5000 | ALWAYS * always)
    source.set_mode(0, in_guest, in_smm, has_paging)
    source.expire()
    assert (source.delivered(0), read(source, RAISED)) == (comes, comes)
    assert source.ticks()  # for the next


def has_come(source: Any, cpus: int = 20) -> list[int]:
    return [source.delivered(cpu) for cpu in range(cpus)]


def test_without_a_handler_of_the_labs_only_cpu_0_gets_any(source: Any) -> None:
    source.begin(2)
    source.smi_write(0, PERIOD, 5000 | ALWAYS)
    source.expire()
    assert has_come(source, 2) == [1, 0]
    assert (source.enter(0), source.enter(1), source.written()) == (0xA0000, 0x30000, 0)


def test_with_it_every_cpu_gets_each_that_it_may_get(source: Any) -> None:
    source.begin(4)
    assert source.smi_write(0, TURNS, 1) == DONE
    source.smi_write(0, PERIOD, 5000)
    source.set_mode(1, True, False, True)
    source.set_mode(2, True, True, True)
    source.set_mode(3, True, False, True)
    source.expire()
    assert (has_come(source, 4), read(source, RAISED)) == ([0, 1, 0, 1], 1)
    for cpu in (1, 3):
        source.set_mode(cpu, False, False, True)
    source.expire()
    assert (has_come(source, 4), read(source, RAISED)) == ([0, 1, 0, 1], 1)


def test_cpus_for_which_smram_has_no_place_get_none(source: Any) -> None:
    source.begin(20)
    source.smi_write(0, TURNS, 1)
    source.smi_write(0, PERIOD, 5000 | ALWAYS)
    source.expire()
    assert has_come(source) == [1] * 16 + [0] * 4
    assert (source.enter(16), source.written()) == (0x30000, 0)


def test_each_cpu_has_a_place_in_smram_and_the_handler_that_was_asked_for(source: Any) -> None:
    source.begin(16)
    assert source.smi_write(0, TURNS, 0x12345) == DONE
    assert read(source, TURNS) == 0x12345
    # What of SMRAM is the BIOS's handler, each CPU's, and each CPU's saved state.
    used = {0xA8000 + byte for byte in range(0x40)}
    for cpu in range(16):
        base = source.enter(cpu)
        assert source.is_as_assembled(base + 0x8000)
        for begin, size in ((base + 0x8000, source.handler_size()), (base + 0xFE00, 0x200)):
            place = set(range(begin, begin + size))
            assert not place & used
            assert 0xA0000 <= begin < begin + size <= 0xC0000
            used |= place


@pytest.mark.parametrize(
    ("cpu", "msr", "value"),
    [(0, PERIOD, 999), (0, PERIOD, ALWAYS), (0, PERIOD, (1 << 40) + 1), (1, PERIOD, 5000),
     (1, PERIOD, 0), (0, RAISED, 0), (0, TURNS, 0), (0, TURNS, (1 << 20) + 1), (1, TURNS, 1)],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(source: Any, cpu: int, msr: int, value: int) -> None:
    source.smi_write(0, PERIOD, 2000)
    source.smi_write(0, TURNS, 1 << 20)
    assert source.smi_write(cpu, msr, value) == REFUSED
    assert [read(source, msr) for msr in (PERIOD, RAISED, TURNS)] == [2000, 0, 1 << 20]


def test_other_msrs_are_not_its_own(source: Any) -> None:
    assert source.smi_write(0, RAISED + 1, 1) == NOT_OURS
    assert source.smi_read(RAISED + 1, cffi.FFI().new("uint64_t *")) == NOT_OURS
