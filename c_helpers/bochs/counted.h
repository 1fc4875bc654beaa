/* SPDX-License-Identifier: GPL-2.0-only */
/* The emulated CPUs' counters. */
#ifndef KVMTEST_BOCHS_COUNTED_H
#define KVMTEST_BOCHS_COUNTED_H

#include "pmu.h"

#define MAX_CPUS 255

struct counted {
	struct pmu pmu;
	uint64_t unretired;  /* steps of the emulator that retired no instruction: a fault, a REP that goes on */
	uint64_t retires_at; /* the count of steps after an instruction that retires even if it faults: VM-entry */
};

extern struct counted counted[MAX_CPUS];

/* After a step that ended in a fault or a VM-exit; ``steps``: the CPU's, with this one. */
static inline void counted_fault(unsigned cpu, uint64_t steps)
{
	if (steps != counted[cpu].retires_at)
		counted[cpu].unretired++;
}

/* Count what a CPU has done so far. */
void counted_advance(unsigned cpu);

#endif
