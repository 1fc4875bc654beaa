/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A source of SMIs, as a chipset's timer is one, and a handler, as firmware has one; switched by MSRs of the lab
 * (enum lab_msr).
 */
#ifndef KVMTEST_BOCHS_SMI_H
#define KVMTEST_BOCHS_SMI_H

#include "pmu.h"

struct smi_source {
	uint64_t period; /* as MSR_LAB_SMI_PERIOD has it */
	uint64_t raised;
	uint64_t random;
	uint64_t turns; /* as MSR_LAB_SMI_TURNS has it */
};

HIDDEN extern struct smi_source smi_source;

/* Before the first instruction. */
HIDDEN void smi_begin(void);

HIDDEN enum msr_answer smi_read_msr(uint32_t index, uint64_t *value);

/* By the CPU ``number``. */
HIDDEN enum msr_answer smi_write_msr(unsigned number, uint32_t index, uint64_t value);

/* Before a CPU enters SMM: give it a place of its own there, if there is a handler of the lab's. */
HIDDEN void smi_relocate(void *cpu);

/* When it has entered: write the handler, if there is one, where the CPU goes on. */
HIDDEN void smi_write_handler(void *cpu);

#endif
