/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The BIOS gives CPU 0 alone a place for SMM, and its handler is some ten instructions: no other CPU may get an
 * SMI. The lab's own handler is as long as it is asked to be, and each CPU has a place for it: then an SMI is for
 * all CPUs, as a chipset's is. The CPU executes it, in SMM, like the BIOS's, to which it jumps at its end.
 *
 * An SMI comes after half a period to one and a half, one as probable as the other: a period of its own could keep
 * step with the guest's or the kernel's timers, and all SMIs would come at the same place, or where they are not
 * wanted. The numbers are the same in each run, and are saved with the machine.
 */
#include "emulator.h"

#include "instrument.h"
#include "smi.h"

#define ALWAYS      (1ull << 63)
#define MIN_PERIOD  1000ull /* ticks: with less the machine would do little else */
#define MAX_PERIOD  (1ull << 40)
#define TIMER_NAME  "kvmtest's SMIs"
#define MAX_TURNS   (1ull << 20) /* two instructions each */

/*
 * SMRAM is 0xa0000 to 0xbffff. A CPU begins at SMBASE + HANDLER, and saves its state up to SMBASE + 0x10000; the
 * first page is the BIOS's.
 */
#define OWN_SMBASE(number) (0xa1000u + 0x1000u * (number))
#define HANDLER            0x8000
#define MAX_SMI_CPUS       16u

/* In a mode of 16 bits, as SMM begins. */
struct handler {
	uint8_t set_count[2]; /* mov ecx, turns */
	uint32_t turns;
	uint8_t turn_and_leave[9]; /* dec ecx; jnz to that; jmp 0xa000:HANDLER */
} __attribute__((packed));

struct smi_source smi_source = { 0, 0, 1, 0 };

static unsigned timer;

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
		bx_pc_system.activate_timer_ticks(timer, period / 2 + next_random() % period, false);
	else
		bx_pc_system.deactivate_timer(timer);
}

/* The emulator's RSM ends a guest that runs without paging by a triple fault. */
static bool may_come(unsigned cpu)
{
	const struct pmu *pmu = &counted[cpu].pmu;

	if (pmu->in_smm)
		return false;
	return pmu->in_guest ? BX_CPU(cpu)->cr0.get_PG() : smi_source.period & ALWAYS;
}

static unsigned takers(void)
{
	unsigned most = smi_source.turns ? MAX_SMI_CPUS : 1, cpus = BX_SMP_PROCESSORS;

	return cpus < most ? cpus : most;
}

static void fire(void *)
{
	bool is_raised = false;

	for (unsigned cpu = 0; cpu < takers(); cpu++) {
		if (!may_come(cpu))
			continue;
		is_raised = true;
		BX_CPU(cpu)->deliver_SMI();
	}
	smi_source.raised += is_raised;
	start();
}

static bool has_own_handler(unsigned cpu)
{
	return smi_source.turns && cpu < MAX_SMI_CPUS;
}

void smi_relocate(unsigned cpu)
{
	if (has_own_handler(cpu))
		BX_CPU(cpu)->smbase = OWN_SMBASE(cpu);
}

void smi_write_handler(unsigned cpu)
{
	struct handler handler = {
		{ 0x66, 0xb9 },
		static_cast<uint32_t>(smi_source.turns),
		{ 0x66, 0x49, 0x75, 0xfc, 0xea, HANDLER & 0xff, HANDLER >> 8, 0x00, 0xa0 },
	};

	if (has_own_handler(cpu))
		BX_MEM(0)->writePhysicalPage(BX_CPU(cpu), BX_CPU(cpu)->smbase + HANDLER, sizeof(handler), &handler);
}

void smi_initialize(void)
{
	timer = bx_pc_system.register_timer_ticks(NULL, fire, MIN_PERIOD, false, false, TIMER_NAME);
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
	case MSR_LAB_SMI_TURNS:
		*value = smi_source.turns;
		return MSR_DONE;
	default:
		return MSR_NOT_OURS;
	}
}

static enum msr_answer set_period(uint64_t value)
{
	uint64_t period = value & ~ALWAYS;

	if (value && (period < MIN_PERIOD || period > MAX_PERIOD))
		return MSR_REFUSED;
	smi_source.period = value;
	start();
	return MSR_DONE;
}

/* Never 0 again: a CPU that has been given a place stays there. */
static enum msr_answer set_turns(uint64_t turns)
{
	if (!turns || turns > MAX_TURNS)
		return MSR_REFUSED;
	smi_source.turns = turns;
	return MSR_DONE;
}

enum msr_answer smi_write_msr(unsigned cpu, uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_LAB_SMI_PERIOD:
		return cpu ? MSR_REFUSED : set_period(value);
	case MSR_LAB_SMIS_RAISED:
		return MSR_REFUSED;
	case MSR_LAB_SMI_TURNS:
		return cpu ? MSR_REFUSED : set_turns(value);
	default:
		return MSR_NOT_OURS;
	}
}
