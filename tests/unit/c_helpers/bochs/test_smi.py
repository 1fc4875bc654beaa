"""c_helpers/bochs/smi.c, the lab's SMIs: when they come, to whom, and what handles them."""

from pathlib import Path
from shutil import copy, which
from typing import Any

import cffi
import pytest
from support.bochs_part import shared_object

PERIOD, RAISED, TURNS = 0x4B500000, 0x4B500001, 0x4B500004
ALWAYS = 1 << 63
DONE, REFUSED, NOT_OURS = 1, 0, -1

pytestmark = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")

# The source with CPUs, memory, a timer, and an assembler's handler of the test's.
SOURCE = """
#include <stdlib.h>
#include <string.h>
#include "build.h"
#undef HIDDEN
#define HIDDEN
#include "smi.c"

#define CPUS 20

struct counted counted[MAX_CPUS];
static char cpus[CPUS][0xa000];
unsigned number = 1;
uint64_t ticks; /* of the timer, which runs once; 0: it does not run */
int delivered[CPUS];
char smram[0x20000];
int written;

asm(".pushsection .rodata; .code16; .globl assembled, assembled_end;"
    "assembled: mov $0x12345, %ecx; 1: dec %ecx; jnz 1b; ljmp $0xa000, $0x8000;"
    "assembled_end: .code64; .popsection");
extern const char assembled[], assembled_end[];

static int add(void) { return 7; }
static void run(void *system, unsigned timer, uint64_t after, bool repeats)
{
	ticks = timer == 7 && !repeats ? after : -1;
}
static void stop(void) { ticks = 0; }
static void deliver(void *to) { delivered[AT(uint32_t, to, NUMBER)]++; }
static void write(void *cpu, uint64_t address, unsigned size, const void *bytes)
{
	if (cpu != cpus[AT(uint32_t, cpu, NUMBER)])
		abort();
	memcpy(smram + address - 0xa0000, bytes, size);
	written++;
}

unsigned cpus_number(void) { return number; }
void *cpus_get(unsigned i) { return cpus[i]; }
bool bochs_is_known(void) { return true; }
void *hook_symbol(const char *name)
{
	if (strstr(name, "register_timer"))
		return add;
	if (strstr(name, "deactivate_timer"))
		return stop;
	if (strstr(name, "activate_timer"))
		return run;
	if (strstr(name, "writePhysicalPage"))
		return write;
	return strstr(name, "deliver_SMI") ? deliver : NULL;
}

void begin(unsigned how_many)
{
	number = how_many;
	for (unsigned i = 0; i < CPUS; i++) {
		AT(uint32_t, cpus[i], NUMBER) = i;
		AT(uint32_t, cpus[i], SMBASE) = i ? 0x30000 : 0xa0000;
	}
	smi_begin();
}
void set_mode(unsigned i, bool in_guest, bool in_smm, bool has_paging)
{
	counted[i].pmu.in_guest = in_guest;
	counted[i].pmu.in_smm = in_smm;
	AT(uint32_t, cpus[i], CR0) = has_paging ? CR0_PG : ~CR0_PG;
}
void expire(void) { ticks = 0; fire(NULL); }
uint32_t enter(unsigned i)
{
	smi_relocate(cpus[i]);
	smi_write_handler(cpus[i]);
	return AT(uint32_t, cpus[i], SMBASE);
}
bool is_as_assembled(uint32_t address)
{
	size_t size = assembled_end - assembled;

	return size == sizeof(struct handler) && !memcmp(smram + address - 0xa0000, assembled, size);
}
"""
DECLARATIONS = """
extern uint64_t ticks;
extern int delivered[20], written;
void begin(unsigned how_many);
void set_mode(unsigned i, _Bool in_guest, _Bool in_smm, _Bool has_paging);
void expire(void);
uint32_t enter(unsigned i);
_Bool is_as_assembled(uint32_t address);
int smi_read_msr(uint32_t index, uint64_t *value);
int smi_write_msr(unsigned number, uint32_t index, uint64_t value);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_object(tmp_path_factory.mktemp("smi") / "smi.so", SOURCE)


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
    assert source.smi_read_msr(msr, value) == DONE
    return int(value[0])


def test_it_is_off_at_first_and_can_be_switched_off(source: Any) -> None:
    assert (read(source, PERIOD), source.ticks) == (0, 0)
    assert source.smi_write_msr(0, PERIOD, 5000) == DONE
    assert read(source, PERIOD) == 5000
    assert source.ticks
    assert source.smi_write_msr(0, PERIOD, 0) == DONE
    assert source.ticks == 0


def test_distances_vary_about_the_period(source: Any) -> None:
    source.smi_write_msr(0, PERIOD, 10_000)
    distances = []
    for _ in range(2000):
        distances.append(source.ticks)
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
    source.smi_write_msr(0, PERIOD, 5000 | ALWAYS * always)
    source.set_mode(0, in_guest, in_smm, has_paging)
    source.expire()
    assert (source.delivered[0], read(source, RAISED)) == (comes, comes)
    assert source.ticks  # for the next


def has_come(source: Any, cpus: int = 20) -> list[int]:
    return [source.delivered[cpu] for cpu in range(cpus)]


def test_without_a_handler_of_the_labs_only_cpu_0_gets_any(source: Any) -> None:
    source.begin(2)
    source.smi_write_msr(0, PERIOD, 5000 | ALWAYS)
    source.expire()
    assert has_come(source, 2) == [1, 0]
    assert (source.enter(0), source.enter(1), source.written) == (0xA0000, 0x30000, 0)


def test_with_it_every_cpu_gets_each_that_it_may_get(source: Any) -> None:
    source.begin(4)
    assert source.smi_write_msr(0, TURNS, 1) == DONE
    source.smi_write_msr(0, PERIOD, 5000)
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
    source.smi_write_msr(0, TURNS, 1)
    source.smi_write_msr(0, PERIOD, 5000 | ALWAYS)
    source.expire()
    assert has_come(source) == [1] * 16 + [0] * 4
    assert (source.enter(16), source.written) == (0x30000, 0)


def test_each_cpu_has_a_place_in_smram_and_the_handler_that_was_asked_for(source: Any) -> None:
    source.begin(16)
    assert source.smi_write_msr(0, TURNS, 0x12345) == DONE
    assert read(source, TURNS) == 0x12345
    # What of SMRAM is the BIOS's handler, each CPU's, and each CPU's saved state.
    used = {0xA8000 + byte for byte in range(0x40)}
    for cpu in range(16):
        base = source.enter(cpu)
        assert source.is_as_assembled(base + 0x8000)
        for begin, size in ((base + 0x8000, 15), (base + 0xFE00, 0x200)):
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
    source.smi_write_msr(0, PERIOD, 2000)
    source.smi_write_msr(0, TURNS, 1 << 20)
    assert source.smi_write_msr(cpu, msr, value) == REFUSED
    assert [read(source, msr) for msr in (PERIOD, RAISED, TURNS)] == [2000, 0, 1 << 20]


def test_other_msrs_are_not_its_own(source: Any) -> None:
    assert source.smi_write_msr(0, RAISED + 1, 1) == NOT_OURS
    assert source.smi_read_msr(RAISED + 1, cffi.FFI().new("uint64_t *")) == NOT_OURS
