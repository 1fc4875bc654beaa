"""c_helpers/bochs/smi.c, the lab's source of SMIs: when they come, and what its MSRs take."""

from pathlib import Path
from shutil import copy, which
from typing import Any

import cffi
import pytest
from bochs_part import shared_object

PERIOD, RAISED = 0x4B500000, 0x4B500001
ALWAYS = 1 << 63
DONE, REFUSED, NOT_OURS = 1, 0, -1

pytestmark = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")

# The source with a CPU and a timer of the test's.
SOURCE = """
#include <string.h>
#include "build.h"
#undef HIDDEN
#define HIDDEN
#include "smi.c"

struct counted counted[MAX_CPUS];
static char cpu[0xa000];
uint64_t ticks; /* of the timer, which runs once; 0: it does not run */
int delivered;

static int add(void) { return 7; }
static void run(void *system, unsigned timer, uint64_t after, bool repeats)
{
	ticks = timer == 7 && !repeats ? after : -1;
}
static void stop(void) { ticks = 0; }
static void deliver(void *to) { delivered += to == cpu; }

void *cpus_get(unsigned number) { return number ? NULL : cpu; }
bool bochs_is_known(void) { return true; }
void *hook_symbol(const char *name)
{
	if (strstr(name, "register_timer"))
		return add;
	if (strstr(name, "deactivate_timer"))
		return stop;
	if (strstr(name, "activate_timer"))
		return run;
	return strstr(name, "deliver_SMI") ? deliver : NULL;
}

void set_mode(bool in_guest, bool in_smm, bool has_paging)
{
	counted[0].pmu.in_guest = in_guest;
	counted[0].pmu.in_smm = in_smm;
	AT(uint32_t, cpu, CR0) = has_paging ? CR0_PG : ~CR0_PG;
}
void expire(void) { ticks = 0; fire(NULL); }
"""
DECLARATIONS = """
extern uint64_t ticks;
extern int delivered;
void set_mode(_Bool in_guest, _Bool in_smm, _Bool has_paging);
void expire(void);
void smi_begin(void);
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
    lib.smi_begin()
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
    source.set_mode(in_guest, in_smm, has_paging)
    source.expire()
    assert (source.delivered, read(source, RAISED)) == (comes, comes)
    assert source.ticks  # for the next


@pytest.mark.parametrize(
    ("cpu", "msr", "value"),
    [(0, PERIOD, 999), (0, PERIOD, ALWAYS), (0, PERIOD, (1 << 40) + 1), (1, PERIOD, 5000),
     (1, PERIOD, 0), (0, RAISED, 0)],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(source: Any, cpu: int, msr: int, value: int) -> None:
    source.smi_write_msr(0, PERIOD, 2000)
    assert source.smi_write_msr(cpu, msr, value) == REFUSED
    assert (read(source, PERIOD), read(source, RAISED)) == (2000, 0)


def test_other_msrs_are_not_its_own(source: Any) -> None:
    assert source.smi_write_msr(0, RAISED + 1, 1) == NOT_OURS
    assert source.smi_read_msr(RAISED + 1, cffi.FFI().new("uint64_t *")) == NOT_OURS
