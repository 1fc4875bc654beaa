/* SPDX-License-Identifier: GPL-2.0-only */
/* A source of SMIs for CPU 0, as a chipset's timer is one; switched by MSRs of the lab (enum lab_msr). */
#ifndef KVMTEST_BOCHS_SMI_H
#define KVMTEST_BOCHS_SMI_H

#include "pmu.h"

struct smi_source {
	uint64_t period; /* as MSR_LAB_SMI_PERIOD has it */
	uint64_t raised;
	uint64_t random;
};

HIDDEN extern struct smi_source smi_source;

/* Before the first instruction. */
HIDDEN void smi_begin(void);

HIDDEN enum msr_answer smi_read_msr(uint32_t index, uint64_t *value);

/* By the CPU ``number``. */
HIDDEN enum msr_answer smi_write_msr(unsigned number, uint32_t index, uint64_t value);

#endif
