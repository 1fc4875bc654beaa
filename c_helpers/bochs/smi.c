/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The BIOS gives CPU 0 alone a place for SMM, so no other CPU may get an SMI.
 *
 * One comes after half a period to one and a half, one as probable as the other: a period of its own could keep
 * step with the guest's or the kernel's timers, and all SMIs would come at the same place, or where they are not
 * wanted. The numbers are the same in each run, and are saved with the machine.
 */
#include "smi.h"

#include "cpu.h"
#include "hooks.h"

#define ALWAYS      (1ull << 63)
#define MIN_PERIOD  1000ull /* ticks: with less the machine would do little else */
#define MAX_PERIOD  (1ull << 40)
#define TIMER_NAME  "kvmtest's SMIs"
#define CR0_PG      (1u << 31)

struct smi_source smi_source = { .random = 1 };

static struct {
	int (*add)(void *system, void *object, void (*function)(void *), uint64_t ticks, bool repeats, bool starts,
		   const char *name);
	void (*start)(void *system, unsigned timer, uint64_t ticks, bool repeats);
	void (*stop)(void *system, unsigned timer);
	void (*deliver)(void *cpu);
	void *system;
	unsigned timer;
} emulator;

/* Marsaglia's xorshift */
static uint64_t next_random(void)
{
	uint64_t *x = &smi_source.random;

	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void start(void)
{
	uint64_t period = smi_source.period & ~ALWAYS;

	if (period)
		emulator.start(emulator.system, emulator.timer, period / 2 + next_random() % period, false);
	else
		emulator.stop(emulator.system, emulator.timer);
}

/* The emulator's RSM ends a guest that runs without paging by a triple fault. */
static bool may_come(void *cpu)
{
	const struct pmu *pmu = &counted_of(cpu)->pmu;

	if (pmu->in_smm)
		return false;
	return pmu->in_guest ? AT(uint32_t, cpu, CR0) & CR0_PG : smi_source.period & ALWAYS;
}

static void fire(void *unused)
{
	void *cpu = cpus_get(0);

	(void)unused;
	if (may_come(cpu)) {
		smi_source.raised++;
		emulator.deliver(cpu);
	}
	start();
}

void smi_begin(void)
{
	emulator.timer = emulator.add(emulator.system, NULL, fire, MIN_PERIOD, false, false, TIMER_NAME);
	start();
}

enum msr_answer smi_read_msr(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_LAB_SMI_PERIOD:
		*value = smi_source.period;
		return MSR_DONE;
	case MSR_LAB_SMIS_RAISED:
		*value = smi_source.raised;
		return MSR_DONE;
	default:
		return MSR_NOT_OURS;
	}
}

enum msr_answer smi_write_msr(unsigned number, uint32_t index, uint64_t value)
{
	uint64_t period = value & ~ALWAYS;

	if (index == MSR_LAB_SMIS_RAISED)
		return MSR_REFUSED;
	if (index != MSR_LAB_SMI_PERIOD)
		return MSR_NOT_OURS;
	if (number || (value && (period < MIN_PERIOD || period > MAX_PERIOD)))
		return MSR_REFUSED;
	smi_source.period = value;
	start();
	return MSR_DONE;
}

__attribute__((constructor)) static void install(void)
{
	if (!bochs_is_known())
		return;
	emulator.add = hook_symbol("_ZN14bx_pc_system_c20register_timer_ticksEPvPFvS0_EmbbPKc");
	emulator.start = hook_symbol("_ZN14bx_pc_system_c20activate_timer_ticksEjmb");
	emulator.stop = hook_symbol("_ZN14bx_pc_system_c16deactivate_timerEj");
	emulator.deliver = hook_symbol("_ZN8BX_CPU_C11deliver_SMIEv");
	emulator.system = hook_symbol("bx_pc_system");
}
