/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the lab adds to a machine is saved and restored with it, in the emulator's own way: a list of parameters
 * "kvmtest", a file of that name in the folder of a saved machine.
 */
#include "emulator.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "instrument.h"
#include "smi.h"
#include "state.h"

/* As they were saved; 0 in a machine that was not. */
static Bit32u version, cpus;
static Bit64u sum;

/* Of all that is added to a machine: by Fowler, Noll and Vo (FNV-1a), over 64-bit words */
static Bit64u sum_now(void)
{
	Bit64u now = 0xcbf29ce484222325;
	const uint64_t *words = reinterpret_cast<const uint64_t *>(&smi_source);

	for (size_t i = 0; i < sizeof(smi_source) / sizeof(*words); i++)
		now = (now ^ words[i]) * 0x100000001b3;
	words = reinterpret_cast<const uint64_t *>(counted);
	for (size_t i = 0; i < BX_SMP_PROCESSORS * sizeof(*counted) / sizeof(*words); i++)
		now = (now ^ words[i]) * 0x100000001b3;
	return now;
}

static void add(bx_list_c *list, const char *name, uint64_t *value)
{
	new bx_shadow_num_c(list, name, reinterpret_cast<Bit64u *>(value), BASE_HEX);
}

static void add_array(bx_list_c *list, const char *name, uint64_t *values, unsigned count)
{
	bx_list_c *inner = new bx_list_c(list, name);

	for (unsigned i = 0; i < count; i++)
		add(inner, std::to_string(i).c_str(), &values[i]);
}

static void add_cpu(bx_list_c *parent, unsigned number)
{
	struct counted *one = &counted[number];
	struct pmu *pmu = &one->pmu;
	bx_list_c *list = new bx_list_c(parent, ("cpu" + std::to_string(number)).c_str());

	add(list, "unretired", &one->unretired);
	add(list, "retires_at", &one->retires_at);
	add(list, "cycles", &pmu->cycles);
	add(list, "instructions", &pmu->instructions);
	add_array(list, "general", pmu->general, PMU_GENERAL);
	add_array(list, "select", pmu->select, PMU_GENERAL);
	add_array(list, "fixed", pmu->fixed, PMU_FIXED);
	add(list, "fixed_control", &pmu->fixed_control);
	add(list, "global_control", &pmu->global_control);
	add(list, "global_status", &pmu->global_status);
	add(list, "debugctl", &pmu->debugctl);
	add(list, "frozen_global_control", &pmu->frozen_global_control);
	add(list, "frozen_debugctl", &pmu->frozen_debugctl);
	new bx_shadow_num_c(list, "smi_count", &pmu->smi_count);
	new bx_shadow_num_c(list, "cpl", &pmu->cpl);
	new bx_shadow_bool_c(list, "in_guest", &pmu->in_guest);
	new bx_shadow_bool_c(list, "in_smm", &pmu->in_smm);
	new bx_shadow_bool_c(list, "is_frozen", &pmu->is_frozen);
	new bx_shadow_bool_c(list, "has_dead_counters", &pmu->has_dead_counters);
	new bx_shadow_bool_c(list, "has_stuck_debugctl", &pmu->has_stuck_debugctl);
}

/* A machine with another model's counters, with damaged ones or without any is not gone on with. */
static void check(void *, bx_list_c *)
{
	if (version != PMU_VERSION || cpus != BX_SMP_PROCESSORS)
		BX_PANIC(("the saved machine has counters of version %u for %u CPUs, not %u for %u", version, cpus,
			  PMU_VERSION, BX_SMP_PROCESSORS));
	if (sum != sum_now())
		BX_PANIC(("the saved machine's counters are damaged"));
}

void state_before_save(void)
{
	for (unsigned cpu = 0; cpu < BX_SMP_PROCESSORS; cpu++)
		counted_advance(cpu);
	version = PMU_VERSION;
	cpus = BX_SMP_PROCESSORS;
	sum = sum_now();
}

void state_register(void)
{
	bx_list_c *list = new bx_list_c(SIM->get_bochs_root(), "kvmtest");

	new bx_shadow_num_c(list, "version", &version);
	new bx_shadow_num_c(list, "cpus", &cpus);
	new bx_shadow_num_c(list, "sum", &sum, BASE_HEX);
	add(list, "smi_period", &smi_source.period);
	add(list, "smis_raised", &smi_source.raised);
	add(list, "smi_random", &smi_source.random);
	add(list, "smi_turns", &smi_source.turns);
	for (unsigned i = 0; i < BX_SMP_PROCESSORS; i++)
		add_cpu(list, i);
	list->set_restore_handler(NULL, check);
}

/* Memory that a machine never wrote to takes no place in the file. */
#define BLOCK 0x10000u

static bool is_zero(const Bit8u *data, size_t size)
{
	return !size || (!data[0] && !memcmp(data, data + 1, size - 1));
}

static bool write_at(int file, const Bit8u *data, size_t size, off_t place)
{
	while (size) {
		ssize_t written = pwrite(file, data, size, place);

		if (written <= 0)
			return false;
		data += written;
		size -= written;
		place += written;
	}
	return true;
}

bool state_write_data(const char *path, const Bit8u *data, size_t size)
{
	int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool done = file >= 0 && !ftruncate(file, size);

	for (size_t at = 0; done && at < size; at += BLOCK) {
		size_t length = size - at < BLOCK ? size - at : BLOCK;

		if (!is_zero(data + at, length))
			done = write_at(file, data + at, length, at);
	}
	return file >= 0 && !close(file) && done;
}

static bool read_at(int file, Bit8u *data, size_t size, off_t place)
{
	while (size) {
		ssize_t got = pread(file, data, size, place);

		if (got <= 0)
			return false;
		data += got;
		size -= got;
		place += got;
	}
	return true;
}

/* Pages that nothing has touched yet are zero without the host's memory being filled with zeroes. */
static bool clear(Bit8u *data, size_t size)
{
	const uintptr_t page = sysconf(_SC_PAGESIZE), start = reinterpret_cast<uintptr_t>(data);
	uintptr_t first = (start + page - 1) & -page, end = (start + size) & -page;

	if (end <= first) {
		memset(data, 0, size);
		return true;
	}
	memset(data, 0, first - start);
	memset(reinterpret_cast<void *>(end), 0, start + size - end);
	return !madvise(reinterpret_cast<void *>(first), end - first, MADV_DONTNEED);
}

bool state_read_data(const char *path, Bit8u *data, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	struct stat is;
	bool done = file >= 0 && !fstat(file, &is) && is.st_size == static_cast<off_t>(size) && clear(data, size);

	for (off_t at = 0; done && (at = lseek(file, at, SEEK_DATA)) >= 0;) {
		off_t end = lseek(file, at, SEEK_HOLE);

		done = end > at && read_at(file, data + at, end - at, at);
		at = end;
	}
	if (file >= 0)
		close(file);
	return done;
}
