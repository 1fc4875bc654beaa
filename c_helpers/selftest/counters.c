/* SPDX-License-Identifier: GPL-2.0-only */
/* What counts what, and the lines that say what was counted. */
#include "parts.h"

#define INSTRUCTIONS 0xc0ull
#define CYCLES       0x3cull
#define USR          BIT(16)
#define OS           BIT(17)
#define ENABLE       BIT(22)

void zero_counters(void)
{
	static const uint64_t selects[] = { INSTRUCTIONS | USR | OS, INSTRUCTIONS | USR, INSTRUCTIONS | OS,
					    CYCLES | USR | OS };

	wrmsr(MSR_GLOBAL_CONTROL, 0);
	for (uint32_t i = 0; i < 4; i++) {
		wrmsr(MSR_PERFEVTSEL0 + i, selects[i] | ENABLE);
		wrmsr(MSR_A_PMC0 + i, 0);
	}
	for (uint32_t i = 0; i < 3; i++)
		wrmsr(MSR_FIXED_CTR0 + i, 0);
	wrmsr(MSR_FIXED_CTR_CTRL, 0x333);
}

void report_counters(const char *name)
{
	report(name, ".all", rdmsr(MSR_PMC0));
	report(name, ".usr", rdmsr(MSR_PMC0 + 1));
	report(name, ".os", rdmsr(MSR_PMC0 + 2));
	report(name, ".fixed", rdmsr(MSR_FIXED_CTR0));
}

void report_cycles(const char *name)
{
	report(name, ".cycles", rdmsr(MSR_PMC0 + 3));
	report(name, ".fixed-cycles", rdmsr(MSR_FIXED_CTR0 + 1));
	report(name, ".reference-cycles", rdmsr(MSR_FIXED_CTR0 + 2));
}

void count(const char *name, void (*counted)(void))
{
	zero_counters();
	counted();
	report_counters(name);
}
