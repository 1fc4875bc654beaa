/* SPDX-License-Identifier: GPL-2.0-only */
/* The emulated CPUs' counters: what the loop over instructions must tell them. */
#ifndef KVMTEST_BOCHS_CPU_H
#define KVMTEST_BOCHS_CPU_H

#include "places.h"
#include "pmu.h"

#define MAX_CPUS 255

struct counted {
	struct pmu pmu;
	uint64_t unretired;  /* steps of the loop that retired no instruction: a fault, a REP that goes on */
	uint64_t retires_at; /* the COUNT after an instruction that retires even if it faults: VM-entry */
};

HIDDEN extern struct counted counted[MAX_CPUS];

static inline struct counted *counted_of(void *cpu)
{
	return &counted[AT(uint32_t, cpu, NUMBER)];
}

/* Count what a CPU has done so far. */
HIDDEN void cpu_advance(void *cpu);

/* Count what a CPU did at the privilege level that it has left. */
HIDDEN void cpu_change_level(void *cpu);

/* Before the first instruction: begin to count where the CPUs are, booted or restored. */
HIDDEN void cpus_begin(void);

/* How many CPUs there are, and one of them. */
HIDDEN unsigned cpus_number(void);
HIDDEN void *cpus_get(unsigned number);

#endif
