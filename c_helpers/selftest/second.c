/* SPDX-License-Identifier: GPL-2.0-only */
/* The second CPU, which counts what it is told to. */
#include "parts.h"

#define PATIENCE 200000 /* turns of a loop */

/* What the second CPU is to do, and did. */
static struct {
	volatile uint32_t is_ready, command;
	uint64_t all, usr, os, fixed, turns, smis, debugctl;
} second;

int has_second(void)
{
	return second.is_ready;
}

static void second_do(enum command command)
{
	uint64_t smis = rdmsr(MSR_SMI_COUNT);

	wrmsr(MSR_DEBUGCTL, command == COUNT_UNTIL_STOPPED_FROZEN ? FREEZE_WHILE_SMM : 0);
	zero_counters();
	second.turns = 0;
	if (command == COUNT_STRAIGHT)
		count_straight();
	else
		second.turns = count_until_stopped();
	second.all = rdmsr(MSR_PMC0);
	second.usr = rdmsr(MSR_PMC0 + 1);
	second.os = rdmsr(MSR_PMC0 + 2);
	second.fixed = rdmsr(MSR_FIXED_CTR0);
	second.smis = rdmsr(MSR_SMI_COUNT) - smis;
	second.debugctl = rdmsr(MSR_DEBUGCTL);
}

_Noreturn void second_main(void);
_Noreturn void second_main(void)
{
	load_tables(1);
	second.is_ready = 1;
	for (;;) {
		if (second.command == IDLE)
			continue;
		second_do(second.command);
		second.command = IDLE;
	}
}

/* By INIT and SIPI to all but this one; in a machine of one CPU nobody answers. */
void start_second(void)
{
	copy_code(TRAMPOLINE, trampoline, trampoline_end);
	*apic(0xf0) = 0x1ff;
	*apic(0x300) = 0xc4500;
	*apic(0x300) = 0xc4600 | TRAMPOLINE >> 12;
	for (unsigned i = 0; i < PATIENCE && !second.is_ready; i++)
		__asm__ volatile("pause");
	report("cpus", "", 1 + second.is_ready);
}

void second_begin(enum command command)
{
	second_counts = 0;
	second.command = command;
	while (command != COUNT_STRAIGHT && !second_counts)
		__asm__ volatile("pause");
}

void second_end(const char *name)
{
	second_counts = 0;
	while (second.command != IDLE)
		__asm__ volatile("pause");
	report(name, ".all", second.all);
	report(name, ".usr", second.usr);
	report(name, ".os", second.os);
	report(name, ".fixed", second.fixed);
	if (!second.turns)
		return;
	report(name, ".turns", second.turns);
	report(name, ".smis", second.smis);
	report(name, ".debugctl", second.debugctl);
}
